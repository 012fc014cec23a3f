//! Measures calls that each get a fresh guest: an open loop (calls begin at fixed times, whatever
//! the ones before do), a burst, and closed loops. Prints microseconds from the planned start to the end.
//!
//! Run: `cargo run --release -p pollen-wasm --example fresh_cost MODULE FUNCTION [calls a second]`
//! (`examples/build.sh` makes `examples/build/echo-go.wasm`, function `echo`).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod quiet;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pollen_wasm::{Call, Sandbox, SandboxConfig, Seed, SeedSettings};
use quiet::Quiet;

/// Length of an open loop.
const LOOP: Duration = Duration::from_secs(4);

const BURST: usize = 256;

fn call(
    sandbox: &Sandbox,
    seed: &Arc<Seed>,
    function: &str,
    planned: Instant,
) -> impl Future<Output = f64> + Send + use<> {
    let call = Call {
        function: Arc::from(function),
        input: Bytes::from_static(b"0123456789abcdef"),
        identity: [1; 32],
        deadline: Instant::now() + Duration::from_secs(5),
        nested: false,
    };
    let running = sandbox.call(seed.clone(), call, Arc::new(Quiet));
    async move {
        running.await.result.unwrap();
        planned.elapsed().as_secs_f64() * 1e6
    }
}

async fn open_loop(sandbox: &Sandbox, seed: &Arc<Seed>, function: &str, rate: u32) -> Vec<f64> {
    // The kernel wakes a sleeper up to 50 us late unless it is told not to.
    // Why unsafe: a plain system call without pointers, about the calling thread alone.
    #[allow(unsafe_code)]
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
    }
    let began = Instant::now();
    let (mut tasks, mut late) = (Vec::new(), Vec::new());
    for number in 0.. {
        let planned = began + Duration::from_secs(number) / rate;
        if planned.duration_since(began) > LOOP {
            break;
        }
        // The timer of the runtime has a grain of 1 ms, so this thread sleeps itself.
        if let Some(left) = planned.checked_duration_since(Instant::now()) {
            std::thread::sleep(left);
        }
        late.push(planned.elapsed().as_secs_f64() * 1e6);
        tasks.push(tokio::spawn(call(sandbox, seed, function, planned)));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.push(task.await.unwrap());
    }
    show("calls begun after their time", late);
    times
}

/// Calls one after another; how many in a second.
fn closed_loop(
    sandbox: &Sandbox,
    seed: &Arc<Seed>,
    function: &str,
) -> impl Future<Output = u32> + Send + use<> {
    let (sandbox, seed, function) = (sandbox.clone(), seed.clone(), function.to_owned());
    async move {
        let ends = Instant::now() + Duration::from_secs(1);
        let mut count = 0;
        while Instant::now() < ends {
            call(&sandbox, &seed, &function, Instant::now()).await;
            count += 1;
        }
        count
    }
}

fn show(what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let (p50, p99, most) = (at(0.5), at(0.99), at(1.0));
    println!("{what}: p50 {p50:.0} us, p99 {p99:.0} us, most {most:.0} us, n {}", times.len());
}

fn main() {
    let mut given = std::env::args().skip(1);
    let module = given.next().expect("a module");
    let function = given.next().expect("a function");
    let rate: u32 = given.next().map_or(1000, |text| text.parse().expect("a number"));
    let (guests, net) = (runtime(10), runtime(0));
    let sandbox = Sandbox::new(SandboxConfig {
        memory_bytes: 1 << 30,
        instances: 1000,
        cache_dir: None,
        cache_key: [0; 32],
        cache_quota_bytes: 0,
        guest: guests.handle().clone(),
    })
    .unwrap();
    let wasm = Bytes::from(std::fs::read(module).unwrap());
    let mut settings = SeedSettings::new("fresh");
    settings.guest.isolate = true;
    let seed = net.block_on(sandbox.load(wasm, [0; 32], settings)).unwrap();
    for _ in 0..3 {
        let times = net.block_on(open_loop(&sandbox, &seed, &function, rate));
        show(&format!("open loop of {rate}/s"), times);
        let began = Instant::now();
        let burst = (0..BURST).map(|_| net.spawn(call(&sandbox, &seed, &function, began)));
        let burst: Vec<_> = burst.collect();
        let times = burst.into_iter().map(|task| net.block_on(task).unwrap()).collect();
        show(&format!("burst of {BURST}"), times);
        let began = Instant::now();
        let loops = (0..2).map(|_| net.spawn(closed_loop(&sandbox, &seed, &function)));
        let loops: Vec<_> = loops.collect();
        let count: u32 = loops.into_iter().map(|task| net.block_on(task).unwrap()).sum();
        let rate = f64::from(count) / began.elapsed().as_secs_f64();
        println!("two closed loops: {rate:.0} calls a second");
    }
    println!("{:#?}", sandbox.metrics());
    sandbox.close();
}

/// Two threads of this niceness, as a node has them: 10 for guests that burn.
fn runtime(nice: i32) -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.on_thread_start(move || {
        // Why unsafe: a plain system call without pointers, about the calling thread alone.
        #[allow(unsafe_code)]
        unsafe {
            libc::setpriority(libc::PRIO_PROCESS, 0, nice);
        }
    });
    builder.worker_threads(2).enable_all().build().unwrap()
}
