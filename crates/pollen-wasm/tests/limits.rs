//! Limits: memory, pool, output, variables; and what the node keeps of it afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::atomic::Ordering;

use common::{Recorder, World, call, example};
use pollen_wasm::{Call, SeedSettings};

fn limited(world: &World, bytes: u64) -> std::sync::Arc<pollen_wasm::Seed> {
    let mut settings = SeedSettings::new("hog");
    settings.guest.memory_bytes = bytes;
    world.load(example("hog"), settings)
}

#[test]
fn a_guest_over_its_memory_limit_is_out_of_memory_whatever_memory_it_took() {
    let world = World::new();
    let seed = limited(&world, 8 << 20);
    for function in ["linear", "heap"] {
        let error = world.call(&seed, function, "").result.unwrap_err();
        assert_eq!("guest-out-of-memory", error.slug(), "{function}: {error}");
        assert!(error.reason().contains("8388608"), "{error}");
    }
    assert_eq!((0, 0), (world.sandbox.metrics().instances, world.sandbox.metrics().memory_bytes));
    assert!(seed.reserve_bytes() > 7 << 20, "{}", seed.reserve_bytes());
}

#[test]
fn a_refused_growth_alone_is_no_failure() {
    let world = World::new();
    let seed = limited(&world, 8 << 20);
    assert_eq!("refused", world.text(&seed, "grow", "1000"));
    assert_eq!("grown", world.text(&seed, "grow", "10"));
}

#[test]
fn an_instance_that_grew_much_is_not_kept() {
    let world = World::new();
    let seed = limited(&world, 64 << 20);
    assert_eq!("grown", world.text(&seed, "grow", "2"));
    assert_eq!(1, seed.idle_guests());
    assert_eq!("grown", world.text(&seed, "grow", "500"));
    assert_eq!(0, seed.idle_guests());
}

