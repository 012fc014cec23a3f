//! Calls: results, errors, deadlines, cancelling, identities, logs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Recorder, World, call, short};
use pollen_wasm::{Call, LogLevel, SeedSettings, TailCall};

#[test]
fn an_echo_returns_its_input_of_any_length() {
    let world = World::new();
    let seed = world.example("echo");
    for length in [0, 1, 7, 8, 9, 4096, 1 << 20] {
        let input = "x".repeat(length);
        assert_eq!(input, world.text(&seed, "echo", &input));
    }
    assert_eq!(1, world.sandbox.metrics().instances);
}

#[test]
fn a_seed_lists_its_functions_and_an_unknown_one_names_them() {
    let world = World::new();
    let seed = world.example("shout");
    assert_eq!(["shout", "upper"].as_slice(), seed.functions());
    assert_eq!("HELLO", world.text(&seed, "upper", "hello"));
    let error = world.call(&seed, "sohut", "").result.unwrap_err();
    assert_eq!("function-not-found", error.slug());
    assert_eq!("its functions: shout, upper", error.remedy());
    assert!(!error.may_have_executed());
}

#[test]
fn a_trap_names_its_kind_and_discards_the_instance() {
    let world = World::new();
    let seed = world.example("trap");
    let error = world.call(&seed, "trap", "").result.unwrap_err();
    assert_eq!("guest-trapped", error.slug());
    assert!(error.reason().contains("unreachable"), "{error}");
    assert!(error.may_have_executed());
    assert_eq!(0, world.sandbox.metrics().instances);
}

#[test]
fn an_error_of_the_guest_carries_its_text_and_keeps_the_instance() {
    let world = World::new();
    let seed = world.example("trap");
    let error = world.call(&seed, "error", "").result.unwrap_err();
    assert_eq!(("guest-failed", "this function always fails"), (error.slug(), error.reason()));
    assert_eq!(1, world.sandbox.metrics().idle);
}

#[test]
fn a_return_code_without_an_error_is_a_status_and_the_output_is_delivered() {
    let world = World::new();
    let seed = world.example("trap");
    let output = world.call(&seed, "status", "").result.unwrap();
    assert_eq!((7, &b"seven"[..]), (output.status, &*output.bytes));
}

#[test]
fn an_endless_loop_ends_at_its_deadline() {
    let world = World::new();
    let seed = world.example("loop");
    let began = Instant::now();
    let host = Recorder::new();
    let outcome = world.call_with(&seed, short("loop", "", 100), host.clone());
    let [waits, _, burned] = host.turns();
    assert!(waits == 0 && burned > 5, "{waits} {burned}");
    let error = outcome.result.unwrap_err();
    assert_eq!(("deadline", true), (error.slug(), error.may_have_executed()));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(outcome.run >= Duration::from_millis(50), "{:?}", outcome.run);
    assert_eq!(0, world.sandbox.metrics().instances);
}

#[test]
fn a_deadline_ends_a_guest_that_awaits_a_reply() {
    let world = World::new();
    let seed = world.example("relay");
    let outcome = world.call_with(&seed, short("relay", "pln://seed/a/b\n", 50), Recorder::new());
    assert_eq!("deadline", outcome.result.unwrap_err().slug());
    assert!(outcome.run < Duration::from_millis(40), "awaiting is not running: {:?}", outcome.run);
}

#[test]
fn a_deadline_that_has_passed_runs_nothing() {
    let world = World::new();
    let seed = world.example("echo");
    let late = Call { deadline: Instant::now(), ..call("echo", "x") };
    let error = world.call_with(&seed, late, Recorder::new()).result.unwrap_err();
    assert_eq!(("deadline", false), (error.slug(), error.may_have_executed()));
}

#[test]
fn four_endless_guests_do_not_stop_the_net_runtime() {
    let world = World::new();
    let seed = world.example("loop");
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let call = short("loop", "", 600);
            world.net.spawn(world.sandbox.call(seed.clone(), call, Recorder::new()))
        })
        .collect();
    let ticks = world.net.block_on(world.net.spawn(async {
        let mut ticks = Vec::new();
        let end = Instant::now() + Duration::from_millis(400);
        while Instant::now() < end {
            let began = Instant::now();
            tokio::time::sleep(Duration::from_millis(1)).await;
            ticks.push(began.elapsed());
        }
        ticks.sort();
        ticks
    }));
    let ticks = ticks.unwrap();
    for call in calls {
        assert_eq!("deadline", world.net.block_on(call).unwrap().result.unwrap_err().slug());
    }
    // The first slices run inline, 2 ms each; the looser bound is for a busy machine.
    let (most, worst) = (ticks[ticks.len() * 95 / 100], ticks[ticks.len() - 1]);
    println!("{} ticks, 95 % under {most:?}, worst {worst:?}", ticks.len());
    assert!(most < Duration::from_millis(20), "{most:?}");
    assert!(worst < Duration::from_millis(100), "{worst:?}");
}

