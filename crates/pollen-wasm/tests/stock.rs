//! Fresh guests made ahead: nobody shares one, nobody gives way while one is made, and none is made
//! without calls.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use common::{Recorder, World, call};
use pollen_wasm::{Call, Seed, SeedSettings, wat_to_wasm};

fn isolated(world: &World, wasm: impl Into<Bytes>) -> Arc<Seed> {
    let mut settings = SeedSettings::new("fresh");
    settings.guest.isolate = true;
    world.load(wasm, settings)
}

/// What is made quickly is not made ahead: this one takes half a millisecond, and says "begun" then.
/// `count` returns how often it was called.
fn slow() -> Vec<u8> {
    wat_to_wasm(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write"
          (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 16) "begun\n")
        (global $left (mut i32) (i32.const 1000000)) (global $count (mut i32) (i32.const 0))
        (func (export "_initialize")
          (loop $again
            (global.set $left (i32.sub (global.get $left) (i32.const 1)))
            (br_if $again (global.get $left)))
          (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 6))
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
        (func (export "count") (result i32)
          (global.set $count (i32.add (global.get $count) (i32.const 1)))
          (global.get $count)))"#,
    )
    .unwrap()
}

fn count(world: &World, seed: &Arc<Seed>, identity: u8) -> i32 {
    let call = Call { identity: [identity; 32], ..call("count", "") };
    world.call_with(seed, call, Recorder::new()).result.unwrap().status
}

/// A Go library whose `draw` returns what its generators give first: math/rand/v2 while the
/// package is initialised, the same in the call, and a hash under the seed of maphash.
const DRAW: &str = r#"package main

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
)

//go:wasmimport extism:host/env alloc
func alloc(n uint64) uint64

//go:wasmimport extism:host/env store_u8
func store(offset uint64, value uint32)

//go:wasmimport extism:host/env output_set
func outputSet(offset, length uint64)

var early = rand.Uint64()
var seed = maphash.MakeSeed()

//go:wasmexport draw
func draw() int32 {
	var h maphash.Hash
	h.SetSeed(seed)
	h.WriteString("pollen")
	text := []byte(fmt.Sprintf("%d %d %d", early, rand.Uint64(), h.Sum64()))
	offset := alloc(uint64(len(text)))
	for i, b := range text {
		store(offset+uint64(i), uint32(b))
	}
	outputSet(offset, uint64(len(text)))
	return 0
}

func main() {}
"#;

/// The module of [`DRAW`]; none where Go is not there.
fn draw() -> Option<Bytes> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("go.mod"), "module draw\n\ngo 1.24\n").unwrap();
    std::fs::write(folder.path().join("main.go"), DRAW).unwrap();
    let built = Command::new("go")
        .current_dir(folder.path())
        .envs([("GOOS", "wasip1"), ("GOARCH", "wasm")])
        .args(["build", "-buildmode=c-shared", "-o", "draw.wasm", "."])
        .status();
    assert!(built.is_ok() || std::env::var_os("CI").is_none(), "no Go in CI");
    let module: &Path = &folder.path().join("draw.wasm");
    built.ok()?.success().then(|| Bytes::from(std::fs::read(module).unwrap()))
}

#[test]
fn no_two_of_a_thousand_fresh_go_guests_draw_alike() {
    let Some(wasm) = draw() else {
        println!("skipped: Go 1.24 or newer is not here");
        return;
    };
    let world = World::new();
    let seed = isolated(&world, wasm);
    let mut drawn: [HashSet<String>; 3] = Default::default();
    for _ in 0..1000 {
        let text = world.text(&seed, "draw", "");
        for (place, number) in text.split(' ').enumerate() {
            assert!(drawn[place].insert(number.to_owned()), "{number} was drawn before");
        }
    }
    assert!(drawn.iter().all(|numbers| numbers.len() == 1000));
}

#[test]
fn a_call_that_took_a_fresh_guest_is_followed_by_another_one() {
    let world = World::new();
    let seed = isolated(&world, slow());
    for _ in 0..20 {
        world.wait("one is in stock", |_| seed.idle_guests() > 0);
        assert_eq!(1, count(&world, &seed, 1));
    }
}

#[test]
fn a_burst_is_served_and_what_it_used_is_given_back() {
    let world = World::with(|config| config.instances = 300);
    let seed = isolated(&world, slow());
    let burst: Vec<_> = (0..256)
        .map(|_| {
            let running = world.sandbox.call(seed.clone(), call("count", ""), Recorder::new());
            world.net.spawn(running)
        })
        .collect();
    for one in burst {
        assert_eq!(1, world.net.block_on(one).unwrap().result.unwrap().status);
    }
    world.wait("the spent ones are dropped", |sandbox| sandbox.metrics().instances <= 64);
    drop(seed);
    world.wait("all is given back", |sandbox| sandbox.metrics().memory_bytes == 0);
}

#[test]
fn guests_made_ahead_stay_within_the_memory_of_the_node() {
    // Room for two large guests at once: one is kept, one is at work, none can be made ahead.
    let world = World::with(|config| config.memory_bytes = 8 << 20);
    let kept = world.wat(r#"(module (memory 40) (func (export "f")))"#);
    world.call(&kept, "f", "").result.unwrap();
    assert_eq!(1, kept.idle_guests());
    let fresh =
        isolated(&world, wat_to_wasm(r#"(module (memory 40) (func (export "f")))"#).unwrap());
    for _ in 0..20 {
        world.call(&fresh, "f", "").result.unwrap();
    }
    assert!(world.sandbox.metrics().memory_bytes <= 6 << 20);
    assert!(kept.idle_guests() + fresh.idle_guests() <= 2);
}

#[test]
fn callers_that_differ_fill_the_stock_and_one_caller_does_not() {
    let world = World::new();
    let seed = world.load(slow(), SeedSettings::new("kept"));
    (1..10).for_each(|calls| assert_eq!(calls, count(&world, &seed, 1)));
    assert_eq!(1, world.sandbox.metrics().instances, "its own guest is enough");
    (2..7).for_each(|identity| assert_eq!(1, count(&world, &seed, identity)));
    // Each of the six keeps one.
    world.wait("one is made ahead for the next", |sandbox| sandbox.metrics().instances > 6);
    assert_eq!([10, 2], [1, 2].map(|identity| count(&world, &seed, identity)));
}

#[test]
fn what_a_guest_says_while_it_is_made_ahead_reaches_the_log_of_its_call() {
    let world = World::new();
    let seed = isolated(&world, slow());
    for _ in 0..20 {
        let host = Recorder::new();
        world.call_with(&seed, call("count", ""), host.clone()).result.unwrap();
        assert_eq!(vec!["begun"], host.text());
    }
}
