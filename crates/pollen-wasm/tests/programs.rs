//! Ordinary programs as seeds: standard input and output, arguments, exit codes, limits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Instant;

use bytes::Bytes;
use common::{Recorder, World, call, short};
use pollen_wasm::{Call, LogLevel, Reading, Sandbox, SandboxError, SeedSettings, wat_to_wasm};

/// `lines [-v] TEXT`, built from examples/wasi/lines.c.
fn lines() -> Bytes {
    Bytes::from_static(include_bytes!("../../../examples/wasi/lines.wasm"))
}

fn with_args(args: &str) -> SeedSettings {
    let mut settings = SeedSettings::new("lines");
    settings.guest.config.insert("args".into(), args.into());
    settings
}

/// The program with these arguments over an input: exit code, output, what it logged.
fn run(args: &str, input: &str) -> (i32, String, Vec<(LogLevel, String)>) {
    let world = World::new();
    let seed = world.load(lines(), with_args(args));
    let host = Recorder::new();
    let output = world.call_with(&seed, call("_start", input), host.clone()).result.unwrap();
    let text = String::from_utf8(output.bytes.to_vec()).unwrap();
    let logged = host.lines.lock().unwrap().clone();
    (output.status, text, logged)
}

/// Writes so many times 64 KiB as its input has bytes, then says so with its exit code.
const FLOOD: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 3)
    (func (export "__main_void") (result i32) i32.const 0)
    (func (export "_start") (local $left i32)
      (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 65536))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 20)))
      (local.set $left (i32.load (i32.const 20)))
      (loop $again
        (if (local.get $left) (then
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br $again))))
      (call $exit (i32.const 7))))"#;

#[test]
fn the_input_is_standard_input_and_standard_output_the_output() {
    let (status, text, logged) = run("et", "attic\nmeter\nbeet\n");
    assert_eq!((0, "meter\nbeet\n".to_owned()), (status, text));
    assert_eq!(vec![(LogLevel::Warn, "read 3 lines".to_owned())], logged);
}

#[test]
fn arguments_are_split_as_a_shell_does() {
    let (status, text, _) = run(r#"-v "a b""#, "a b c\nab\n");
    assert_eq!((0, "ab\n".to_owned()), (status, text));
}

#[test]
fn arguments_with_an_open_quote_refuse_the_seed() {
    let world = World::new();
    let load = world.sandbox.load(lines(), [1; 32], with_args("-v 'a"));
    let error: SandboxError = world.net.block_on(load).err().unwrap();
    assert_eq!("module-invalid", error.slug());
    assert!(error.remedy().contains("--config args="), "{}", error.remedy());
}

#[test]
fn any_exit_code_is_the_status_and_the_output_is_delivered() {
    let world = World::new();
    for code in [126, 255, 500, -1, i32::MIN] {
        let seed = world.wat(&FLOOD.replace("i32.const 7", &format!("i32.const {code}")));
        let output = world.call(&seed, "_start", "x").result.unwrap();
        assert_eq!((code, 64 << 10), (output.status, output.bytes.len()));
    }
}

#[test]
fn helpers_of_a_toolchain_leave_a_program_a_program() {
    let world = World::new();
    let helpers = [
        "asyncify_start_unwind",
        "asyncify_stop_unwind",
        "asyncify_start_rewind",
        "asyncify_stop_rewind",
        "asyncify_get_state",
        "stackSave",
        "stackRestore",
        "stackAlloc",
        "__errno_location",
        "emscripten_stack_init",
        "emscripten_stack_get_end",
        "fflush",
        "emscripten_stack_get_current",
        "__wasm_call_dtors",
        "__wasm_apply_data_relocs",
        "_emscripten_stack_restore",
        "__emscripten_stack_alloc",
        "__indirect_function_table_get",
    ];
    let exports: String = helpers
        .iter()
        .map(|name| format!("(func (export \"{name}\") (result i32) (i32.const 1))"))
        .collect();
    let text =
        FLOOD.replace("(func (export \"_start\")", &format!("{exports} (func (export \"_start\")"));
    let wasm = wat_to_wasm(&text).unwrap();
    assert_eq!(vec!["_start"], Sandbox::inspect(&wasm).unwrap().functions);
    let seed = world.load(wasm, SeedSettings::new("helped"));
    assert_eq!(["_start"], seed.functions());
    assert_eq!(7, world.call(&seed, "_start", "").result.unwrap().status);
}

#[test]
fn another_exit_code_is_the_status_and_the_output_is_delivered() {
    let (status, text, _) = run("x", "attic\n");
    assert_eq!((1, String::new()), (status, text));
    let (status, text, logged) = run("", "attic\n");
    assert_eq!((2, String::new()), (status, text));
    assert_eq!("usage: lines [-v] TEXT", logged[0].1);
    let world = World::new();
    let output = world.call(&world.wat(FLOOD), "_start", "ab").result.unwrap();
    assert_eq!((7, 128 << 10), (output.status, output.bytes.len()));
}

#[test]
fn every_call_has_an_instance_of_its_own_and_an_empty_input_ends_at_once() {
    let world = World::new();
    let seed = world.load(lines(), with_args("-v x"));
    for input in ["a\n", "", "b\n"] {
        assert_eq!(input, world.text(&seed, "_start", input));
    }
    let counting = world.wat(
        r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (global $count (mut i32) (i32.const 0))
        (func (export "_start")
          (global.set $count (i32.add (global.get $count) (i32.const 1)))
          (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))
          (call $exit (i32.add (global.get $count) (i32.load (i32.const 8))))))"#,
    );
    // Whether its guest was made before or within the call.
    for _ in 0..50 {
        assert_eq!(2, world.call(&counting, "_start", "").result.unwrap().status);
    }
}

