//! What the tests share: a sandbox of its own for each test, a host that records, calls.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pollen_wasm::{
    Call, Host, HostFuture, LogLevel, NoReply, Outcome, Sandbox, SandboxConfig, Seed, SeedSettings,
    wat_to_wasm,
};
use tokio::runtime::{Builder, Runtime};

/// The checkout that the tests run in. Asked when they run: two checkouts may share one build.
pub fn checkout() -> PathBuf {
    let crates = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    PathBuf::from(crates).join("../..")
}

/// A module of the examples folder.
pub fn example(name: &str) -> Bytes {
    let path = checkout().join(format!("examples/c/{name}.wasm"));
    Bytes::from(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// A sandbox and the two runtimes around it.
pub struct World {
    pub net: Runtime,
    pub guests: Runtime,
    pub sandbox: Sandbox,
}

pub fn config(guests: &Runtime) -> SandboxConfig {
    SandboxConfig {
        memory_bytes: 512 << 20,
        instances: 64,
        cache_dir: None,
        cache_key: [7; 32],
        cache_quota_bytes: 64 << 20,
        guest: guests.handle().clone(),
    }
}

impl World {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let guests = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let net = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut config = config(&guests);
        change(&mut config);
        Self { net, sandbox: Sandbox::new(config).unwrap(), guests }
    }

    pub fn load(&self, wasm: impl Into<Bytes>, settings: SeedSettings) -> Arc<Seed> {
        self.net.block_on(self.sandbox.load(wasm.into(), [1; 32], settings)).unwrap()
    }

    pub fn example(&self, name: &str) -> Arc<Seed> {
        self.load(example(name), SeedSettings::new(name))
    }

    pub fn wat(&self, text: &str) -> Arc<Seed> {
        self.load(wat_to_wasm(text).unwrap(), SeedSettings::new("wat"))
    }

    /// Calls with a fresh recording host.
    pub fn call(&self, seed: &Arc<Seed>, function: &str, input: &str) -> Outcome {
        self.call_with(seed, call(function, input), Recorder::new())
    }

    pub fn call_with(&self, seed: &Arc<Seed>, call: Call, host: Arc<dyn Host>) -> Outcome {
        self.net.block_on(self.sandbox.call(seed.clone(), call, host))
    }

    /// The output as text of a call that must succeed.
    pub fn text(&self, seed: &Arc<Seed>, function: &str, input: &str) -> String {
        let output = self.call(seed, function, input).result.unwrap();
        String::from_utf8(output.bytes.to_vec()).unwrap()
    }

    /// The slug of a call that must fail.
    pub fn slug(&self, seed: &Arc<Seed>, function: &str, input: &str) -> &'static str {
        self.call(seed, function, input).result.unwrap_err().slug()
    }

    /// Waits for a condition, at most 5 s.
    pub fn wait(&self, what: &str, condition: impl Fn(&Sandbox) -> bool) {
        let limit = Instant::now() + Duration::from_secs(5);
        while !condition(&self.sandbox) {
            assert!(Instant::now() < limit, "waited 5 s for: {what}: {:?}", self.sandbox.metrics());
            std::thread::yield_now();
        }
    }
}

pub fn call(function: &str, input: &str) -> Call {
    Call {
        function: Arc::from(function),
        input: Bytes::copy_from_slice(input.as_bytes()),
        identity: [1; 32],
        deadline: Instant::now() + Duration::from_secs(20),
        nested: false,
    }
}

pub fn short(function: &str, input: &str, milliseconds: u64) -> Call {
    Call { deadline: Instant::now() + Duration::from_millis(milliseconds), ..call(function, input) }
}

type Answer = Box<dyn Fn(&str, Bytes) -> Result<Bytes, String> + Send + Sync>;

/// A host that records log lines and answers requests with a closure; without one it never answers.
#[derive(Default)]
pub struct Recorder {
    pub lines: Mutex<Vec<(LogLevel, String)>>,
    pub requests: AtomicUsize,
    /// How often the guest began to wait, went on, and used up a slice.
    pub turns: [AtomicUsize; 3],
    answer: Option<Answer>,
}

impl Recorder {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn answering(
        answer: impl Fn(&str, Bytes) -> Result<Bytes, String> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { answer: Some(Box::new(answer)), ..Self::default() })
    }

    pub fn turns(&self) -> [usize; 3] {
        self.turns.each_ref().map(|count| count.load(Ordering::SeqCst))
    }

    pub fn text(&self) -> Vec<String> {
        self.lines.lock().unwrap().iter().map(|(_, line)| line.clone()).collect()
    }
}

impl Host for Recorder {
    fn request(&self, uri: String, input: Bytes) -> HostFuture<'_> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            match &self.answer {
                Some(answer) => answer(&uri, input).map_err(NoReply::Told),
                None => std::future::pending().await,
            }
        })
    }

    fn waits(&self) {
        self.turns[0].fetch_add(1, Ordering::SeqCst);
    }

    fn runs(&self) {
        self.turns[1].fetch_add(1, Ordering::SeqCst);
    }

    fn burned(&self) {
        self.turns[2].fetch_add(1, Ordering::SeqCst);
    }

    fn log(&self, level: LogLevel, message: &str) {
        self.lines.lock().unwrap().push((level, message.to_owned()));
    }

    fn caller_json(&self) -> String {
        r#"{"peerKey":"00ff"}"#.into()
    }
}

/// A guest whose `run` makes the HTTP request of its input with the body "the body", returns the
/// reply's body, and the status as its code.
pub fn wat_http() -> &'static str {
    r#"(module
    (import "extism:host/env" "input_offset" (func $input (result i64)))
    (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
    (import "extism:host/env" "store_u64" (func $store (param i64 i64)))
    (import "extism:host/env" "length" (func $length (param i64) (result i64)))
    (import "extism:host/env" "output_set" (func $output (param i64 i64)))
    (import "extism:host/env" "http_request" (func $request (param i64 i64) (result i64)))
    (import "extism:host/env" "http_status_code" (func $status (result i32)))
    (func (export "run") (result i32) (local $body i64) (local $reply i64)
      (local.set $body (call $alloc (i64.const 8)))
      (call $store (local.get $body) (i64.const 0x79646f6220656874))
      (local.set $reply (call $request (call $input) (local.get $body)))
      (call $output (local.get $reply) (call $length (local.get $reply)))
      (call $status)))"#
}
