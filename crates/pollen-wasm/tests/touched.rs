//! What guests write to of the memory that all guests of a component begin with: it is charged when
//! they stop, and no number of them takes more than the node's memory for guests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{Recorder, World, call};
use pollen_wasm::{Call, Sandbox, Seed, SeedSettings, wat_to_wasm};

const MIB: u64 = 1 << 20;

/// The first memory: 26 MiB, as that of the Python runner, and 24 of them are data.
const PAGES: u64 = 416;
const FIRST: u64 = PAGES << 16;

/// `none` does nothing, `fill` writes to each page, `some` to 4 MiB, `hold` writes to each page and
/// then waits for another seed. With `start`, the first of its functions runs when it is made.
fn component(start: &str) -> Vec<u8> {
    let data = "a".repeat(24 << 20);
    let text = format!(
        r#"(component
  (import "pollen:guest/mesh@0.1.0" (instance $mesh
    (export "request" (func (param "uri" string) (param "input" (list u8))
      (result (result (list u8) (error string)))))))
  (core module $libc
    (memory (export "memory") {PAGES})
    (data (i32.const 65536) "{data}")
    (global $top (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $top (i32.add (global.get $top) (local.get 3)))
      (i32.sub (global.get $top) (local.get 3))))
  (core instance $libc (instantiate $libc))
  (core func $request (canon lower (func $mesh "request") (memory (core memory $libc "memory"))
    (realloc (core func $libc "realloc"))))
  (core module $m
    (import "" "memory" (memory {PAGES}))
    (import "" "request" (func $request (param i32 i32 i32 i32 i32)))
    (func $write (param $pages i32) (local $at i32)
      (loop $next
        (i32.store8 (local.get $at) (i32.const 1))
        (local.set $at (i32.add (local.get $at) (i32.const 4096)))
        (br_if $next (i32.lt_u (local.get $at) (i32.shl (local.get $pages) (i32.const 16))))))
    (func $fill (export "fill") (call $write (i32.const {PAGES})))
    (func (export "some") (call $write (i32.const 64)))
    (func (export "none"))
    (func (export "hold") (param i32 i32) (result i32)
      (call $fill)
      (call $request (local.get 0) (local.get 1) (local.get 0) (local.get 1) (i32.const 128))
      (i32.store (i32.const 16) (i32.const 0)) (i32.store (i32.const 20) (i32.const 0))
      (i32.const 16))
    {start})
  (core instance $i (instantiate $m (with "" (instance
    (export "memory" (memory $libc "memory")) (export "request" (func $request))))))
  (func (export "fill") (canon lift (core func $i "fill")))
  (func (export "some") (canon lift (core func $i "some")))
  (func (export "none") (canon lift (core func $i "none")))
  (func (export "hold") (param "uri" (list u8)) (result (list u8))
    (canon lift (core func $i "hold") (memory (core memory $libc "memory"))
      (realloc (core func $libc "realloc")))))"#
    );
    wat_to_wasm(&text).unwrap()
}

fn world(memory: u64) -> World {
    World::with(|config| (config.memory_bytes, config.instances) = (memory, 300))
}

fn loaded(world: &World, start: &str) -> Arc<Seed> {
    world.load(component(start), SeedSettings::new("writer"))
}

fn charged(world: &World) -> u64 {
    world.sandbox.metrics().memory_bytes
}

/// Memory of this process that is nobody else's, bytes.
fn private() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// These tests read the memory of the whole process: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn as_caller(number: usize, function: &str) -> Call {
    let mut identity = [3; 32];
    identity[..8].copy_from_slice(&number.to_le_bytes());
    Call { identity, ..call(function, if function == "hold" { "pln://seed/a/run" } else { "" }) }
}

#[test]
fn what_a_guest_wrote_to_is_charged_after_the_call_and_nothing_else() {
    let _alone = alone();
    let world = world(512 * MIB);
    let seed = loaded(&world, "");
    let fresh = charged(&world);
    assert!((FIRST / 2 - MIB..FIRST).contains(&fresh), "a guess before its first call: {fresh}");
    assert_eq!("", world.text(&seed, "none", ""));
    let none = charged(&world);
    assert!(none < MIB, "it wrote to next to nothing: {none}");
    world.text(&seed, "some", "");
    let some = charged(&world);
    assert!((4 * MIB..6 * MIB).contains(&some), "4 MiB: {some}");
    world.text(&seed, "fill", "");
    assert!((FIRST..FIRST + MIB).contains(&charged(&world)), "{}", charged(&world));
    assert!(seed.reserve_bytes() >= FIRST, "the next call reserves it: {}", seed.reserve_bytes());
    assert_eq!(1, seed.idle_guests(), "it is kept");
    world.sandbox.evict_idle();
    assert_eq!(0, charged(&world));
}

