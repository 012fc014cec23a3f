//! Fresh guests made ahead: nobody shares one, nobody gives way while one is made, and none is made
//! without calls.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use common::{Recorder, World, call, example};
use pollen_wasm::{Call, Seed, SeedSettings, wat_to_wasm};

fn isolated(world: &World, wasm: impl Into<Bytes>) -> Arc<Seed> {
    let mut settings = SeedSettings::new("fresh");
    settings.isolate = true;
    world.load(wasm, settings)
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
    let seed = isolated(&world, example("hog"));
    for _ in 0..20 {
        world.wait("one is in stock", |_| seed.idle_guests() > 0);
        assert_eq!("1", world.text(&seed, "count", ""));
    }
}

#[test]
fn a_burst_is_served_and_what_it_used_is_given_back() {
    let world = World::with(|config| config.instances = 300);
    let seed = isolated(&world, example("hog"));
    let burst: Vec<_> = (0..256)
        .map(|_| {
            let running = world.sandbox.call(seed.clone(), call("count", ""), Recorder::new());
            world.net.spawn(running)
        })
        .collect();
    for one in burst {
        assert_eq!(b"1", &*world.net.block_on(one).unwrap().result.unwrap().bytes);
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
    let seed = world.example("hog");
    let of = |identity: u8| {
        let call = Call { identity: [identity; 32], ..call("count", "") };
        world.call_with(&seed, call, Recorder::new()).result.unwrap().bytes
    };
    (0..9).for_each(|_| drop(of(1)));
    assert_eq!(1, world.sandbox.metrics().instances, "its own guest is enough");
    assert_eq!(b"1", &*of(2));
    world.wait("one is made ahead for the next", |sandbox| sandbox.metrics().instances > 2);
    assert_eq!([b"1", b"1"], [&*of(3), &*of(4)]);
    assert_eq!([b"2", b"2"], [&*of(3), &*of(2)], "and each keeps its own");
}

#[test]
fn what_a_guest_says_while_it_is_made_ahead_reaches_the_log_of_its_call() {
    let world = World::new();
    let seed = isolated(
        &world,
        wat_to_wasm(
            r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
              (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1) (data (i32.const 16) "begun\n")
            (func (export "_initialize")
              (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 6))
              (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
            (func (export "f")))"#,
        )
        .unwrap(),
    );
    for _ in 0..20 {
        let host = Recorder::new();
        world.call_with(&seed, call("f", ""), host.clone()).result.unwrap();
        assert_eq!(vec!["begun"], host.text());
    }
}