#[test]
fn dropping_a_burning_call_cancels_its_guest() {
    let world = World::new();
    let seed = world.example("loop");
    let running = world.net.spawn(world.sandbox.call(seed, call("loop", ""), Recorder::new()));
    world.wait("the guest runs", |sandbox| sandbox.metrics().running > 0);
    running.abort();
    world.wait("the guest is gone", |sandbox| {
        let metrics = sandbox.metrics();
        metrics.running == 0 && metrics.instances == 0
    });
}

#[test]
fn dropping_a_suspended_call_cancels_its_guest() {
    let world = World::new();
    let seed = world.example("relay");
    let host = Recorder::new();
    let call = call("relay", "pln://seed/a/b\n");
    let waiting = world.net.spawn(world.sandbox.call(seed, call, host.clone()));
    world.wait("the request is made", |_| host.requests.load(Ordering::SeqCst) == 1);
    waiting.abort();
    world.wait("the guest is gone", |sandbox| sandbox.metrics().instances == 0);
}

#[test]
fn an_instance_serves_one_identity_only() {
    let world = World::new();
    let seed = world.example("hog");
    let count = |identity: u8| {
        let call = Call { identity: [identity; 32], ..call("count", "") };
        world.call_with(&seed, call, Recorder::new()).result.unwrap().bytes
    };
    assert_eq!([&b"1"[..], b"2", b"1", b"3"], [&*count(1), &*count(1), &*count(2), &*count(1)]);
}

#[test]
fn a_shared_seed_reuses_instances_across_identities_and_an_isolated_one_never() {
    let world = World::new();
    let count = |change: fn(&mut SeedSettings)| {
        let mut settings = SeedSettings::new("hog");
        change(&mut settings);
        let seed = world.load(common::example("hog"), settings);
        [1, 2, 1].map(|identity| {
            let call = Call { identity: [identity; 32], ..call("count", "") };
            world.call_with(&seed, call, Recorder::new()).result.unwrap().bytes
        })
    };
    assert_eq!(
        [&b"1"[..], b"2", b"3"],
        count(|settings| settings.guest.shared = true).each_ref().map(|b| &**b)
    );
    assert_eq!(
        [&b"1"[..], b"1", b"1"],
        count(|settings| settings.guest.isolate = true).each_ref().map(|b| &**b)
    );
}

#[test]
fn an_output_out_of_range_is_an_error_and_not_an_empty_success() {
    let world = World::new();
    let seed = world.wat(
        r#"(module (import "extism:host/env" "output_set" (func $set (param i64 i64)))
          (func (export "far") (call $set (i64.const 1) (i64.const 999999)))
          (func (export "none") (call $set (i64.const 0) (i64.const 0))))"#,
    );
    let error = world.call(&seed, "far", "").result.unwrap_err();
    assert_eq!(("guest-failed", true), (error.slug(), error.may_have_executed()));
    assert!(error.reason().contains("output_set(1, 999999)"), "{}", error.reason());
    assert!(world.call(&seed, "none", "").result.unwrap().bytes.is_empty());
}

#[test]
fn as_many_instances_are_kept_as_worked_at_once() {
    let world = World::new();
    let seed = world.example("relay");
    let open = Arc::new(AtomicBool::new(false));
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let host = Arc::new(Gate(open.clone()));
            let call = call("relay", "pln://seed/a/b\n");
            world.net.spawn(world.sandbox.call(seed.clone(), call, host))
        })
        .collect();
    world.wait("six at once", |sandbox| sandbox.metrics().instances == 6);
    open.store(true, Ordering::SeqCst);
    for call in calls {
        assert_eq!(b"open", &*world.net.block_on(call).unwrap().result.unwrap().bytes);
    }
    let metrics = world.sandbox.metrics();
    assert_eq!((6, 6, 6), (seed.idle_guests(), metrics.idle, metrics.instances));
}

/// A host whose replies wait until it is opened.
struct Gate(Arc<AtomicBool>);

impl pollen_wasm::Host for Gate {
    fn request(&self, _uri: String, _input: Bytes) -> pollen_wasm::HostFuture<'_> {
        Box::pin(async {
            while !self.0.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
            Ok(Bytes::from_static(b"open"))
        })
    }
    fn log(&self, _level: LogLevel, _message: &str) {}
    fn caller_json(&self) -> String {
        "{}".into()
    }
}