#[test]
fn two_hundred_guests_that_write_to_every_page_and_wait_stay_within_the_nodes_memory() {
    let _alone = alone();
    let memory = 512 * MIB;
    let world = world(memory);
    let seed = loaded(&world, "");
    let before = private();
    let host = Recorder::new();
    let ended = Arc::new(AtomicUsize::new(0));
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let calling = world.sandbox.call(seed.clone(), as_caller(number, "hold"), host.clone());
            let ended = ended.clone();
            world.net.spawn(async move {
                let outcome = calling.await;
                ended.fetch_add(1, Ordering::SeqCst);
                outcome.result
            })
        })
        .collect();
    let held = || host.requests.load(Ordering::SeqCst);
    let mut most = 0;
    let limit = std::time::Instant::now() + Duration::from_secs(60);
    while held() + ended.load(Ordering::SeqCst) < 200 {
        most = most.max(private() - before.min(private()));
        assert!(std::time::Instant::now() < limit, "{} wait, {ended:?} ended", held());
        std::thread::sleep(Duration::from_millis(2));
    }
    most = most.max(private() - before.min(private()));
    let allowed = memory + memory / 10;
    assert!(most <= allowed, "{} MiB, {} guests wait", most / MIB, held());
    assert!((10..20).contains(&held()), "{} guests wait", held());
    assert!(charged(&world) <= memory);
    // Those that found no room did not run, or ended when they stopped.
    let mut refused = 0;
    for call in calls {
        if call.is_finished() {
            let error = world.net.block_on(call).unwrap().unwrap_err();
            assert!(["overloaded", "guest-out-of-memory"].contains(&error.slug()), "{error}");
            refused += 1;
        } else {
            call.abort();
        }
    }
    assert!(refused >= 180, "{refused}");
    let is_nothing = |sandbox: &Sandbox| {
        sandbox.evict_idle();
        sandbox.metrics().instances == 0 && sandbox.metrics().memory_bytes == 0
    };
    world.wait("all is given back", is_nothing);
}

#[test]
fn two_hundred_callers_in_turn_leave_no_more_than_the_idle_half() {
    let _alone = alone();
    let memory = 512 * MIB;
    let world = world(memory);
    let seed = loaded(&world, "");
    let before = private();
    for number in 0..200 {
        let outcome = world.call_with(&seed, as_caller(number, "fill"), Recorder::new());
        assert!(outcome.result.is_ok(), "{outcome:?}");
        let taken = private().saturating_sub(before);
        assert!(taken <= memory / 2 + memory / 10, "{} MiB after {number}", taken / MIB);
    }
    // The last one that is over the half is given back beside the call.
    let is_half = |_: &Sandbox| (7..=9).contains(&seed.idle_guests());
    world.wait("the idle half is left", is_half);
}

#[test]
fn what_runs_when_a_guest_is_made_is_charged_before_its_first_call() {
    let _alone = alone();
    let world = world(512 * MIB);
    let _seed = loaded(&world, "(start $fill)");
    assert!((FIRST..FIRST + MIB).contains(&charged(&world)), "{}", charged(&world));
}

#[test]
fn a_component_whose_memory_no_function_shows_is_charged_in_full() {
    let _alone = alone();
    let world = world(512 * MIB);
    let data = "a".repeat(1 << 20);
    let text = format!(
        r#"(component (core module $m (memory 32) (data (i32.const 0) "{data}")
          (func (export "one") (result i32) (i32.const 1)))
        (core instance $i (instantiate $m))
        (func (export "one") (result u32) (canon lift (core func $i "one"))))"#
    );
    let seed = world.wat(&text);
    assert_eq!("1", world.text(&seed, "one", ""));
    assert_eq!(2 * MIB, charged(&world));
}
