//! What is found when a module is looked at, and how it is initialised.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Recorder, World, call, example};
use pollen_wasm::{LogLevel, Sandbox, SandboxError, SeedSettings, wat_to_wasm};

fn refused(wat: &str) -> SandboxError {
    Sandbox::inspect(&wat_to_wasm(wat).unwrap()).unwrap_err()
}

#[test]
fn callable_are_functions_without_parameters_that_return_nothing_or_an_i32() {
    let wat = r#"(module (memory (export "memory") 2)
        (func (export "a")) (func (export "b") (result i32) i32.const 0)
        (func (export "c") (param i32)) (func (export "d") (result i64) i64.const 0)
        (func (export "_initialize")) (func (export "_start")))"#;
    let info = Sandbox::inspect(&wat_to_wasm(wat).unwrap()).unwrap();
    assert_eq!(["a", "b", "_start"].as_slice(), info.functions);
    let names: Vec<&str> = info.not_callable.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(["c", "d", "_initialize"].as_slice(), names);
    assert_eq!(
        "its type is (i32) -> (); callable are () -> () and () -> i32",
        info.not_callable[0].1
    );
    assert_eq!(2 << 16, info.minimum_memory_bytes);
}

#[test]
fn all_unknown_imports_are_listed_with_the_nearest_name_and_a_remedy() {
    let error = refused(
        r#"(module (import "env" "abort" (func (param i32 i32 i32 i32)))
            (import "extism:host/env" "aloc" (func (param i64) (result i64)))
            (import "env" "memory" (memory 1)))"#,
    );
    assert_eq!("import-unknown", error.slug());
    assert!(error.reason().contains("env.abort does not exist"), "{error}");
    assert!(error.reason().contains("(nearest: extism:host/env.alloc)"), "{error}");
    assert!(error.reason().contains("env.memory is a memory"), "{error}");
    assert!(error.remedy().contains("asc --use abort="), "{}", error.remedy());
}