#[test]
fn an_output_over_the_limit_ends_the_program() {
    let world = World::new();
    let seed = world.wat(FLOOD);
    let many = |count: usize| world.call(&seed, "_start", &"x".repeat(count)).result;
    assert_eq!(4 << 20, many(64).unwrap().bytes.len());
    let error = many(65).unwrap_err();
    assert_eq!("guest-output-too-large", error.slug());
    assert!(error.reason().contains("the limit of 4194304 bytes"), "{error}");
}

#[test]
fn outputs_are_charged_to_the_node_s_memory_and_given_back() {
    let world = World::with(|config| config.memory_bytes = 4 << 20);
    let seed = world.wat(FLOOD);
    let error = world.call(&seed, "_start", &"x".repeat(60)).result.unwrap_err();
    assert_eq!("guest-out-of-memory", error.slug());
    // What the failed call held is free again: many small ones fit, one after another.
    for _ in 0..8 {
        let output = world.call(&seed, "_start", &"x".repeat(16)).result.unwrap();
        assert_eq!(1 << 20, output.bytes.len());
    }
}

#[test]
fn a_program_s_output_is_never_a_tail_call() {
    let marker = r#"{"kind":"tail_call","uri":"pln://seed/a/b"}"#;
    let world = World::new();
    let seed = world.load(lines(), with_args("kind"));
    let output = world.call(&seed, "_start", marker).result.unwrap();
    assert_eq!((None, marker.as_bytes()), (output.tail_call, &output.bytes[..]));
}

#[test]
fn a_program_that_never_ends_meets_its_deadline() {
    let world = World::new();
    let seed = world.wat(r#"(module (func (export "_start") (loop br 0)))"#);
    let began = Instant::now();
    let call: Call = short("_start", "", 100);
    let error = world.call_with(&seed, call, Recorder::new()).result.unwrap_err();
    assert_eq!("deadline", error.slug());
    assert!(began.elapsed().as_secs() < 10);
}

#[test]
fn a_program_is_known_by_its_imports_and_has_one_function() {
    let functions = |text: &str| Sandbox::inspect(&wat_to_wasm(text).unwrap()).unwrap().functions;
    assert_eq!(["_start"].as_slice(), functions(FLOOD));
    assert_eq!(["_start"].as_slice(), Sandbox::inspect(&lines()).unwrap().functions);
    // Beside functions of a library, or with the host's own imports, it is one function of a seed.
    let library = r#"(module (func (export "_start")) (func (export "other")))"#;
    assert_eq!(["_start", "other"].as_slice(), functions(library));
    let plugin = r#"(module (import "extism:host/env" "input_length" (func (result i64)))
        (func (export "__main_void") (result i32) i32.const 0) (func (export "_start")))"#;
    assert_eq!(["__main_void", "_start"].as_slice(), functions(plugin));
}

#[test]
fn a_module_that_may_be_either_is_what_its_publisher_says() {
    let either = FLOOD.replace("(memory (export", "(func (export \"own\")) (memory (export");
    let wasm = Bytes::from(wat_to_wasm(&either).unwrap());
    let info = Sandbox::inspect(&wasm).unwrap();
    assert_eq!((3, true), (info.functions.len(), info.may_be_program));
    let world = World::new();
    let read = |reading| {
        let mut settings = SeedSettings::new("either");
        settings.guest.program = reading == Reading::Program;
        settings.guest.library = reading == Reading::Library;
        world.load(wasm.clone(), settings)
    };
    let program = read(Reading::Program);
    assert_eq!(["_start"], program.functions());
    let output = world.call(&program, "_start", "x").result.unwrap();
    assert_eq!((7, 64 << 10), (output.status, output.bytes.len()));
    for reading in [Reading::Library, Reading::AsItLooks] {
        let library = read(reading);
        assert_eq!(info.functions, library.functions());
        // What it writes goes to the log, as ever.
        assert!(world.call(&library, "own", "x").result.unwrap().bytes.is_empty());
    }
}

#[test]
fn only_a_module_of_wasi_alone_may_be_a_program() {
    let may_be = |text: &str| Sandbox::inspect(&wat_to_wasm(text).unwrap()).unwrap().may_be_program;
    assert!(may_be(FLOOD));
    // It could read no input and write no output.
    assert!(!may_be(r#"(module (func (export "_start")) (func (export "other")))"#));
    assert!(!may_be(
        r#"(module (import "extism:host/env" "input_length" (func (result i64)))
        (func (export "_start")))"#
    ));
    let reactor =
        FLOOD.replace("(memory (export", "(func (export \"_initialize\")) (memory (export");
    assert!(!may_be(&reactor));
}
