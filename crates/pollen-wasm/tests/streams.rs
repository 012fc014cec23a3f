//! What a guest writes ahead of its output: to a caller that streams and to one that does not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{World, call, example, short};
use pollen_wasm::{
    Call, Host, HostFuture, LogLevel, Outcome, Seed, SeedSettings, WriteFuture, wat_to_wasm,
};
use tokio::sync::Semaphore;

/// A caller that takes so many pieces and then rests.
struct Reader {
    streams: bool,
    head: Bytes,
    room: Semaphore,
    pieces: Mutex<Vec<Bytes>>,
    burned: AtomicUsize,
    waited: AtomicUsize,
}

impl Reader {
    fn new(streams: bool, room: usize, head: &'static [u8]) -> Arc<Self> {
        Arc::new(Self {
            streams,
            head: Bytes::from_static(head),
            room: Semaphore::new(room),
            pieces: Mutex::default(),
            burned: AtomicUsize::new(0),
            waited: AtomicUsize::new(0),
        })
    }

    fn eager() -> Arc<Self> {
        Self::new(true, Semaphore::MAX_PERMITS, b"")
    }

    fn whole() -> Arc<Self> {
        Self::new(false, 0, b"")
    }

    fn lengths(&self) -> Vec<usize> {
        self.pieces.lock().unwrap().iter().map(Bytes::len).collect()
    }

    fn text(&self) -> String {
        String::from_utf8(self.pieces.lock().unwrap().concat()).unwrap()
    }
}

impl Host for Reader {
    fn request(&self, _uri: String, _input: Bytes) -> HostFuture<'_> {
        Box::pin(std::future::pending())
    }

    fn head(&self) -> Bytes {
        self.head.clone()
    }

    fn streams(&self) -> bool {
        self.streams
    }

    fn write(&self, piece: Bytes) -> WriteFuture<'_> {
        Box::pin(async move {
            self.room.acquire().await.unwrap().forget();
            self.pieces.lock().unwrap().push(piece);
            true
        })
    }

    fn waits(&self) {
        self.waited.fetch_add(1, Ordering::SeqCst);
    }

    fn burned(&self) {
        self.burned.fetch_add(1, Ordering::SeqCst);
    }

    fn log(&self, _level: LogLevel, _message: &str) {}

    fn caller_json(&self) -> String {
        "{}".to_owned()
    }
}

fn output(outcome: Outcome) -> String {
    String::from_utf8(outcome.result.unwrap().bytes.to_vec()).unwrap()
}

fn ticker(world: &World) -> Arc<Seed> {
    world.example("ticker")
}

#[test]
fn what_was_written_stands_before_the_output() {
    let world = World::new();
    let seed = ticker(&world);
    let whole = world.call_with(&seed, call("count", "2"), Reader::whole());
    assert_eq!("1\n2\ndone\n", output(whole));
    let reader = Reader::eager();
    let last = output(world.call_with(&seed, call("count", "2"), reader.clone()));
    assert_eq!(("1\n2\n".to_owned(), "done\n"), (reader.text(), &*last));
    // The instance forgets it.
    assert_eq!("done\n", output(world.call_with(&seed, call("count", "0"), Reader::whole())));
}

#[test]
fn a_guest_waits_for_its_reader_without_running() {
    let world = World::new();
    let seed = ticker(&world);
    let reader = Reader::new(true, 3, b"");
    let began = Instant::now();
    let ended = world.call_with(&seed, short("forever", "", 700), reader.clone());
    let error = ended.result.unwrap_err();
    assert_eq!(("deadline", true), (error.slug(), error.may_have_executed()));
    assert!(began.elapsed() >= Duration::from_millis(700));
    assert!(ended.run < Duration::from_millis(200), "ran {:?}", ended.run);
    assert_eq!("1\n2\n3\n", reader.text());
    assert!(reader.waited.load(Ordering::SeqCst) >= 1);
    // One slice may pass before its first piece, where the machine holds the thread up.
    assert!(reader.burned.load(Ordering::SeqCst) <= 1);
    world.wait("the guest is gone", |sandbox| sandbox.metrics().running == 0);
}

#[test]
fn a_guest_that_always_finds_room_is_interrupted_as_any_other() {
    let world = World::new();
    let seed = ticker(&world);
    let reader = Reader::eager();
    let ended = world.call_with(&seed, short("forever", "", 300), reader.clone());
    assert_eq!("deadline", ended.result.unwrap_err().slug());
    // By its slices, or because the runtime has it wait after many pieces.
    let given_way = reader.burned.load(Ordering::SeqCst) + reader.waited.load(Ordering::SeqCst);
    assert!(given_way > 10, "it gives way to others: {given_way}");
}

#[test]
fn dropping_the_call_ends_a_guest_that_waits() {
    let world = World::new();
    let seed = ticker(&world);
    let reader = Reader::new(true, 1, b"");
    let before = world.sandbox.metrics().instances;
    world.net.block_on(async {
        let calling = world.sandbox.call(seed.clone(), call("forever", ""), reader.clone());
        let waiting = async {
            while reader.waited.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            ended = calling => panic!("it has no end: {ended:?}"),
            () = waiting => {}
        }
    });
    world.wait("it is discarded", |sandbox| sandbox.metrics().instances < before.max(1));
    assert_eq!("1\n", reader.text());
}