#[test]
fn an_import_of_the_wrong_type_is_refused_with_both_types() {
    let error =
        refused(r#"(module (import "extism:host/env" "alloc" (func (param i32) (result i64))))"#);
    let expected = "the import extism:host/env.alloc has the type (i32) -> (i64); the host's is (i64) -> (i64)";
    assert_eq!(("import-unknown", expected), (error.slug(), error.reason()));
}

#[test]
fn files_that_are_no_module_say_what_they_are() {
    let whole = example("relay");
    let component = wat_to_wasm("(component)").unwrap();
    for (bytes, part) in [
        (&b""[..], "empty"),
        (b"\0as", "ends within its header"),
        (b"\0asm\x01\0", "ends within its header"),
        (b"(module)", "WebAssembly text"),
        (b"#!/bin/sh\n", "is text"),
        (b"\x7fELF\x02\x01\x01\0\xff\xfe", "not a WebAssembly module"),
        (&component, "the component exports no function"),
        (b"\0asm\x0c\0\x01\0", "a component in a format older"),
        (&whole[..whole.len() / 2], "cut off"),
    ] {
        let error = Sandbox::inspect(bytes).unwrap_err();
        assert_eq!("module-invalid", error.slug());
        assert!(error.reason().contains(part), "{part}: {error}");
    }
}

#[test]
fn every_cut_within_a_section_is_refused_and_none_panics() {
    let whole = example("relay");
    let passing = (0..whole.len()).filter(|length| Sandbox::inspect(&whole[..*length]).is_ok());
    // A cut between two sections may leave a smaller module that is valid.
    assert!(passing.count() <= 12);
}

#[test]
fn what_does_not_fit_the_engine_s_limits_fails_when_inspected() {
    let table = refused(r#"(module (table 200000 funcref) (func (export "f")))"#);
    assert!(table.reason().contains("200000 elements"), "{table}");
    let tables = refused(
        "(module (table 1 funcref) (table 1 funcref) (table 1 funcref) (table 1 funcref) (table 1 funcref))",
    );
    assert!(tables.reason().contains("5 tables"), "{tables}");
    let large = Sandbox::inspect(&vec![0; (64 << 20) + 1]).unwrap_err();
    assert!(large.reason().contains("the limit is 64 MiB"), "{large}");
    let threads = refused("(module (memory 1 2 shared))");
    assert_eq!("module-invalid", threads.slug());
}

#[test]
fn what_passes_inspection_with_every_known_import_also_links() {
    let mut wat = String::from("(module (memory (export \"memory\") 1)\n");
    for (module, name, params, results) in pollen_wasm::known_imports() {
        wat +=
            &format!("(import {module:?} {name:?} (func (param {params}) (result {results})))\n");
    }
    // Imports stand before everything else.
    let memory = wat.find("(memory").unwrap();
    let line = wat.find('\n').unwrap();
    let definition = wat[memory..line].to_owned();
    wat.replace_range(memory..line, "");
    wat += &definition;
    wat += "(func (export \"f\")))";
    let world = World::new();
    assert_eq!("", world.text(&world.wat(&wat), "f", ""));
}

/// A module whose entry functions write their letter to memory; `f` returns what was written.
fn entries(functions: &str) -> String {
    format!(
        r#"(module
        (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
        (import "extism:host/env" "store_u8" (func $store (param i64 i32)))
        (import "extism:host/env" "output_set" (func $output (param i64 i64)))
        (memory 1) (global $n (mut i32) (i32.const 0))
        (func $note (param i32)
          (i32.store8 (global.get $n) (local.get 0))
          (global.set $n (i32.add (global.get $n) (i32.const 1))))
        {functions}
        (func (export "f") (local $at i64) (local $i i32)
          (if (i32.eqz (global.get $n)) (then (return)))
          (local.set $at (call $alloc (i64.extend_i32_u (global.get $n))))
          (loop $next
            (call $store (i64.add (local.get $at) (i64.extend_i32_u (local.get $i)))
              (i32.load8_u (local.get $i)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (global.get $n))))
          (call $output (local.get $at) (i64.extend_i32_u (global.get $n)))))"#
    )
}

#[test]
fn the_entry_protocol_runs_each_initialiser_that_it_should_once() {
    let initialize = r#"(func (export "_initialize") (call $note (i32.const 105)))"#;
    let constructors = r#"(func (export "__wasm_call_ctors") (call $note (i32.const 99)))"#;
    let haskell = r#"(func (export "hs_init") (param i32 i32) (call $note (i32.const 104)))"#;
    let start = r#"(func (export "_start") (call $note (i32.const 115)))"#;
    let section = r#"(func $s (call $note (i32.const 109))) (start $s)"#;
    let world = World::new();
    for (functions, expected) in [
        (format!("{initialize}{constructors}"), "i"),
        (constructors.to_owned(), "c"),
        (format!("{haskell}{initialize}{constructors}"), "ih"),
        (haskell.to_owned(), "h"),
        (start.to_owned(), ""),
        (format!("{section}{initialize}"), "mi"),
    ] {
        let seed = world.wat(&entries(&functions));
        assert_eq!(expected, world.text(&seed, "f", ""), "{functions}");
        assert_eq!(expected, world.text(&seed, "f", ""), "again: {functions}");
    }
}

#[test]
fn start_is_callable_by_name_and_its_instance_is_discarded() {
    let world = World::new();
    let seed = world.wat(&entries(r#"(func (export "_start") (call $note (i32.const 115)))"#));
    assert_eq!("", world.text(&seed, "_start", ""));
    assert_eq!(0, seed.idle_guests());
    assert_eq!("", world.text(&seed, "f", ""));
}

#[test]
fn initialisers_are_refused_as_functions() {
    let world = World::new();
    let seed = world.wat(&entries(r#"(func (export "_initialize"))"#));
    assert_eq!("function-not-found", world.slug(&seed, "_initialize", ""));
}

#[test]
fn a_failing_initialisation_fails_the_load() {
    let world = World::new();
    let load = |wat: &str, time: u64| {
        let mut settings = SeedSettings::new("bad");
        settings.init_timeout = std::time::Duration::from_millis(time);
        let wasm = wat_to_wasm(wat).unwrap().into();
        world.net.block_on(world.sandbox.load(wasm, [0; 32], settings)).err().unwrap()
    };
    let trap = load(r#"(module (func (export "_initialize") unreachable))"#, 1000);
    assert_eq!("guest-trapped", trap.slug());
    assert!(trap.reason().starts_with("initialisation failed"), "{trap}");
    let endless = load(r#"(module (func (export "_initialize") (loop br 0)))"#, 50);
    assert_eq!("deadline", endless.slug());
    assert_eq!(0, world.sandbox.metrics().instances);
}

const EXIT: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 100) "one\ntwo\nrest")
    (func (export "good") (call $exit (i32.const 0)))
    (func (export "bad") (call $exit (i32.const 3)))
    (func (export "say")
      (i32.store (i32.const 0) (i32.const 100)) (i32.store (i32.const 4) (i32.const 12))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))
      (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 20)))))"#;

#[test]
fn exiting_with_0_succeeds_and_with_anything_else_fails_and_both_discard_the_instance() {
    let world = World::new();
    let seed = world.wat(EXIT);
    assert_eq!("", world.text(&seed, "good", ""));
    assert_eq!(0, seed.idle_guests());
    let error = world.call(&seed, "bad", "").result.unwrap_err();
    assert_eq!(("guest-failed", "the guest exited with code 3"), (error.slug(), error.reason()));
    assert_eq!(0, seed.idle_guests());
}

#[test]
fn standard_streams_end_in_the_call_s_log_line_by_line() {
    let world = World::new();
    let seed = world.wat(EXIT);
    let host = Recorder::new();
    world.call_with(&seed, call("say", ""), host.clone()).result.unwrap();
    let expected: Vec<(LogLevel, String)> = [
        (LogLevel::Info, "one"),
        (LogLevel::Info, "two"),
        (LogLevel::Warn, "one"),
        (LogLevel::Warn, "two"),
        (LogLevel::Info, "rest"),
        (LogLevel::Warn, "rest"),
    ]
    .map(|(level, line)| (level, line.to_owned()))
    .into();
    assert_eq!(expected, *host.lines.lock().unwrap());
}

#[test]
fn the_environment_is_that_of_the_spec_and_no_file_can_be_opened() {
    let world = World::new();
    let mut settings = SeedSettings::new("env");
    settings.guest.env.insert("NAME".into(), "value".into());
    // Writes the environment block to memory and returns its size, or fails to open a folder.
    let wat = r#"(module
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "size") (result i32)
          (drop (call $sizes (i32.const 0) (i32.const 4))) (i32.load (i32.const 4)))
        (func (export "folder") (result i32) (call $prestat (i32.const 3) (i32.const 0))))"#;
    let seed = world.load(wat_to_wasm(wat).unwrap(), settings);
    assert_eq!(11, world.call(&seed, "size", "").result.unwrap().status);
    // 8 is EBADF: there is no preopened folder.
    assert_eq!(8, world.call(&seed, "folder", "").result.unwrap().status);
}

