//! Measures Python seeds without a node around them: loading, the first call of each seed, calls after
//! that, and the memory that an idle guest has for itself. Prints medians.
//!
//! Run: `xz -dc src/pollen/runtime/runner.wasm.xz > build/runner.wasm`, then
//! `cargo run --release --workspace --example python_cost build/runner.wasm CACHE [SOURCE.py FUNCTION INPUT]`
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod quiet;

use std::io::{Cursor, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pollen_wasm::{Bundle, Call, Outcome, Sandbox, SandboxConfig, Seed, SeedSettings};
use quiet::Quiet;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const SEEDS: usize = 60;
const CALLS: u32 = 50_000;
const TINY: &str = "def greet(name: str = \"world\") -> str:\n    return f\"Hello, {name}!\"\n";

fn packed(source: &str) -> Bytes {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let manifest = r#"{"files":["hello.py"],"main":"hello","pollen":1}"#;
    for (name, text) in [("pollen.json", manifest), ("hello.py", source)] {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner().into()
}

/// Private memory of this process, bytes.
fn private() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// The median and the least, milliseconds. The least is what is left on a busy machine.
fn middle(mut all: Vec<f64>) -> String {
    all.sort_by(f64::total_cmp);
    format!("{:.2} ms (at least {:.2})", all[all.len() / 2], all[0])
}

async fn call(sandbox: &Sandbox, seed: &Arc<Seed>, function: &Arc<str>, input: &Bytes) -> Outcome {
    let call = Call {
        function: function.clone(),
        input: input.clone(),
        identity: [1; 32],
        deadline: Instant::now() + Duration::from_secs(30),
        nested: false,
    };
    sandbox.call(seed.clone(), call, Arc::new(Quiet)).await
}

fn main() {
    let mut words = std::env::args().skip(1);
    let wasm = Bytes::from(std::fs::read(words.next().expect("the runner")).unwrap());
    let cache = PathBuf::from(words.next().expect("a folder for compiled code"));
    let source =
        words.next().map_or(TINY.to_owned(), |path| std::fs::read_to_string(path).unwrap());
    let function: Arc<str> = words.next().unwrap_or_else(|| "greet".to_owned()).into();
    let input = Bytes::from(words.next().unwrap_or_else(|| r#"{"name":"you"}"#.to_owned()));
    let (guests, net) = (runtime(), runtime());
    let sandbox = Sandbox::new(SandboxConfig {
        memory_bytes: 4 << 30,
        instances: 1000,
        cache_dir: Some(cache),
        cache_key: [0; 32],
        cache_quota_bytes: 1 << 30,
        guest: guests.handle().clone(),
    })
    .unwrap();
    let content = *blake3::hash(&wasm).as_bytes();
    let began = Instant::now();
    let prepared = net.block_on(sandbox.prepare(wasm, content, packed(&source))).unwrap();
    println!("prepared in {:?}", began.elapsed());
    let bundle = Arc::new(Bundle::open(&prepared).unwrap());
    let (functions, _) = bundle.description().unwrap();
    // One guest beside those that are measured: it holds the compiled code.
    let seed = |number: usize| {
        let mut settings = SeedSettings::new(&format!("hello{number}"));
        settings.functions.clone_from(&functions);
        settings.bundle = Some(bundle.clone());
        net.block_on(sandbox.load_compiled(content, settings)).unwrap().unwrap()
    };
    let held = seed(SEEDS);
    sandbox.evict_idle();
    let (mut loads, mut firsts, mut seeds) = (Vec::new(), Vec::new(), Vec::new());
    let before = private();
    for number in 0..SEEDS {
        let began = Instant::now();
        seeds.push(seed(number));
        loads.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let unused = private();
    for seed in &seeds {
        let began = Instant::now();
        let outcome = net.block_on(call(&sandbox, seed, &function, &input));
        firsts.push(began.elapsed().as_secs_f64() * 1e3);
        outcome.result.unwrap();
    }
    let idle = sandbox.metrics().idle as f64;
    let each = |bytes: u64| bytes.saturating_sub(before) as f64 / idle / 1e6;
    println!("loading a seed: {}; its first call: {}", middle(loads), middle(firsts));
    println!("private: {:.2} MB unused, {:.2} MB after a call", each(unused), each(private()));
    println!("charged: {:.2} MB", sandbox.metrics().memory_bytes as f64 / idle / 1e6);
    for _ in 0..3 {
        let took = net.block_on(async {
            let began = Instant::now();
            for _ in 0..CALLS {
                call(&sandbox, &seeds[0], &function, &input).await.result.unwrap();
            }
            began.elapsed().as_nanos() as f64 / f64::from(CALLS)
        });
        println!("a further call: {:.2} us", took / 1e3);
    }
    drop((seeds, held));
    sandbox.close();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
