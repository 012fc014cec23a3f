//! The ABI of the Python runner, with a runner in WAT: bundles, requests at once, written output, tail
//! calls, failures. The real one is run in tests/native.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{Cursor, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Recorder, World, call, short};
use pollen_wasm::{
    Bundle, Call, Host, HostFuture, LogLevel, Sandbox, Seed, SeedSettings, WriteFuture, wat_to_wasm,
};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Its functions are told apart by their first letter: `echo`, `fail`, `argument`, `none`, `spin`,
/// `read` (a file of the bundle), `many` (begins its input so many times as it is long, and waits once),
/// `late` (waits for nothing, 20 ms), `write`, `tail`, `count`.
const RUNNER: &str = r#"(component
  (type $types (instance
    (type $f (variant (case "no-function" string) (case "bad-argument" string) (case "failed" string)))
    (export "failure" (type (eq $f)))))
  (import "pollen:python/types@0.1.0" (instance $t (type $types)))
  (alias export $t "failure" (type $failure))
  (import "pollen:python/host@0.1.0" (instance $host
    (export "bundle" (func (result (list u8))))
    (export "read" (func (param "path" string) (result (option (list u8)))))
    (export "request" (func (param "uri" string) (param "input" (list u8))
      (result (result (list u8) (error string)))))
    (export "start" (func (param "uri" string) (param "input" (list u8)) (result u64)))
    (export "wait" (func (param "timeout-ms" (option u64))
      (result (list (tuple u64 (result (list u8) (error string)))))))
    (export "write" (func (param "bytes" (list u8)) (result bool)))
    (export "tail-call" (func (param "uri" string) (param "input" (list u8)) (result bool)))))
  (core module $libc
    (memory (export "memory") 4)
    (global $top (mut i32) (i32.const 4096))
    (func (export "realloc") (param $old i32) (param $size i32) (param i32) (param $new i32)
      (result i32) (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get $new)))
      (memory.copy (local.get $at) (local.get $old) (local.get $size))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (core func $read (canon lower (func $host "read") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $start (canon lower (func $host "start") (memory (core memory $libc "memory"))))
  (core func $wait (canon lower (func $host "wait") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $write (canon lower (func $host "write") (memory (core memory $libc "memory"))))
  (core func $tail (canon lower (func $host "tail-call") (memory (core memory $libc "memory"))))
  (core module $m
    (import "" "memory" (memory 4))
    (import "" "read" (func $read (param i32 i32 i32)))
    (import "" "start" (func $start (param i32 i32 i32 i32) (result i64)))
    (import "" "wait" (func $wait (param i32 i64 i32)))
    (import "" "write" (func $write (param i32 i32) (result i32)))
    (import "" "tail" (func $tail (param i32 i32 i32 i32) (result i32)))
    (global $calls (mut i32) (i32.const 0))
    (data (i32.const 64) "pln://seed/a/run")
    (data (i32.const 128) "{\"functions\":{\"echo\":{},\"count\":{}}}")
    ;; The answer lies at 16: what it is, and two words.
    (func $answer (param i32 i32 i32) (result i32)
      (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1))
      (i32.store (i32.const 24) (local.get 2)) (i32.const 16))
    (func $failure (param i32 i32 i32) (result i32)
      (i32.store (i32.const 28) (local.get 2))
      (call $answer (i32.const 1) (local.get 0) (local.get 1)))
    (func (export "handle") (param $f i32) (param i32) (param $in i32) (param $n i32) (result i32)
      (local $c i32) (local $left i32)
      (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
      (local.set $c (i32.load8_u (local.get $f)))
      (if (i32.eq (local.get $c) (i32.const 102)) (then ;; fail
        (return (call $failure (i32.const 2) (local.get $in) (local.get $n)))))
      (if (i32.eq (local.get $c) (i32.const 97)) (then ;; argument
        (return (call $failure (i32.const 1) (local.get $in) (local.get $n)))))
      (if (i32.eq (local.get $c) (i32.const 110)) (then ;; none
        (return (call $failure (i32.const 0) (local.get $in) (local.get $n)))))
      (if (i32.eq (local.get $c) (i32.const 115)) (then (loop (br 0)))) ;; spin
      (if (i32.eq (local.get $c) (i32.const 114)) (then ;; read
        (call $read (local.get $in) (local.get $n) (i32.const 32))
        (if (i32.load8_u (i32.const 32)) (then (return
          (call $answer (i32.const 0) (i32.load (i32.const 36)) (i32.load (i32.const 40))))))
        (return (call $answer (i32.const 0) (i32.const 0) (i32.const 0)))))
      (if (i32.eq (local.get $c) (i32.const 109)) (then ;; many
        (local.set $left (local.get $n))
        (loop $again
          (drop (call $start (i32.const 64) (i32.const 16) (local.get $in) (local.get $n)))
          (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (loop $again
          (call $wait (i32.const 0) (i64.const 0) (i32.const 32))
          (local.set $left (i32.add (local.get $left) (i32.load (i32.const 36))))
          (br_if $again (i32.lt_u (local.get $left) (local.get $n))))
        (return (call $answer (i32.const 0) (i32.add (i32.load (i32.const 32)) (i32.const 8)) (i32.const 1)))))
      (if (i32.eq (local.get $c) (i32.const 108)) (then ;; late
        (call $wait (i32.const 1) (i64.const 20) (i32.const 32))
        (return (call $answer (i32.const 0) (i32.const 64) (i32.load (i32.const 36))))))
      (if (i32.eq (local.get $c) (i32.const 119)) (then ;; write
        (i32.store8 (i32.const 48) (i32.add (i32.const 48) (call $write (local.get $in) (local.get $n))))
        (return (call $answer (i32.const 0) (i32.const 48) (i32.const 1)))))
      (if (i32.eq (local.get $c) (i32.const 116)) (then ;; tail
        (i32.store8 (i32.const 48) (i32.add (i32.const 48)
          (call $tail (local.get $in) (local.get $n) (i32.const 64) (i32.const 16))))
        (return (call $answer (i32.const 0) (i32.const 48) (i32.const 1)))))
      (if (i32.eq (local.get $c) (i32.const 99)) (then ;; count
        (i32.store8 (i32.const 48) (i32.add (i32.const 48) (global.get $calls)))
        (return (call $answer (i32.const 0) (i32.const 48) (i32.const 1)))))
      (call $answer (i32.const 0) (local.get $in) (local.get $n)))
    (func (export "describe") (result i32)
      ;; Asks the mesh, which nobody may at seed time: its error is the text of what it says then.
      (call $read (i32.const 200) (i32.const 4) (i32.const 32))
      (if (i32.load8_u (i32.const 32)) (then (loop (br 0))))
      (drop (call $start (i32.const 64) (i32.const 16) (i32.const 64) (i32.const 1)))
      (call $wait (i32.const 0) (i64.const 0) (i32.const 32))
      (if (i32.eqz (i32.load8_u (i32.add (i32.load (i32.const 32)) (i32.const 8)))) (then unreachable))
      (call $answer (i32.const 0) (i32.const 128) (i32.const 36)))
    (data (i32.const 200) "spin")
    (func (export "compile") (param i32 i32 i32 i32) (result i32)
      (if (i32.eqz (local.get 3)) (then
        (return (call $answer (i32.const 1) (local.get 0) (local.get 1)))))
      (call $answer (i32.const 0) (local.get 2) (i32.const 1))))
  (core instance $i (instantiate $m (with "" (instance
    (export "memory" (memory $libc "memory")) (export "read" (func $read))
    (export "start" (func $start)) (export "wait" (func $wait)) (export "write" (func $write))
    (export "tail" (func $tail))))))
  (func (export "handle") (param "function" string) (param "input" (list u8))
    (result (result (list u8) (error $failure)))
    (canon lift (core func $i "handle") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (func (export "describe") (result (result string (error string)))
    (canon lift (core func $i "describe") (memory (core memory $libc "memory"))))
  (func (export "compile") (param "name" string) (param "source" (list u8))
    (result (result (list u8) (error string)))
    (canon lift (core func $i "compile") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc")))))"#;

const FUNCTIONS: [&str; 11] =
    ["echo", "fail", "argument", "none", "spin", "read", "many", "late", "write", "tail", "count"];

fn runner() -> Bytes {
    wat_to_wasm(RUNNER).unwrap().into()
}

fn pack(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

const MANIFEST: &[u8] = br#"{"main":"hello","pollen":1,"files":["hello.py"]}"#;

fn bundle() -> Vec<u8> {
    pack(&[("pollen.json", MANIFEST), ("hello.py", b"source")])
}

fn settings() -> SeedSettings {
    let mut settings = SeedSettings::new("hello");
    settings.functions = FUNCTIONS.map(str::to_owned).to_vec();
    settings.bundle = Some(Arc::new(Bundle::open(&bundle()).unwrap()));
    settings
}

fn loaded(world: &World) -> Arc<Seed> {
    world.load(runner(), settings())
}

/// A host whose requests wait until so many are under way once; a caller that streams.
#[derive(Default)]
struct Gate {
    wanted: usize,
    under_way: AtomicUsize,
    most: AtomicUsize,
    open: tokio::sync::Notify,
    is_open: AtomicBool,
    pieces: Mutex<Vec<Bytes>>,
    takes: bool,
}

impl Host for Gate {
    fn request(&self, _uri: String, input: Bytes) -> HostFuture<'_> {
        Box::pin(async move {
            let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            let opened = self.open.notified();
            if now >= self.wanted {
                self.is_open.store(true, Ordering::SeqCst);
                self.open.notify_waiters();
            }
            if !self.is_open.load(Ordering::SeqCst) {
                opened.await;
            }
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            Ok(input)
        })
    }

    fn streams(&self) -> bool {
        true
    }

    fn write(&self, piece: Bytes) -> WriteFuture<'_> {
        self.pieces.lock().unwrap().push(piece);
        Box::pin(std::future::ready(self.takes))
    }

    fn log(&self, _level: LogLevel, _message: &str) {}

    fn caller_json(&self) -> String {
        "{}".into()
    }
}

#[test]
fn a_runner_is_known_by_what_it_imports_and_needs_a_bundle() {
    let info = Sandbox::inspect(&runner()).unwrap();
    assert!(info.takes_bundle && info.functions.is_empty() && !info.may_be_program);
    assert_eq!(4 << 16, info.minimum_memory_bytes);
}

#[test]
fn a_call_hands_the_function_and_the_input_to_the_runner() {
    let world = World::new();
    let seed = loaded(&world);
    assert_eq!("hi", world.text(&seed, "echo", "hi"));
    assert_eq!("2", world.text(&seed, "count", ""), "the guest is kept");
    assert_eq!("source", world.text(&seed, "read", "hello.py"));
    assert_eq!("", world.text(&seed, "read", "other.py"));
    assert_eq!("function-not-found", world.slug(&seed, "unpublished", ""));
}

#[test]
fn each_failure_of_the_runner_has_its_error_and_keeps_the_guest() {
    let world = World::new();
    let seed = loaded(&world);
    for (function, slug, executed) in [
        ("fail", "guest-failed", true),
        ("argument", "bad-argument", false),
        ("none", "function-not-found", false),
    ] {
        let error = world.call(&seed, function, "why").result.unwrap_err();
        assert_eq!((slug, "why"), (error.slug(), error.reason()));
        assert_eq!(executed, error.may_have_executed(), "{function}");
    }
    assert_eq!("4", world.text(&seed, "count", ""));
}

#[test]
fn requests_that_were_begun_are_under_way_at_once_and_64_at_most() {
    let world = World::new();
    let seed = loaded(&world);
    for (count, most) in [(50, 50), (64, 64), (200, 64)] {
        let host = Arc::new(Gate { wanted: most, ..Gate::default() });
        let began = call("many", &"x".repeat(count));
        assert_eq!(b"\0"[..], world.call_with(&seed, began, host.clone()).result.unwrap().bytes);
        assert_eq!(most, host.most.load(Ordering::SeqCst));
    }
}

#[test]
fn a_wait_ends_with_its_time_and_one_without_an_end_with_the_deadline() {
    let world = World::new();
    let seed = loaded(&world);
    let began = Instant::now();
    assert_eq!("", world.text(&seed, "late", ""));
    assert!(began.elapsed() >= Duration::from_millis(20));
    let waits = world.call_with(&seed, short("many", "xx", 100), Recorder::new());
    assert_eq!("deadline", waits.result.unwrap_err().slug());
}

#[test]
fn a_busy_loop_and_a_call_that_is_dropped_end_the_guest() {
    let world = World::new();
    let seed = loaded(&world);
    let spins = world.call_with(&seed, short("spin", "", 100), Recorder::new());
    assert_eq!("deadline", spins.result.unwrap_err().slug());
    let dropped = world.net.block_on(async {
        let spins = world.sandbox.call(seed.clone(), call("spin", ""), Recorder::new());
        tokio::time::timeout(Duration::from_millis(50), spins).await
    });
    assert!(dropped.is_err());
    world.wait("no guest is left", |sandbox| sandbox.metrics().instances == 0);
    assert_eq!("1", world.text(&seed, "count", ""));
}

#[test]
fn what_is_written_goes_to_a_caller_that_streams_or_before_the_output() {
    let world = World::new();
    let seed = loaded(&world);
    assert_eq!("some1", world.text(&seed, "write", "some"));
    for (takes, answer) in [(true, "1"), (false, "0")] {
        let host = Arc::new(Gate { takes, ..Gate::default() });
        let output = world.call_with(&seed, call("write", "some"), host.clone()).result.unwrap();
        assert_eq!(answer.as_bytes(), &output.bytes[..]);
        assert_eq!(vec![Bytes::from("some")], *host.pieces.lock().unwrap());
    }
}

#[test]
fn a_tail_call_is_the_callers_to_follow() {
    let world = World::new();
    let seed = loaded(&world);
    let output = world.call(&seed, "tail", "pln://seed/b/run").result.unwrap();
    let tail = output.tail_call.unwrap();
    assert_eq!(("pln://seed/b/run", &b"pln://seed/a/run"[..]), (&*tail.uri, &tail.input[..]));
    assert_eq!("0", world.text(&seed, "tail", "http://b"), "no address of a seed");
    assert_eq!(None, world.call(&seed, "echo", "x").result.unwrap().tail_call);
}

#[test]
fn a_bundle_is_prepared_to_the_same_bytes_each_time() {
    let world = World::new();
    let prepare = |packed: Vec<u8>| {
        let wasm = runner();
        let content = *blake3::hash(&wasm).as_bytes();
        world.net.block_on(world.sandbox.prepare(wasm, content, packed.into()))
    };
    let once = prepare(bundle()).unwrap();
    assert_eq!(once, prepare(bundle()).unwrap());
    assert_eq!(once, prepare(once.clone()).unwrap());
    let opened = Bundle::open(&once).unwrap();
    assert_eq!(b"s", opened.file("hello.pyc").unwrap().as_slice());
    let (functions, text) = opened.description().unwrap();
    assert_eq!(vec!["count".to_owned(), "echo".to_owned()], functions);
    assert!(text.starts_with('{'));
    let manifest = opened.file("pollen.json").unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(serde_json::json!(["describe.json", "hello.py", "hello.pyc"]), manifest["files"]);
    assert_eq!(serde_json::json!("hello"), manifest["main"]);
    // The source is empty: the runner says which.
    let broken = pack(&[("pollen.json", MANIFEST), ("hello.py", b"")]);
    let error = prepare(broken).unwrap_err();
    assert_eq!(("bundle-invalid", "hello.py"), (error.slug(), error.reason()));
    assert!(!error.may_have_executed());
}

#[test]
fn code_that_never_ends_at_seed_time_is_cut_off() {
    let world = World::new();
    let packed = pack(&[("pollen.json", MANIFEST), ("spin", b"")]);
    let wasm = runner();
    let content = *blake3::hash(&wasm).as_bytes();
    let began = Instant::now();
    let ended = world.net.block_on(world.sandbox.prepare(wasm, content, packed.into()));
    let error = ended.unwrap_err();
    let reason = "what stands outside of all functions did not end within 5 s";
    assert_eq!(("bundle-invalid", reason), (error.slug(), error.reason()));
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn a_module_that_is_no_runner_takes_no_bundle() {
    let world = World::new();
    let wasm = Bytes::from(wat_to_wasm("(module (func (export \"run\")))").unwrap());
    let prepared = world.net.block_on(world.sandbox.prepare(wasm, [0; 32], bundle().into()));
    assert_eq!("module-invalid", prepared.unwrap_err().slug());
}

#[test]
fn what_is_no_bundle_is_refused_with_what_is_wrong() {
    let many: Vec<String> = (0..5001).map(|number| format!("{number}.py")).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let json = MANIFEST;
    let huge = vec![0; (128 << 20) + 1];
    let mut cut = bundle();
    cut.truncate(60);
    let mut flipped = bundle();
    flipped[50] ^= 0xff;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("text", b"hello".to_vec(), "not a zip archive"),
        ("nothing", Vec::new(), "not a zip archive"),
        ("cut off", cut, "not a zip archive"),
        ("an altered byte", flipped, "broken"),
        ("another first", pack(&[("a.py", b""), ("pollen.json", json)]), "begins with a.py"),
        ("no object", pack(&[("pollen.json", b"[]")]), "is no JSON object"),
        ("a parent", pack(&[("pollen.json", json), ("../a.py", b"")]), "is no name of a file"),
        ("a root", pack(&[("pollen.json", json), ("/a.py", b"")]), "is no name of a file"),
        ("a backslash", pack(&[("pollen.json", json), ("a\\b.py", b"")]), "is no name of a file"),
        ("a NUL", pack(&[("pollen.json", json), ("a\0b.py", b"")]), "is no name of a file"),
        ("a folder", pack(&[("pollen.json", json), ("a/", b"")]), "is no name of a file"),
        ("many files", pack(&many), "the limit is 5000"),
        ("a bomb", pack(&[("pollen.json", json), ("a", &huge)]), "over 128 MiB"),
    ];
    for (what, packed, reason) in cases {
        let error = Bundle::open(&packed).unwrap_err();
        assert_eq!("bundle-invalid", error.slug(), "{what}");
        assert!(error.reason().contains(reason), "{what}: {}", error.reason());
    }
}

#[test]
fn files_of_a_bundle_are_charged_while_the_seed_is_loaded() {
    let world = World::new();
    let files = vec![7_u8; 1 << 20];
    let packed = pack(&[("pollen.json", MANIFEST), ("data", &files)]);
    let mut settings = settings();
    settings.bundle = Some(Arc::new(Bundle::open(&packed).unwrap()));
    let seed = world.load(runner(), settings);
    world.sandbox.evict_idle();
    assert!(world.sandbox.metrics().memory_bytes > 1 << 20);
    drop(seed);
    assert_eq!(0, world.sandbox.metrics().memory_bytes);
}

#[test]
fn one_identity_never_gets_the_guest_of_another() {
    let world = World::new();
    let seed = loaded(&world);
    assert_eq!("1", world.text(&seed, "count", ""));
    let other = Call { identity: [2; 32], ..call("count", "") };
    let output = world.call_with(&seed, other, Recorder::new()).result.unwrap();
    assert_eq!(b"1", &output.bytes[..]);
}