fn private(world: &World) -> std::sync::Arc<pollen_wasm::Seed> {
    world.example("echo")
}

#[test]
fn compiled_code_is_cached_and_an_altered_or_foreign_entry_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("code");
    let counts = |key: u8| {
        let path = path.clone();
        let world = World::with(move |config| {
            config.cache_dir = Some(path);
            config.cache_key = [key; 32];
        });
        let seed = private(&world);
        assert_eq!("x", world.text(&seed, "echo", "x"));
        let metrics = world.sandbox.metrics();
        (metrics.compiles, metrics.cache_hits)
    };
    assert_eq!((1, 0), counts(1));
    assert_eq!((0, 1), counts(1));
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(0o700, mode & 0o777);
    let entry = std::fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
    let genuine = std::fs::read(&entry).unwrap();
    for altered in [
        genuine[..genuine.len() - 1].to_vec(),
        genuine
            .iter()
            .enumerate()
            .map(|(i, b)| if i == genuine.len() / 2 { !b } else { *b })
            .collect(),
        Vec::new(),
    ] {
        std::fs::write(&entry, altered).unwrap();
        assert_eq!((1, 0), counts(1));
        assert_eq!((0, 1), counts(1));
    }
    assert_eq!((1, 0), counts(2), "the key of another node");
}

