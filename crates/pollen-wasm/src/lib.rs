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
//! | `call` | one call: take or make a guest, run it, keep or discard it |
//! | `seed` | a loaded module, its functions, its idle guests by caller identity |
//! | `stock` | how many fresh guests of a seed are made ahead of calls |
//! | `guest` | one live guest, and the room that is made for it |
//! | `bundle` | the files of a seed that is more than its module |
//! | `inspect` | seed-time checks, no engine needed |
//! | `abi` | what a module may import, how a call enters and leaves a guest; a folder for each ABI |
//! | `engine` | wasmtime's settings, the 1 ms epoch, compiled code, memory |
//! | `sharded` | sums that all threads write without meeting |
//!
//! Invariants: a guest serves one caller identity (unless the seed is shared); dropping a call's
//! future at any point cancels the guest and discards its instance; importing this crate and
//! naming its types builds no engine, so that a fault handler installed before [`Sandbox::new`]
//! stays first in the chain.

mod abi;
mod bundle;
mod call;
mod engine;
mod envelope;
mod error;
mod future;
mod guest;
mod inspect;
mod sandbox;
mod seed;
mod sharded;
mod stock;
mod sys;
mod waiting;

pub use abi::Kernel;
pub use bundle::{Bundle, MAX_PACKED as MAX_BUNDLE};
pub use engine::budget::{Quota, Unlimited};
pub use envelope::{
    Call, Host, HostFuture, LogLevel, MAX_ANSWER, ModuleInfo, NoReply, Outcome, Output, Reading,
    SandboxConfig, SeedSettings, TailCall, WriteFuture,
};
pub use error::SandboxError;
pub use inspect::{known_imports, wat_to_wasm};
pub use sandbox::{Sandbox, SandboxMetrics};
pub use seed::Seed;
pub use sharded::{Sharded, Tally};
pub use sys::trim;
