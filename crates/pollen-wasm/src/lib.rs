//! The sandbox: Extism guests on wasmtime, at full speed.
//!
//! Decides nothing about who may call what; it runs one function of one seed and says how that
//! ended. It knows no peers, no routes and no Python.
//!
//! A call, from outside to inside:
//!
//! | module | holds |
//! |---|---|
//! | [`sandbox`](Sandbox) | the handle: load a seed, call it, metrics, close |
//! | `future` | where a call runs: inline first, on the guest runtime once it burns; its deadline |
//! | `call` | one call: take or make a guest, run it, judge the result, keep or discard the guest |
//! | `outcome` | results: errors, statuses, tail-call markers |
//! | `seed`, `registry` | a loaded module, its functions, its idle guests by caller identity |
//! | `guest` | one live instance: store, state, entry protocol |
//! | `imports`, `user`, `http`, `wasi` | what a guest may import |
//! | `program` | WASI commands as seeds: standard input and output of a call |
//! | `kernel`, `classes` | the per-call host heap of the Extism ABI; total, never panics |
//! | `log` | the guest's output, bounded per call |
//! | `meter` | memory: the limit of a guest and the budget of the node |
//! | `engine`, `ticker` | wasmtime's settings, the pool ladder, the 1 ms epoch |
//! | `sharded` | sums that all threads write without meeting |
//! | `compile`, `cache` | one compile thread, and compiled code on disk |
//! | `inspect`, `known` | seed-time checks, no engine needed |
//!
//! Invariants: a guest serves one caller identity (unless the seed is shared); dropping a call's
//! future at any point cancels the guest and discards its instance; importing this crate and
//! naming its types builds no engine, so that a fault handler installed before [`Sandbox::new`]
//! stays first in the chain.

mod cache;
mod call;
mod classes;
mod compile;
mod engine;
mod envelope;
mod error;
mod future;
mod guest;
mod http;
mod imports;
mod inspect;
mod kernel;
mod known;
mod log;
mod meter;
mod outcome;
mod program;
mod registry;
mod sandbox;
mod seed;
mod sharded;
mod sys;
mod ticker;
mod user;
mod wasi;

pub use envelope::{
    Call, Host, HostFuture, LogLevel, ModuleInfo, Outcome, Output, SandboxConfig, SeedSettings,
    TailCall,
};
pub use error::SandboxError;
pub use inspect::wat_to_wasm;
pub use kernel::{Kernel, Quota, Unlimited};
pub use known::known_imports;
pub use sandbox::{Sandbox, SandboxMetrics};
pub use seed::Seed;
pub use sharded::{Sharded, Tally};
