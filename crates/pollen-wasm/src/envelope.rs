//! The call envelope: what goes into the sandbox and what comes out, whatever the guest ABI.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pollen_wire::{frame::MAX_INPUT, options::GuestOptions};

use crate::bundle::Bundle;
use crate::error::SandboxError;

/// What a [`Sandbox`](crate::Sandbox) is built from.
pub struct SandboxConfig {
    /// Budget for all guests of this node together, bytes; a quarter is for nested calls only.
    pub memory_bytes: u64,
    /// Wanted size of the instance pool; the pool ladder may choose less.
    pub instances: u32,
    /// Folder of the compiled-code cache (made 0700); none = no cache.
    pub cache_dir: Option<PathBuf>,
    /// Key of the cache's MAC, derived from the node key.
    pub cache_key: [u8; 32],
    /// Size limit of the cache folder, bytes; the oldest entries go first.
    pub cache_quota_bytes: u64,
    /// The runtime on which burning guests run; it needs its time driver.
    pub guest: tokio::runtime::Handle,
}

/// How a module is read that may be an ordinary program or a library of functions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reading {
    /// As its imports and exports say: a library, where both are possible.
    #[default]
    AsItLooks,
    /// `_start` alone, with the input on stdin and the output from stdout.
    Program,
    /// Its functions are called by name.
    Library,
}

/// What the seed-time checks found in a module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleInfo {
    /// Exports that can be called, in the module's order.
    pub functions: Vec<String>,
    /// What they take and give, as JSON; empty for a module, whose types say nothing of it.
    pub description: String,
    /// It may be read as a program; with other functions than `_start` it may be either.
    pub may_be_program: bool,
    /// Function exports that cannot be called, with the reason.
    pub not_callable: Vec<(String, String)>,
    /// The linear memory the module starts with, bytes.
    pub minimum_memory_bytes: u64,
    /// It runs bundles, and nothing without one.
    pub takes_bundle: bool,
}

/// How a seed is run: its options, and the limits of the sandbox.
#[derive(Debug, Clone)]
pub struct SeedSettings {
    /// The seed's name, for logs and errors.
    pub name: Arc<str>,
    /// Limits, configuration and grants from its spec.
    pub guest: GuestOptions,
    /// Limit of one output, bytes.
    pub max_output_bytes: usize,
    /// Log text kept per call, bytes; the rest is dropped and counted.
    pub log_bytes: usize,
    /// Time for the entry protocol of one guest.
    pub init_timeout: Duration,
    /// Time that a guest may run in one call, without what it waits for; none: its deadline alone.
    pub run_limit: Option<Duration>,
    /// The published functions, of a seed whose module does not name them.
    pub functions: Vec<String>,
    /// The files of a seed that is more than its module.
    pub bundle: Option<Arc<Bundle>>,
}

impl SeedSettings {
    /// The defaults of the ABI for a seed of this name: 64 MiB of memory, 4 MiB of output, 64 KiB
    /// of log, nothing granted.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: Arc::from(name),
            guest: GuestOptions {
                memory_bytes: 64 << 20,
                program: false,
                library: false,
                allow_hosts: Vec::new(),
                tail_call: true,
                isolate: false,
                shared: false,
                config: BTreeMap::new(),
                env: BTreeMap::new(),
            },
            max_output_bytes: MAX_INPUT,
            log_bytes: 64 << 10,
            init_timeout: Duration::from_secs(10),
            run_limit: None,
            functions: Vec::new(),
            bundle: None,
        }
    }

    /// How the module is to be read.
    #[must_use]
    pub fn reading(&self) -> Reading {
        match (self.guest.program, self.guest.library) {
            (true, _) => Reading::Program,
            (_, true) => Reading::Library,
            _ => Reading::AsItLooks,
        }
    }
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The export to run.
    pub function: Arc<str>,
    /// The input, already checked against the input limit.
    pub input: Bytes,
    /// The caller's identity: guests are not reused across identities.
    pub identity: [u8; 32],
    /// When to give up, on the monotonic clock.
    pub deadline: Instant,
    /// The call was made by a guest: it may use the memory reserve.
    pub nested: bool,
}