#[test]
fn logs_arrive_with_their_levels_and_stop_at_the_limit() {
    let world = World::new();
    let mut settings = SeedSettings::new("hog");
    // Three lines of 32 bytes, each with 256 for what the node writes beside it.
    settings.log_bytes = 3 * (32 + 256) + 287;
    let seed = world.load(common::example("hog"), settings);
    let host = Recorder::new();
    world.call_with(&seed, call("log", "5"), host.clone()).result.unwrap();
    let lines = host.lines.lock().unwrap();
    assert_eq!(4, lines.len());
    assert!(lines.iter().take(3).all(|(level, line)| *level == LogLevel::Info && line.len() == 32));
    let dropped = (LogLevel::Warn, "64 bytes of log dropped: over the call's limit".to_owned());
    assert_eq!(Some(&dropped), lines.last());
}

#[test]
fn empty_lines_run_out_as_long_ones_do() {
    let world = World::new();
    let seed = world.wat(
        r#"(module (import "extism:host/user" "pollen_log" (func $log (param i64 i64)))
          (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
          (func (export "f") (local $n i32) (local $line i64)
            (local.set $line (call $alloc (i64.const 1)))
            (loop $again (call $log (i64.const 1) (local.get $line))
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br_if $again (i32.lt_u (local.get $n) (i32.const 10000))))))"#,
    );
    let host = Recorder::new();
    world.call_with(&seed, call("f", ""), host.clone()).result.unwrap();
    let lines = host.lines.lock().unwrap().len();
    assert!((200..=257).contains(&lines), "{lines} lines of a byte in 64 KiB");
}

#[test]
fn a_request_reaches_the_host_and_its_reply_is_the_output() {
    let world = World::new();
    let seed = world.example("relay");
    let host = Recorder::answering(|uri, input| Ok(Bytes::from(format!("{uri} got {input:?}"))));
    let call = call("relay", "pln://seed/a/b\nbody");
    let output = world.call_with(&seed, call, host).result.unwrap();
    assert_eq!(&b"pln://seed/a/b got b\"body\""[..], output.bytes);
}

#[test]
fn an_empty_reply_is_no_failure_and_a_failed_request_is_logged() {
    let world = World::new();
    let seed = world.example("relay");
    let request = || call("relay", "pln://seed/a/b\n");
    let empty = Recorder::answering(|_, _| Ok(Bytes::new()));
    assert_eq!(b"", &*world.call_with(&seed, request(), empty).result.unwrap().bytes);
    let failing = Recorder::answering(|_, _| Err("no such seed".into()));
    let error = world.call_with(&seed, request(), failing.clone()).result.unwrap_err();
    assert_eq!("the request failed", error.reason());
    assert_eq!(["pollen_request failed: no such seed"].as_slice(), failing.text());
}

#[test]
fn configuration_reaches_the_guest() {
    let world = World::new();
    let mut settings = SeedSettings::new("relay");
    settings.guest.config.insert("next".into(), "pln://seed/next/run".into());
    let seed = world.load(common::example("relay"), settings);
    let host = Recorder::answering(|uri, _| Ok(Bytes::from(uri.to_owned())));
    let output = world.call_with(&seed, call("relay", "\n"), host).result.unwrap();
    assert_eq!(&b"pln://seed/next/run"[..], output.bytes);
}