#[test]
fn a_module_that_starts_over_its_limit_is_refused_when_loaded() {
    let world = World::new();
    let wasm = pollen_wasm::wat_to_wasm(r#"(module (memory 200) (func (export "f")))"#).unwrap();
    let mut settings = SeedSettings::new("big");
    settings.guest.memory_bytes = 1 << 20;
    let load = world.sandbox.load(wasm.into(), [0; 32], settings);
    let error = world.net.block_on(load).err().unwrap();
    assert_eq!("module-invalid", error.slug());
    assert!(error.reason().contains("starts with 13107200 bytes"), "{error}");
}

#[test]
fn the_node_s_budget_refuses_growth_and_a_quarter_is_for_nested_calls() {
    let world = World::with(|config| config.memory_bytes = 16 << 20);
    let seed = limited(&world, 64 << 20);
    // 16 MiB in all, 12 for calls that are not nested; 65536 bytes a page.
    let grow = |pages: &str, nested: bool| {
        let call = Call { nested, ..call("grow", pages) };
        let output = world.call_with(&seed, call, Recorder::new()).result.unwrap();
        String::from_utf8(output.bytes.to_vec()).unwrap()
    };
    assert_eq!("refused", grow("210", false));
    assert_eq!("grown", grow("210", true));
    let error = world.call(&seed, "linear", "").result.unwrap_err();
    assert_eq!("guest-out-of-memory", error.slug());
    assert!(error.reason().contains("node"), "{error}");
}

#[test]
fn a_full_node_refuses_new_guests_as_overloaded_and_evicts_idle_ones_first() {
    let world = World::with(|config| config.memory_bytes = 2 << 20);
    let page = r#"(module (memory 6) (func (export "f")))"#;
    let (one, two) = (world.wat(page), world.wat(page));
    for seed in [&one, &two, &one] {
        for identity in [1, 2, 3] {
            let call = Call { identity: [identity; 32], ..call("f", "") };
            world.call_with(seed, call, Recorder::new()).result.unwrap();
        }
    }
    assert!(world.sandbox.metrics().memory_bytes <= 2 << 20);
}

#[test]
fn a_full_pool_is_overloaded_and_nothing_has_run() {
    let world = World::with(|config| config.instances = 2);
    let seed = world.example("relay");
    let hosts = [Recorder::new(), Recorder::new()];
    let waiting: Vec<_> = hosts
        .iter()
        .map(|host| {
            let call = call("relay", "pln://seed/a/b\n");
            world.net.spawn(world.sandbox.call(seed.clone(), call, host.clone()))
        })
        .collect();
    world.wait("both are suspended", |_| {
        hosts.iter().all(|host| host.requests.load(Ordering::SeqCst) == 1)
    });
    let error = world.call(&seed, "caller_info", "").result.unwrap_err();
    assert_eq!(("overloaded", false), (error.slug(), error.may_have_executed()));
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    world.wait("the pool is free", |sandbox| sandbox.metrics().pool_memories == 0);
    assert_eq!(r#"{"peerKey":"00ff"}"#, world.text(&seed, "caller_info", ""));
}

#[test]
fn of_many_seeds_that_nobody_calls_the_last_ones_loaded_keep_a_guest() {
    let world = World::new();
    let wasm = example("echo");
    let seeds: Vec<_> = (0..40)
        .map(|n| {
            let seed = world.load(wasm.clone(), SeedSettings::new(&format!("s{n}")));
            if n == 0 {
                assert_eq!("hi", world.text(&seed, "echo", "hi"));
            }
            seed
        })
        .collect();
    let kept: Vec<usize> = seeds.iter().map(|seed| seed.idle_guests()).collect();
    let (called, others) = kept.split_first().unwrap();
    assert_eq!(1, *called, "a guest that was called stays");
    assert_eq!((31, 8), (others.iter().filter(|n| **n == 0).count(), others.iter().sum()));
    assert_eq!("hi", world.text(&seeds[1], "echo", "hi"), "it gets another one when it is called");
}

#[test]
fn idle_guests_of_one_seed_make_room_in_the_pool_for_another() {
    let world = World::with(|config| config.instances = 1);
    let (echo, shout) = (world.example("echo"), world.example("shout"));
    for _ in 0..3 {
        assert_eq!("a", world.text(&echo, "echo", "a"));
        assert_eq!("A", world.text(&shout, "shout", "a"));
    }
}

#[test]
fn a_busy_seed_takes_the_room_of_large_guests_that_nobody_calls() {
    // Half of it is for guests kept: sixteen of the large ones fill that.
    let world = World::with(|config| config.memory_bytes = 12 << 20);
    let large = world.wat(r#"(module (memory 6) (func (export "f")))"#);
    let keep = |seed: &std::sync::Arc<pollen_wasm::Seed>, name, identity| {
        let call = Call { identity: [identity; 32], ..call(name, "") };
        world.call_with(seed, call, Recorder::new()).result.unwrap().bytes
    };
    (1..=20).for_each(|identity| drop(keep(&large, "f", identity)));
    let full = world.sandbox.metrics().idle_bytes;
    assert!(large.idle_guests() >= 16, "{} are kept", large.idle_guests());
    let busy = world.example("hog");
    let counts: Vec<_> = (0..55).map(|_| keep(&busy, "count", 1)).collect();
    assert_eq!(b"5", &**counts.last().unwrap(), "its guest is kept");
    (1..=20).for_each(|identity| drop(keep(&large, "f", identity)));
    assert_eq!(b"6", &*keep(&busy, "count", 1), "and stays when the others come back");
    let metrics = world.sandbox.metrics();
    assert!(metrics.idle_bytes <= 6 << 20, "{} of {full}", metrics.idle_bytes);
}

#[test]
fn an_output_over_its_limit_is_an_error() {
    let world = World::new();
    let mut settings = SeedSettings::new("hog");
    settings.max_output_bytes = 1000;
    let seed = world.load(example("hog"), settings);
    assert_eq!(1000, world.text(&seed, "output", "1000").len());
    assert_eq!("guest-output-too-large", world.slug(&seed, "output", "1001"));
}

#[test]
fn an_input_that_does_not_fit_into_the_guest_is_refused_before_it_runs() {
    let world = World::new();
    let seed = limited(&world, 1 << 20);
    let error = world.call(&seed, "count", &"x".repeat(2 << 20)).result.unwrap_err();
    assert_eq!(("input-too-large", false), (error.slug(), error.may_have_executed()));
}

#[test]
fn variables_over_one_mebibyte_trap() {
    let world = World::new();
    let seed = world.example("hog");
    assert_eq!("guest-vars-too-large", world.slug(&seed, "vars", ""));
}

#[test]
fn variables_live_as_long_as_the_instance() {
    let world = World::new();
    let seed = world.example("hog");
    assert_eq!(["1", "2", "3"], [(); 3].map(|()| world.text(&seed, "visits", "")));
    world.sandbox.evict_idle();
    assert_eq!("1", world.text(&seed, "visits", ""));
}

#[test]
fn everything_is_given_back_when_the_seeds_are_gone() {
    let world = World::new();
    for name in ["echo", "hog", "relay"] {
        let seed = world.example(name);
        world.call(&seed, "echo", "").result.ok();
        drop(seed);
    }
    let metrics = world.sandbox.metrics();
    assert_eq!(
        (0, 0, 0, 0),
        (metrics.instances, metrics.idle, metrics.idle_bytes, metrics.memory_bytes)
    );
    assert_eq!((0, 0), (metrics.pool_memories, metrics.pool_stacks));
}

#[test]
fn closing_twice_is_harmless_and_loads_and_calls_are_refused_afterwards() {
    let world = World::new();
    let seed = world.example("loop");
    world.sandbox.close();
    world.sandbox.close();
    assert_eq!("overloaded", world.slug(&seed, "loop", ""));
    let load = world.sandbox.load(example("echo"), [0; 32], SeedSettings::new("echo"));
    assert_eq!("overloaded", world.net.block_on(load).err().unwrap().slug());
}

#[test]
fn one_poll_takes_no_more_handles_of_the_host_than_a_guest_may_have() {
    let world = World::new();
    // As many timers as its input has bytes, all of them over at once.
    let text = r#"(module
        (import "extism:host/env" "input_length" (func $length (result i64)))
        (import "wasi_snapshot_preview1" "poll_oneoff"
          (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 100)
        (func (export "run") (result i32)
          (call $poll (i32.const 64) (i32.const 4800064) (i32.wrap_i64 (call $length)) (i32.const 0))))"#;
    let seed = world.wat(text);
    let run = |count: usize| world.call(&seed, "run", &"x".repeat(count)).result;
    assert_eq!(0, run(1_000).unwrap().status);
    let error = run(50_000).unwrap_err();
    assert_eq!("guest-trapped", error.slug(), "{error}");
    assert_eq!(0, run(1_000).unwrap().status, "another guest");
}
