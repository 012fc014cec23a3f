//! Measures one reused echo call through the whole of `Sandbox::call`, on one thread, and then on
//! all threads of a runtime. Prints nanoseconds a call.
//!
//! Run: `cargo run --release -p pollen-wasm --example call_cost [bytes]`
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod quiet;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pollen_wasm::{Call, Host, Sandbox, SandboxConfig, SeedSettings};
use quiet::Quiet;

const CALLS: u32 = 200_000;

fn main() {
    let bytes: usize = std::env::args().nth(1).map_or(16, |text| text.parse().expect("a number"));
    let guests = runtime();
    let net = runtime();
    let sandbox = Sandbox::new(SandboxConfig {
        memory_bytes: 1 << 30,
        instances: 1000,
        cache_dir: None,
        cache_key: [0; 32],
        cache_quota_bytes: 0,
        guest: guests.handle().clone(),
    })
    .unwrap();
    let wasm = include_bytes!("../../../examples/c/echo.wasm");
    let load = sandbox.load(Bytes::from_static(wasm), [0; 32], SeedSettings::new("echo"));
    let seed = net.block_on(load).unwrap();
    let host: Arc<dyn Host> = Arc::new(Quiet);
    let function: Arc<str> = Arc::from("echo");
    let input = Bytes::from(vec![b'x'; bytes]);
    let calls = |identity: u8| {
        let (sandbox, seed, host) = (sandbox.clone(), seed.clone(), host.clone());
        let (function, input) = (function.clone(), input.clone());
        async move {
            let began = Instant::now();
            for _ in 0..CALLS {
                let deadline = Instant::now() + Duration::from_secs(5);
                let call = Call {
                    function: function.clone(),
                    input: input.clone(),
                    identity: [identity; 32],
                    deadline,
                    nested: false,
                };
                let outcome = sandbox.call(seed.clone(), call, host.clone()).await;
                assert_eq!(bytes, outcome.result.unwrap().bytes.len());
            }
            began.elapsed().as_nanos() as f64 / f64::from(CALLS)
        }
    };
    for _ in 0..3 {
        println!("one thread: {:.0} ns a call of {bytes} bytes", net.block_on(calls(1)));
    }
    let both: Vec<_> = (1..=2).map(|identity| net.spawn(calls(identity))).collect();
    for task in both {
        println!("two threads: {:.0} ns a call each", net.block_on(task).unwrap());
    }
    println!("{:#?}", sandbox.metrics());
    sandbox.close();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