#[test]
fn a_large_block_goes_in_pieces() {
    let world = World::new();
    let seed = world.wat(
        r#"(module
            (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
            (import "extism:host/user" "pollen_write" (func $write (param i64) (result i64)))
            (func (export "f") (result i32)
              (i32.wrap_i64 (call $write (call $alloc (i64.const 600000)))))
            (func (export "nothing") (result i32) (i32.wrap_i64 (call $write (i64.const 12345)))))"#,
    );
    let reader = Reader::eager();
    let ended = world.call_with(&seed, call("f", ""), reader.clone()).result.unwrap();
    assert_eq!((600_000, 0), (ended.status, ended.bytes.len()));
    assert_eq!(vec![262_144, 262_144, 75_712], reader.lengths());
    let ended = world.call_with(&seed, call("nothing", ""), reader.clone()).result.unwrap();
    assert_eq!((0, 3), (ended.status, reader.lengths().len()));
}

#[test]
fn what_is_kept_for_a_whole_reply_has_the_limit_of_an_output_and_is_given_back() {
    let world = World::new();
    let mut settings = SeedSettings::new("ticker");
    settings.guest.memory_bytes = 8 << 20;
    let seed = world.load(example("ticker"), settings);
    for _ in 0..20 {
        let ended = world.call_with(&seed, call("flood", "4"), Reader::whole()).result.unwrap();
        assert_eq!(4 << 20, ended.bytes.len());
    }
    let error = world.call_with(&seed, call("flood", "5"), Reader::whole()).result.unwrap_err();
    assert_eq!("guest-output-too-large", error.slug());
    let reader = Reader::eager();
    assert_eq!("", output(world.call_with(&seed, call("flood", "32"), reader.clone())));
    assert_eq!(32 << 20, reader.lengths().iter().sum::<usize>());
    let mut settings = SeedSettings::new("small");
    settings.guest.memory_bytes = 1 << 20;
    let seed = world.load(example("ticker"), settings);
    let error = world.call_with(&seed, call("flood", "4"), Reader::whole()).result.unwrap_err();
    assert_eq!("guest-out-of-memory", error.slug());
}

#[test]
fn a_tail_call_behind_written_output_is_refused() {
    let world = World::new();
    let seed = ticker(&world);
    for reader in [Reader::whole(), Reader::eager()] {
        let error = world.call_with(&seed, call("relay", ""), reader).result.unwrap_err();
        assert_eq!("guest-failed", error.slug());
        assert!(error.reason().contains("wrote 2 bytes and then made a tail call"), "{error}");
    }
}

#[test]
fn the_head_is_read_beside_the_input() {
    let world = World::new();
    let seed = ticker(&world);
    let headed = Reader::new(false, 0, b"beside");
    assert_eq!("beside", output(world.call_with(&seed, call("head", ""), headed)));
    assert_eq!("none", output(world.call_with(&seed, call("head", ""), Reader::whole())));
}

/// Writes so many times 64 KiB as its input has bytes.
const PROGRAM: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 3)
    (func (export "_start") (local $left i32)
      (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 65536))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 20)))
      (local.set $left (i32.load (i32.const 20)))
      (loop $again
        (if (local.get $left) (then
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br $again))))))"#;

#[test]
fn a_program_streams_its_standard_output_past_the_limit_of_an_output() {
    let world = World::new();
    let seed = world.load(wat_to_wasm(PROGRAM).unwrap(), SeedSettings::new("program"));
    let input = "x".repeat(100);
    let reader = Reader::eager();
    assert_eq!("", output(world.call_with(&seed, call("_start", &input), reader.clone())));
    assert_eq!(100 << 16, reader.lengths().iter().sum::<usize>());
    let whole: Call = call("_start", &input);
    let error = world.call_with(&seed, whole, Reader::whole()).result.unwrap_err();
    assert_eq!("guest-output-too-large", error.slug());
}

#[test]
fn a_program_waits_for_its_reader_without_burning() {
    let world = World::new();
    let seed = world.load(wat_to_wasm(PROGRAM).unwrap(), SeedSettings::new("program"));
    let reader = Reader::new(true, 5, b"");
    let feeding = {
        let reader = reader.clone();
        world.guests.spawn(async move {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                reader.room.add_permits(1);
            }
        })
    };
    let ended = world.call_with(&seed, short("_start", "xx", 700), reader.clone());
    world.net.block_on(feeding).unwrap();
    assert_eq!("deadline", ended.result.unwrap_err().slug());
    assert_eq!(25, reader.lengths().len());
    // Each wait is longer than the slice after which a guest counts as burning.
    assert!(reader.waited.load(Ordering::SeqCst) >= 20);
    assert_eq!(0, reader.burned.load(Ordering::SeqCst));
    assert!(ended.run < Duration::from_millis(200), "ran {:?}", ended.run);
}