/// Severity of a guest's log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Finest.
    Trace,
    /// For developers.
    Debug,
    /// Normal, and standard output.
    Info,
    /// Suspicious, and standard error.
    Warn,
    /// Failed.
    Error,
}

/// The largest answer of a host or service outside the mesh's seeds, bytes.
pub const MAX_ANSWER: usize = 50 << 20;

/// Why a request of a guest has no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoReply {
    /// The guest is told, and goes on.
    Told(String),
    /// It may not ask for that: its call ends with this error.
    Ends(SandboxError),
}

impl From<String> for NoReply {
    fn from(text: String) -> Self {
        Self::Told(text)
    }
}

impl From<&str> for NoReply {
    fn from(text: &str) -> Self {
        Self::Told(text.to_owned())
    }
}

impl NoReply {
    /// It asked for what its spec, or a gate, does not allow.
    #[must_use]
    pub fn not_allowed(reason: String, remedy: String) -> Self {
        Self::Ends(SandboxError::ran("guest-host-refused", reason, remedy))
    }
}

/// A boxed future of a host operation.
pub type HostFuture<'a> = Pin<Box<dyn Future<Output = Result<Bytes, NoReply>> + Send + 'a>>;

/// A boxed future of a piece of output on its way: whether it was taken.
pub type WriteFuture<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

/// What a running guest can reach on its node, bound to one call.
pub trait Host: Send + Sync + 'static {
    /// `pollen_request`: the reply's bytes. The text of [`NoReply::Told`] goes to the log and the
    /// guest sees 0. The future may be polled on either runtime and is dropped on cancel.
    fn request(&self, uri: String, input: Bytes) -> HostFuture<'_>;

    /// A request that the guest makes while others of it run: as [`Host::request`], and what it may
    /// use of the budget of calls is shared with them. The guest goes on meanwhile.
    fn begin(self: Arc<Self>, uri: String, input: Bytes) -> HostFuture<'static> {
        Box::pin(async move { self.request(uri, input).await })
    }

    /// The guest waits for requests that were begun, until [`Host::resumes`].
    fn rests(&self) {}

    /// The guest goes on after [`Host::rests`].
    fn resumes(&self) {}

    /// `pollen_head`: the bytes that the caller gave beside the input; empty: none.
    fn head(&self) -> Bytes {
        Bytes::new()
    }

    /// Whether the caller takes the output in pieces while the guest runs.
    fn streams(&self) -> bool {
        false
    }

    /// Hands a piece of the output on to a caller that streams; resolves when the next one may come.
    /// False: nobody takes it. Polled and dropped as that of [`Host::request`].
    fn write(&self, piece: Bytes) -> WriteFuture<'_> {
        drop(piece);
        Box::pin(std::future::ready(false))
    }

    /// The guest is about to wait for something: until [`Host::runs`] it burns nothing.
    fn waits(&self) {}

    /// The guest is about to go on after it waited.
    fn runs(&self) {}

    /// The guest used up a slice and gives way to others.
    fn burned(&self) {}

    /// Takes one log line; must not block.
    fn log(&self, level: LogLevel, message: &str);

    /// The JSON object of `pollen_caller_info`.
    fn caller_json(&self) -> String;

    /// The lowest level that is kept, told to guests that ask; all levels still arrive at `log`.
    fn log_level(&self) -> LogLevel {
        LogLevel::Debug
    }
}

/// How a call ended.
#[derive(Debug)]
pub struct Outcome {
    /// The output, or the error.
    pub result: Result<Output, SandboxError>,
    /// Wall time spent running, without the time awaiting nested calls.
    pub run: Duration,
}

/// What a guest returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The output's bytes.
    pub bytes: Bytes,
    /// The function's return code; not 0 is `guest-status`, with the output delivered.
    pub status: i32,
    /// The parsed marker, when the whole output is one and the seed reads them.
    pub tail_call: Option<TailCall>,
}

/// A guest's wish that the caller's node calls on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailCall {
    /// `pln://seed/<name or hash>/<function>`.
    pub uri: String,
    /// The decoded input.
    pub input: Bytes,
}
