//! The call path: from a door (`pollen-door`) to a guest here or on a peer, and back. No call enters Python. What is
//! decided for a call is decided by `pollen-rules`.
//!
//! - [`tables`]: what the brain pushed, swapped whole, under a lease; `lanes.rs`: its rows; `members.rs`,
//!   `services.rs`: those of members, and of services.
//! - [`TakesTunnels`] (`tunnels.rs`): whoever serves tunnels (`pollen-tunnel`); [`Way`] (`ways.rs`): how it gets to a peer.
//! - [`Plane`] (`plane.rs`): what a node's muscles are made of; `start.rs`: how they begin and end;
//!   `upcalls.rs`: what the network side asks of them.
//! - `route.rs`: the caller's side of a call, as the rule of attempts says; `tries.rs`: one attempt;
//!   `tail.rs`: a call handed on.
//! - [`begin`]: a call that the brain begins.
//! - `candidates.rs`: what a call sees of the places where it may go.
//! - `host.rs`: the callee's side: gate, admission, the guest, its nested calls; `refused.rs`: what a gate says;
//!   `asking.rs`, `reading.rs`: a service that a guest asks, a blob that it reads.
//! - `blobs.rs`, `ranges.rs`: a blob read on this node, and the part of it that is asked for.
//! - `sealed.rs`: a blob that is sealed on its way in, and opened on its way out.
//! - `loading.rs`: a seed loaded for the brain or for a call that woke it, one load at a time;
//!   `inspect.rs`: content checked for being a module.
//! - `slots.rs`, `queue.rs`, `trees.rs`: running slots, who waits for them, what memory a tree of calls takes.
//! - `seen.rs`: ids that must not run twice.
//! - `remote.rs`, `inbound.rs`: one call stream, from its two ends; `pieces.rs`: its frames and chunks.
//! - `outlet.rs`: a request head, and the way of a streamed reply.
//! - [`events`]: the bounded queue towards the brain; `watchdog.rs`: what happens when it is dead.
//! - `counters.rs`, `report.rs`: counters by seed and outcome, and what is told of them.
//! - `paths.rs`: how the packets of a link go, for whoever asks.
//! - `trace.rs`, `spans.rs`: W3C trace context, and the spans of sampled calls.
//! - `process.rs`, `quiet.rs`: user and open files of the process, and lines of the log that do not repeat, for doors and tunnels.
//! - `call.rs`, `draw.rs`, `hex.rs`, `limits.rs`: the ground that all others stand on.
//!
//! No file needs another in a circle (`tests/style/test_crates.py`): `plane.rs` knows the parts, the
//! files that act know `plane.rs`, and `start.rs` knows all.

mod asking;
pub mod begin;
mod beside;
mod blobs;
mod call;
mod candidates;
mod chatter;
mod counters;
mod draw;
pub mod events;
pub mod hex;
mod host;
mod inbound;
mod inspect;
mod lanes;
pub mod limits;
mod loading;
mod members;
mod outlet;
mod paths;
mod pieces;
mod plane;
mod process;
mod queue;
mod quiet;
mod ranges;
mod reading;
mod refused;
mod remote;
mod report;
mod route;
mod sealed;
mod seen;
mod services;
mod slots;
mod spans;
mod start;
pub mod tables;
mod tail;
mod trace;
mod trees;
mod tries;
mod tunnels;
mod upcalls;
mod watchdog;
mod ways;

pub use blobs::{Blob, FoundBlob};
pub use call::{CallError, Principal, Reply, Request, SeedRef, Spent};
pub use outlet::{Extras, Outlet, Sending, Sink};
pub use plane::Plane;
pub use pollen_wasm::{MAX_ANSWER, trim};
pub use process::{Patience, files, files_of_strangers, files_of_tunnels, own_uid};
pub use quiet::Quiet;
pub use ranges::ByteRange;
pub use report::Metric;
pub use spans::{Span, Spans};
pub use start::{PlaneConfig, PlaneError};
pub use trace::Trace;
pub use tunnels::{ServiceAsk, TakesTunnels};
pub use ways::Way;
