//! Components: values in and out, programs, refusals at seed time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Instant;

use bytes::Bytes;
use common::{Recorder, World, call, short};
use pollen_wasm::{Sandbox, SandboxError, SeedSettings, wat_to_wasm};

/// Memory and a way to take some of it, as all of these have.
const MEMORY: &str = r#"
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 4096))
    (func (export "realloc") (param $old i32) (param $size i32) (param i32) (param $new i32)
      (result i32) (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get $new)))
      (memory.copy (local.get $at) (local.get $old) (local.get $size))
      (local.get $at))"#;

/// `same` gives back a record of every kind of value.
fn same() -> String {
    format!(
        r#"(component
  (core module $m {MEMORY}
    (func (export "same") (param i32) (result i32) (local.get 0)))
  (core instance $i (instantiate $m))
  (type $colour' (enum "red" "green"))
  (export $colour "colour" (type $colour'))
  (type $rights' (flags "read" "write"))
  (export $rights "rights" (type $rights'))
  (type $shape' (variant (case "point") (case "circle" f64)))
  (export $shape "shape" (type $shape'))
  (type $all' (record
    (field "yes" bool) (field "a" s8) (field "b" u8) (field "c" s16) (field "d" u16)
    (field "e" s32) (field "f" u32) (field "g" s64) (field "h" u64) (field "i" f32)
    (field "j" f64) (field "letter" char) (field "text" string) (field "items" (list u16))
    (field "pair" (tuple u8 string)) (field "shape" $shape) (field "colour" $colour)
    (field "maybe" (option string)) (field "outcome" (result u8 (error string)))
    (field "rights" $rights) (field "deep" (option (option u8)))))
  (export $all "all" (type $all'))
  (func (export "same") (param "all" $all) (result $all)
    (canon lift (core func $i "same") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#
    )
}

const ALL: &str = concat!(
    r#"{"a":-128,"b":255,"c":-3,"colour":"green","d":65535,"deep":{"some":null},"e":-5,"f":4294967295,"#,
    r#""g":-9223372036854775808,"h":18446744073709551615,"i":0.1,"items":[1,2],"j":-0.5,"letter":"ß","#,
    r#""maybe":null,"outcome":{"err":"no"},"pair":[7,"x"],"rights":["write"],"shape":{"circle":2.5},"#,
    r#""text":"grüß","yes":true}"#
);

/// Adds, fails, counts its calls, spins, traps, and takes memory.
fn small() -> String {
    format!(
        r#"(component
  (core module $m {MEMORY}
    (global $calls (mut i32) (i32.const 0))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "count") (result i32)
      (global.set $calls (i32.add (global.get $calls) (i32.const 1))) (global.get $calls))
    (func (export "or") (param i32 i32 i32) (result i32)
      (select (local.get 1) (local.get 2) (local.get 0)))
    (func (export "fail") (result i32)
      (i32.store (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 100))
      (i32.store (i32.const 24) (i32.const 7)) (i32.const 16))
    (data (i32.const 100) "no luck")
    (func (export "bytes") (param i32 i32) (result i32)
      (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1))
      (i32.const 16))
    (func (export "spin") (loop (br 0)))
    (func (export "trap") unreachable)
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))
  (core instance $i (instantiate $m))
  (func (export "add") (param "a" s32) (param "b" s32) (result s32) (canon lift (core func $i "add")))
  (func (export "count") (result u32) (canon lift (core func $i "count")))
  (func (export "or-else") (param "one" (option u32)) (param "other" u32) (result u32)
    (canon lift (core func $i "or")))
  (func (export "fail") (result (result (error string)))
    (canon lift (core func $i "fail") (memory (core memory $i "memory"))))
  (func (export "bytes") (param "data" (list u8)) (result (list u8))
    (canon lift (core func $i "bytes") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (func (export "spin") (canon lift (core func $i "spin")))
  (func (export "trap") (canon lift (core func $i "trap")))
  (func (export "grow") (param "pages" u32) (result s32) (canon lift (core func $i "grow"))))"#
    )
}

fn refused(text: &str) -> SandboxError {
    Sandbox::inspect(&wat_to_wasm(text).unwrap()).unwrap_err()
}

#[test]
fn every_kind_of_value_passes_both_ways() {
    let world = World::new();
    let seed = world.wat(&same());
    for input in [format!("[{ALL}]"), format!(r#"{{"all":{ALL}}}"#)] {
        let given: serde_json::Value = serde_json::from_str(ALL).unwrap();
        let got: serde_json::Value =
            serde_json::from_str(&world.text(&seed, "same", &input)).unwrap();
        assert_eq!(given, got);
    }
}

#[test]
fn numbers_without_an_end_are_text() {
    let world = World::new();
    let seed = world.wat(&same());
    let input = ALL.replace(r#""i":0.1"#, r#""i":"NaN""#);
    let input = input.replace(r#""j":-0.5"#, r#""j":"-Infinity""#);
    let got = world.text(&seed, "same", &format!("[{input}]"));
    assert!(got.contains(r#""i":"NaN""#) && got.contains(r#""j":"-Infinity""#), "{got}");
}

#[test]
fn what_is_no_value_of_the_type_is_refused_with_its_place() {
    let world = World::new();
    let seed = world.wat(&same());
    let cases = [
        (
            r#""b":255"#,
            r#""b":256"#,
            "argument all.b: expected u8, a whole number from 0 to 255, got 256",
        ),
        (r#""a":-128"#, r#""a":1.5"#, "argument all.a: expected s8"),
        (r#""h":18446744073709551615"#, r#""h":-1"#, "argument all.h: expected u64"),
        (r#""i":0.1"#, r#""i":1e300"#, "argument all.i: expected a number that a f32 can hold"),
        (r#""items":[1,2]"#, r#""items":[1,"2"]"#, "argument all.items[1]: expected u16"),
        (r#""letter":"ß""#, r#""letter":"ss""#, "argument all.letter: expected a string of one"),
        (r#""pair":[7,"x"]"#, r#""pair":[7]"#, "argument all.pair: expected 2 items, got 1"),
        (r#"{"circle":2.5}"#, r#""circle""#, "argument all.shape: the case circle has a value"),
        (
            r#"{"circle":2.5}"#,
            r#"{"square":1}"#,
            "argument all.shape: expected one of point, circle",
        ),
        (
            r#""colour":"green""#,
            r#""colour":"blue""#,
            "argument all.colour: expected one of red, green",
        ),
        (r#""rights":["write"]"#, r#""rights":["run"]"#, "argument all.rights[0]: expected one of"),
        (r#"{"err":"no"}"#, r#"{"err":5}"#, "argument all.outcome.err: expected a string, got 5"),
        (r#""text":"grüß","#, "", "argument all.text: it is missing"),
        (r#""yes":true"#, r#""yes":true,"more":1"#, "argument all: there is no field more"),
        (r#""deep":{"some":null}"#, r#""deep":1"#, "argument all.deep: expected null or"),
    ];
    for (from, to, reason) in cases {
        assert!(ALL.contains(from), "{from}");
        let error = world.call(&seed, "same", &format!("[{}]", ALL.replace(from, to)));
        let error = error.result.unwrap_err();
        assert_eq!("bad-argument", error.slug());
        assert!(error.reason().starts_with(reason), "{}", error.reason());
        assert!(!error.may_have_executed() && error.remedy().contains("all"));
    }
}

#[test]
fn arguments_go_by_place_or_by_name() {
    let world = World::new();
    let seed = world.wat(&small());
    assert_eq!("5", world.text(&seed, "add", "[2, 3]"));
    assert_eq!("-1", world.text(&seed, "add", r#"{"b": -3, "a": 2}"#));
    assert_eq!("4", world.text(&seed, "or-else", r#"{"other": 4}"#));
    assert_eq!("9", world.text(&seed, "or-else", "[9, 4]"));
    for (input, reason) in [
        ("", "argument a: it is missing"),
        ("[1]", "argument b: it is missing"),
        ("[1, 2, 3]", "it takes 2 arguments, 3 were given"),
        (r#"{"a": 1, "c": 2}"#, "there is no argument c"),
        ("7", "the input is neither an array"),
        ("[1, 2", "the input is no JSON"),
        ("[1, \u{0}]", "the input is no JSON"),
    ] {
        let error = world.call(&seed, "add", input).result.unwrap_err();
        assert_eq!("bad-argument", error.slug());
        assert!(error.reason().starts_with(reason), "{input}: {}", error.reason());
    }
}

#[test]
fn a_function_of_bytes_takes_the_input_as_it_is() {
    let world = World::new();
    let seed = world.wat(&small());
    assert_eq!("[1, \u{0}", world.text(&seed, "bytes", "[1, \u{0}"));
}

#[test]
fn an_error_is_a_failure_and_its_guest_is_kept() {
    let world = World::new();
    let seed = world.wat(&small());
    assert_eq!("1", world.text(&seed, "count", ""));
    let failed = world.call(&seed, "fail", "").result.unwrap_err();
    assert_eq!(("guest-failed", "no luck"), (failed.slug(), failed.reason()));
    assert_eq!("2", world.text(&seed, "count", "[]"));
    assert_eq!("guest-trapped", world.slug(&seed, "trap", ""));
    assert_eq!("1", world.text(&seed, "count", ""), "a guest that trapped is gone");
}

#[test]
fn a_busy_loop_ends_at_its_deadline() {
    let world = World::new();
    let seed = world.wat(&small());
    let began = Instant::now();
    let ended = world.call_with(&seed, short("spin", "", 200), Recorder::new());
    assert_eq!("deadline", ended.result.unwrap_err().slug());
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    world.wait("its guest is gone", |sandbox| sandbox.metrics().instances == 0);
}

#[test]
fn memory_grows_to_the_limit_of_the_seed_and_is_charged() {
    let world = World::new();
    let mut settings = SeedSettings::new("small");
    settings.guest.memory_bytes = 4 << 20;
    let seed = world.load(wat_to_wasm(&small()).unwrap(), settings);
    // What it wrote to of its first memory is known after a call.
    world.text(&seed, "count", "");
    let before = world.sandbox.metrics().memory_bytes;
    assert_eq!("1", world.text(&seed, "grow", "[16]"));
    let grown = world.sandbox.metrics().memory_bytes - before;
    assert!((16 << 16..17 << 16).contains(&grown), "{grown}");
    assert_eq!("-1", world.text(&seed, "grow", "[64]"), "over the limit");
}

#[test]
fn two_modules_with_a_memory_each_are_joined() {
    // wasmtime panics while it compiles this in an engine without multi-memory.
    let inner = format!(
        r#"(component $inner
    (core module $m {MEMORY}
      (func (export "len") (param i32 i32) (result i32) (local.get 1)))
    (core instance $i (instantiate $m))
    (func (export "len") (param "s" string) (result u32)
      (canon lift (core func $i "len") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#
    );
    let outer = format!(
        r#"(component {inner}
  (component $outer
    (import "len" (func $len (param "s" string) (result u32)))
    (core module $libc {MEMORY})
    (core instance $libc (instantiate $libc))
    (core func $len' (canon lower (func $len) (memory (core memory $libc "memory"))))
    (core module $m
      (import "" "len" (func $len (param i32 i32) (result i32)))
      (func (export "twice") (param i32 i32) (result i32)
        (i32.mul (i32.const 2) (call $len (local.get 0) (local.get 1)))))
    (core instance $i (instantiate $m (with "" (instance (export "len" (func $len'))))))
    (func (export "twice") (param "s" string) (result u32)
      (canon lift (core func $i "twice") (memory (core memory $libc "memory"))
        (realloc (core func $libc "realloc")))))
  (instance $a (instantiate $inner))
  (instance $b (instantiate $outer (with "len" (func $a "len"))))
  (export "twice" (func $b "twice")))"#
    );
    let world = World::new();
    let seed = world.wat(&outer);
    assert_eq!("10", world.text(&seed, "twice", r#"["hello"]"#));
}

#[test]
fn a_component_asks_the_mesh_and_is_suspended_meanwhile() {
    let text = format!(
        r#"(component
  (import "pollen:guest/mesh@0.1.0" (instance $mesh
    (export "request" (func (param "uri" string) (param "input" (list u8))
      (result (result (list u8) (error string)))))))
  (core module $libc {MEMORY})
  (core instance $libc (instantiate $libc))
  (core func $request (canon lower (func $mesh "request") (memory (core memory $libc "memory"))
    (realloc (core func $libc "realloc"))))
  (core module $m
    (import "" "memory" (memory 1))
    (import "" "request" (func $request (param i32 i32 i32 i32 i32)))
    (func (export "ask") (param i32 i32) (result i32)
      (call $request (i32.const 64) (i32.const 16) (local.get 0) (local.get 1) (i32.const 16))
      (i32.const 16))
    (data (i32.const 64) "pln://seed/a/run"))
  (core instance $i (instantiate $m (with "" (instance
    (export "memory" (memory $libc "memory")) (export "request" (func $request))))))
  (func (export "ask") (param "input" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "ask") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc")))))"#
    );
    let world = World::new();
    let seed = world.wat(&text);
    let host = Recorder::answering(|uri, input| match &*input {
        b"no" => Err("[denied] no".into()),
        _ => Ok(Bytes::from([uri.as_bytes(), b" ", &input].concat())),
    });
    let reply = world.call_with(&seed, call("ask", "hi"), host.clone()).result.unwrap();
    assert_eq!(&b"pln://seed/a/run hi"[..], &reply.bytes[..]);
    let failed = world.call_with(&seed, call("ask", "no"), host).result.unwrap_err();
    assert_eq!(("guest-failed", "[denied] no"), (failed.slug(), failed.reason()));
}

#[test]
fn a_program_ends_with_the_result_of_run() {
    let program = |code: u32| {
        format!(
            r#"(component
  (core module $m (func (export "run") (result i32) (i32.const {code})))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.3" (instance $cli)))"#
        )
    };
    let world = World::new();
    for code in [0, 1] {
        let wasm = wat_to_wasm(&program(code)).unwrap();
        let info = Sandbox::inspect(&wasm).unwrap();
        assert_eq!((vec!["_start".to_owned()], true), (info.functions, info.may_be_program));
        let seed = world.load(wasm, SeedSettings::new("program"));
        let output = world.call(&seed, "_start", "").result.unwrap();
        assert_eq!(i32::try_from(code).unwrap(), output.status);
    }
}

#[test]
fn functions_of_an_interface_are_called_by_their_name() {
    let text = r#"(component
  (core module $m (func (export "one") (result i32) (i32.const 1))
    (func (export "two") (result i32) (i32.const 2)))
  (core instance $i (instantiate $m))
  (func $one (result u32) (canon lift (core func $i "one")))
  (func $two (result u32) (canon lift (core func $i "two")))
  (instance $a (export "get" (func $one)) (export "only" (func $one)))
  (instance $b (export "get" (func $two)))
  (export "docs:a/a@1.0.0" (instance $a))
  (export "docs:b/b@1.0.0" (instance $b)))"#;
    let world = World::new();
    let seed = world.wat(text);
    assert_eq!(["docs:a/a/get", "only", "docs:b/b/get"], seed.functions());
    assert_eq!("1", world.text(&seed, "only", ""));
    assert_eq!("2", world.text(&seed, "docs:b/b/get", ""));
}

#[test]
fn components_that_cannot_run_are_refused_with_what_to_do() {
    let instance = r#"(instance (export "f" (func)))"#;
    let cases = [
        (
            format!(r#"(component (import "wasi:http/handler@0.3.0" {instance}))"#),
            "module-invalid",
            "WASI 0.3",
        ),
        (
            format!(r#"(component (import "wasi:clocks/monotonic-clok@0.2.0" {instance}))"#),
            "import-unknown",
            "nearest: wasi:clocks/monotonic-clock",
        ),
        (
            format!(r#"(component (import "wasi:cli/stdout@0.4.0" {instance}))"#),
            "import-unknown",
            "is served as version 0.2",
        ),
        (
            format!(r#"(component (import "fermyon:spin/kv@2.0.0" {instance}))"#),
            "import-unknown",
            "fermyon:spin/kv@2.0.0 does not exist",
        ),
        (
            r#"(component (import "f" (func)))"#.into(),
            "import-unknown",
            "a function of no interface",
        ),
        ("(component)".into(), "module-invalid", "the component exports no function"),
        (
            format!(r#"(component (import "pollen:python/host@0.1.0" {instance}))"#),
            "module-invalid",
            "does not export handle",
        ),
    ];
    for (text, slug, reason) in cases {
        let error = refused(&text);
        assert_eq!(slug, error.slug(), "{text}");
        assert!(error.reason().contains(reason), "{}", error.reason());
        assert!(!error.remedy().is_empty(), "{text}");
    }
}

#[test]
fn a_function_of_handles_is_not_callable_and_says_why() {
    let text = r#"(component
  (type $r' (resource (rep i32)))
  (export $r "r" (type $r'))
  (core func $new (canon resource.new $r'))
  (core module $m (import "" "new" (func $new (param i32) (result i32)))
    (func (export "make") (result i32) (call $new (i32.const 1)))
    (func (export "one") (result i32) (i32.const 1)))
  (core instance $i (instantiate $m (with "" (instance (export "new" (func $new))))))
  (func (export "make") (result (own $r)) (canon lift (core func $i "make")))
  (func (export "one") (result u32) (canon lift (core func $i "one"))))"#;
    let info = Sandbox::inspect(&wat_to_wasm(text).unwrap()).unwrap();
    assert_eq!(vec!["one".to_owned()], info.functions);
    let [(name, why)] = info.not_callable.as_slice() else { panic!("{info:?}") };
    assert!(name == "make" && why.contains("resource"), "{why}");
    assert_eq!("1", World::new().text(&World::new().wat(text), "one", ""));
}

#[test]
fn a_component_is_compiled_once_and_shared_by_its_seeds() {
    let folder = tempfile::tempdir().unwrap();
    let wasm = Bytes::from(wat_to_wasm(&small()).unwrap());
    let content = *blake3::hash(&wasm).as_bytes();
    let in_folder = |config: &mut pollen_wasm::SandboxConfig| {
        config.cache_dir = Some(folder.path().to_owned());
    };
    let world = World::with(in_folder);
    world.load(wasm.clone(), SeedSettings::new("a"));
    assert_eq!((1, 0), (world.sandbox.metrics().compiles, world.sandbox.metrics().cache_hits));
    let again = World::with(in_folder);
    let load = |name| {
        let loading = again.sandbox.load_compiled(content, SeedSettings::new(name));
        again.net.block_on(loading).unwrap().unwrap()
    };
    let (a, b) = (load("a"), load("b"));
    assert_eq!((0, 1), (again.sandbox.metrics().compiles, again.sandbox.metrics().cache_hits));
    assert_eq!("3", again.text(&a, "add", "[1,2]"));
    assert_eq!("7", again.text(&b, "add", "[3,4]"));
}

#[test]
fn a_guest_has_4096_handles_of_the_host_at_most() {
    // Each timer takes two; the guest never gives one back.
    let text = r#"(component
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type (sub resource)))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $p))
    (export "pollable" (type $p' (eq $p)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p'))))))
  (core func $make (canon lower (func $clock "subscribe-duration")))
  (core module $m
    (import "" "make" (func $make (param i64) (result i32)))
    (func (export "flood") (param $n i32)
      (loop $again (drop (call $make (i64.const 1)))
        (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
  (core instance $i (instantiate $m (with "" (instance (export "make" (func $make))))))
  (func (export "flood") (param "count" u32) (canon lift (core func $i "flood"))))"#;
    let world = World::new();
    let seed = world.wat(text);
    assert_eq!("", world.text(&seed, "flood", "[2000]"));
    assert_eq!("guest-trapped", world.slug(&seed, "flood", "[5000]"));
}