#[test]
fn the_cache_keeps_its_quota_and_drops_the_oldest_entry_first() {
    let folder = tempfile::tempdir().unwrap();
    let (path, quota) = (folder.path().to_owned(), 200_000);
    let world = World::with(|config| {
        config.cache_dir = Some(path.clone());
        config.cache_quota_bytes = quota;
    });
    for n in 0..12 {
        world.wat(&format!(r#"(module (memory 1) (func (export "f{n}")))"#));
    }
    let sizes = || -> u64 {
        std::fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum()
    };
    assert!(sizes() > 0 && sizes() <= quota, "{}", sizes());
    assert_eq!(12, world.sandbox.metrics().compiles);
    world.wat(r#"(module (memory 1) (func (export "f11")))"#);
    assert_eq!(1, world.sandbox.metrics().cache_hits);
}

/// A sandbox with this cache folder and quota, and the id of a module that it compiled once.
fn cached(folder: &std::path::Path, quota: u64, wat: &str) -> (World, [u8; 32]) {
    let path = folder.join("code");
    let world = World::with(move |config| {
        config.cache_dir = Some(path);
        config.cache_quota_bytes = quota;
    });
    world.wat(wat);
    let id = *blake3::hash(&wat_to_wasm(wat).unwrap()).as_bytes();
    (world, id)
}

const COUNTING: &str = r#"(module (memory 2) (func (export "f")))"#;

#[test]
fn compiled_code_is_loaded_by_the_id_of_its_module_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (world, id) = cached(folder.path(), 64 << 20, COUNTING);
    let load =
        |id, settings| world.net.block_on(world.sandbox.load_compiled(id, settings)).unwrap();
    let seed = load(id, SeedSettings::new("again")).unwrap();
    assert_eq!("", world.text(&seed, "f", ""));
    assert!(load([7; 32], SeedSettings::new("unknown")).is_none());
    let metrics = world.sandbox.metrics();
    assert_eq!((1, 1), (metrics.compiles, metrics.cache_hits));
}

#[test]
fn the_memory_limit_holds_for_compiled_code_as_for_a_module() {
    let folder = tempfile::tempdir().unwrap();
    let (world, id) = cached(folder.path(), 64 << 20, COUNTING);
    let mut small = SeedSettings::new("small");
    small.guest.memory_bytes = 65_536;
    let refused =
        world.net.block_on(world.sandbox.load_compiled(id, small)).map(|_| ()).unwrap_err();
    assert_eq!("module-invalid", refused.slug());
}

#[test]
fn a_quota_that_was_lowered_holds_from_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (world, id) = cached(folder.path(), 64 << 20, COUNTING);
    drop(world);
    let path = folder.path().join("code");
    let world = World::with(move |config| {
        config.cache_dir = Some(path);
        config.cache_quota_bytes = 1;
    });
    assert_eq!(0, std::fs::read_dir(folder.path().join("code")).unwrap().count());
    let loading = world.sandbox.load_compiled(id, SeedSettings::new("gone"));
    assert!(world.net.block_on(loading).unwrap().is_none());
}

#[test]
fn what_was_used_lately_outlives_what_was_stored_later() {
    let folder = tempfile::tempdir().unwrap();
    let (world, id) = cached(folder.path(), 64 << 20, COUNTING);
    let path = folder.path().join("code");
    let size = std::fs::read_dir(&path).unwrap().next().unwrap().unwrap().metadata().unwrap().len();
    world.wat(r#"(module (memory 2) (func (export "g")))"#);
    // A use, later than both.
    assert!(world.net.block_on(world.sandbox.load_compiled(id, SeedSettings::new("used"))).is_ok());
    drop(world);
    let (world, _) = cached(folder.path(), 2 * size + size / 2, r#"(module (func (export "h")))"#);
    let used = world.sandbox.load_compiled(id, SeedSettings::new("used"));
    assert!(world.net.block_on(used).unwrap().is_some());
    assert_eq!(2, std::fs::read_dir(&path).unwrap().count());
}
