//! Puts modules and components from the standard input through the sandbox: inspection, compiling,
//! instantiation, calls. `fuzz/smith` makes them up; each comes with its length before it, as four
//! bytes. Fails on a panic, on memory that is not given back, and when nothing was compiled.
//!
//! Run: `fuzz/run SECONDS`, or `smith SEED | judge SECONDS`: a seed repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod quiet;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pollen_wasm::{Call, Sandbox, SandboxConfig, SeedSettings};
use quiet::Quiet;

/// How long one call may run: many loops have no end.
const CALL: Duration = Duration::from_millis(10);

/// What the process may grow by after the first quarter of its time, bytes: its allocator keeps some.
const GROWTH: u64 = 64 << 20;

#[derive(Default)]
struct Counts {
    made: usize,
    refused: usize,
    compiled: [usize; 2],
    calls: usize,
}

fn try_one(world: &World, wasm: Vec<u8>, counts: &mut Counts) {
    counts.made += 1;
    let is_component = wasm.get(6) == Some(&1);
    if Sandbox::inspect(&wasm).is_err() {
        counts.refused += 1;
        return;
    }
    let settings = SeedSettings { init_timeout: CALL, ..SeedSettings::new("guest") };
    let loaded = world.net.block_on(world.sandbox.load(wasm.into(), [0; 32], settings));
    let Ok(seed) = loaded else { return };
    counts.compiled[usize::from(is_component)] += 1;
    for function in seed.functions().iter().take(4) {
        let call = Call {
            function: Arc::from(function.as_str()),
            input: Bytes::from_static(b"[1,2,3]"),
            identity: [1; 32],
            deadline: Instant::now() + CALL,
            nested: false,
        };
        let _ = world.net.block_on(world.sandbox.call(seed.clone(), call, Arc::new(Quiet)));
        counts.calls += 1;
    }
}

struct World {
    net: tokio::runtime::Runtime,
    _guests: tokio::runtime::Runtime,
    sandbox: Sandbox,
}

fn world() -> World {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let (net, guests) = (runtime(), runtime());
    let sandbox = Sandbox::new(SandboxConfig {
        memory_bytes: 256 << 20,
        instances: 64,
        cache_dir: None,
        cache_key: [0; 32],
        cache_quota_bytes: 0,
        guest: guests.handle().clone(),
    });
    World { net, sandbox: sandbox.unwrap(), _guests: guests }
}

/// Memory of this process, bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// The next one; none at the end.
fn next(input: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    input.read_exact(&mut length).ok()?;
    let mut wasm = vec![0; u32::from_le_bytes(length) as usize];
    input.read_exact(&mut wasm).ok()?;
    Some(wasm)
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

fn main() {
    let mut words = std::env::args().skip(1);
    let seconds: u64 = words.next().map_or(10, |word| word.parse().expect("seconds"));
    let shown = std::panic::take_hook();
    // Those that the sandbox catches count as well.
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        shown(panic);
    }));
    let (world, mut counts, mut input) = (world(), Counts::default(), std::io::stdin().lock());
    let (began, length) = (Instant::now(), Duration::from_secs(seconds));
    let mut settled = None;
    while began.elapsed() < length {
        let Some(wasm) = next(&mut input) else { break };
        let kept = wasm.clone();
        try_one(&world, wasm, &mut counts);
        if PANICS.load(Ordering::SeqCst) > 0 {
            let path = std::env::temp_dir().join(format!("smith-{}.wasm", std::process::id()));
            std::fs::write(&path, kept).unwrap();
            panic!("a panic; what was read is in {}", path.display());
        }
        if settled.is_none() && began.elapsed() > length / 4 {
            settled = Some(resident());
        }
    }
    world.sandbox.evict_idle();
    let grown = resident().saturating_sub(settled.unwrap_or_else(resident));
    let Counts { made, refused, compiled: [modules, components], calls } = counts;
    println!(
        "judge: {made} read, {refused} refused, {modules} modules and {components} components ran \
         {calls} calls, {} MiB grown",
        grown >> 20
    );
    assert!(modules > 0 && components > 0, "nothing was compiled");
    assert!(grown < GROWTH, "{} MiB were not given back", grown >> 20);
    assert_eq!(0, world.sandbox.metrics().memory_bytes, "memory is still charged");
    world.sandbox.close();
}