#[test]
fn a_guest_sees_who_calls() {
    let world = World::new();
    let seed = world.example("relay");
    assert_eq!(r#"{"peerKey":"00ff"}"#, world.text(&seed, "caller_info", ""));
}

#[test]
fn a_tail_call_is_parsed_and_a_broken_one_is_an_error_unless_the_seed_opts_out() {
    let world = World::new();
    let seed = world.example("relay");
    let output = world.call(&seed, "tail", "pln://seed/b/run").result.unwrap();
    let expected = TailCall { uri: "pln://seed/b/run".into(), input: Bytes::from_static(b"on") };
    assert_eq!(Some(expected), output.tail_call);
    assert_eq!("guest-failed", world.slug(&seed, "garbage", ""));
    let mut settings = SeedSettings::new("relay");
    settings.guest.tail_call = false;
    let seed = world.load(common::example("relay"), settings);
    assert_eq!(None, world.call(&seed, "tail", "pln://seed/b/run").result.unwrap().tail_call);
    assert_eq!(r#"{"kind":"tail_call","uri":"pln://se"#, world.text(&seed, "garbage", ""));
}

#[test]
fn a_function_that_burns_is_known_as_such() {
    let world = World::new();
    let seed = world.example("primes");
    assert_eq!("9592", world.text(&seed, "primes", "100000"));
    assert_eq!("25", world.text(&seed, "primes", "100"));
    assert_eq!("guest-failed", world.slug(&seed, "primes", "many"));
    assert!(seed.smoothed_run_of("primes").unwrap() > Duration::from_micros(500));
    assert_eq!(None, seed.smoothed_run_of("echo"));
}

#[test]
fn a_panic_of_the_host_ends_the_call_and_not_the_caller() {
    let world = World::new();
    let seed = world.example("relay");
    let host = Recorder::answering(|_, _| panic!("a planted panic"));
    let error = world.call_with(&seed, call("relay", "pln://seed/a/b\n"), host).result.unwrap_err();
    assert_eq!("internal", error.slug());
    assert!(error.reason().contains("a planted panic"), "{error}");
    assert_eq!(0, world.sandbox.metrics().instances);
}

#[test]
fn a_guest_may_call_a_guest_within_its_own_call() {
    let world = Arc::new(World::new());
    let echo = world.example("echo");
    let seed = world.example("relay");
    let host = Arc::new(Nested { world: world.clone(), seed: echo });
    let output = world.call_with(&seed, call("relay", "pln://seed/echo/echo\ndeep"), host);
    assert_eq!(&b"deep"[..], output.result.unwrap().bytes);
}

struct Nested {
    world: Arc<World>,
    seed: Arc<pollen_wasm::Seed>,
}

impl pollen_wasm::Host for Nested {
    fn request(&self, _uri: String, input: Bytes) -> pollen_wasm::HostFuture<'_> {
        let call = Call { input, nested: true, ..call("echo", "") };
        let future = self.world.sandbox.call(self.seed.clone(), call, Recorder::new());
        Box::pin(async move {
            future.await.result.map(|output| output.bytes).map_err(|e| e.to_string().into())
        })
    }
    fn log(&self, _level: LogLevel, _message: &str) {}
    fn caller_json(&self) -> String {
        "{}".into()
    }
}

/// Each request goes one level deeper, until the echo at the bottom.
struct Deeper {
    world: Arc<World>,
    relay: Arc<pollen_wasm::Seed>,
    last: Arc<pollen_wasm::Seed>,
    left: usize,
}

impl pollen_wasm::Host for Deeper {
    fn request(&self, _uri: String, input: Bytes) -> pollen_wasm::HostFuture<'_> {
        let left = self.left - 1;
        let (seed, function) = if left == 0 {
            (&self.last, self.last.functions()[0].as_str())
        } else {
            (&self.relay, "relay")
        };
        let mut body = if left == 0 { Vec::new() } else { b"pln://seed/next/run\n".to_vec() };
        body.extend_from_slice(&input);
        let host = Deeper {
            world: self.world.clone(),
            relay: self.relay.clone(),
            last: self.last.clone(),
            left,
        };
        let call = Call { input: Bytes::from(body), nested: true, ..call(function, "") };
        let future = self.world.sandbox.call(seed.clone(), call, Arc::new(host));
        Box::pin(async move {
            future.await.result.map(|output| output.bytes).map_err(|e| e.to_string().into())
        })
    }
    fn log(&self, _level: LogLevel, _message: &str) {}
    fn caller_json(&self) -> String {
        "{}".into()
    }
}

#[test]
fn guests_nest_as_deep_as_the_hop_budget_allows() {
    let world = Arc::new(World::new());
    let (relay, last) = (world.example("relay"), world.example("echo"));
    let host = Deeper { world: world.clone(), relay: relay.clone(), last, left: 16 };
    let call = call("relay", "pln://seed/next/run\ndeep");
    let outcome = world.call_with(&relay, call, Arc::new(host));
    assert_eq!(&b"deep"[..], outcome.result.unwrap().bytes);
}

#[test]
fn dropping_the_first_call_of_a_chain_cancels_all_of_it() {
    let world = Arc::new(World::new());
    let (relay, last) = (world.example("relay"), world.example("loop"));
    let host = Deeper { world: world.clone(), relay: relay.clone(), last, left: 3 };
    let call = call("relay", "pln://seed/next/run\n");
    let chain = world.net.spawn(world.sandbox.call(relay, call, Arc::new(host)));
    world.wait("the loop at depth 3 burns", |sandbox| {
        let metrics = sandbox.metrics();
        metrics.instances - metrics.idle == 4 && metrics.running > 0
    });
    let began = Instant::now();
    chain.abort();
    world.wait("nothing runs", |sandbox| {
        let metrics = sandbox.metrics();
        metrics.running == 0 && metrics.instances == metrics.idle
    });
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
