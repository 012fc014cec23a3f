//! The call path: from a door to a guest here or on a peer, and back. No call enters Python. What is
//! decided for a call is decided by `pollen-rules`.
//!
//! - [`tables`]: what the brain pushed, swapped whole, under a lease.
//! - [`Plane`] (`plane.rs`): the composition: network, sandbox, tables, counters.
//! - `route.rs`: the caller's side of a call, as the rule of attempts says; `tries.rs`: one attempt;
//!   `tail.rs`: a call handed on.
//! - `candidates.rs`: what a call sees of the places where it may go.
//! - `host.rs`: the callee's side: gate, admission, the guest, its nested calls.
//! - `loading.rs`: a seed loaded for the brain or for a call that woke it, one load at a time.
//! - `slots.rs`, `queue.rs`, `trees.rs`: running slots, who waits for them, what memory a tree of calls takes.
//! - `seen.rs`: ids that must not run twice.
//! - `remote.rs`, `inbound.rs`: one call stream, from its two ends.
//! - [`Doors`] (`doors/`): who comes in at the local and the TCP door; `gateway.rs` (HTTP, its answers in
//!   `answer.rs`), `door.rs` (`pollen-call/1`): what is spoken there.
//! - [`events`]: the bounded queue towards the brain; `watchdog.rs`: what happens when it is dead.
//! - [`load`]: the load generator.
//! - `metrics.rs`, `trace.rs`: counters by seed and outcome; W3C trace context and spans.

mod answer;
mod call;
mod candidates;
mod chatter;
mod door;
mod doors;
pub mod events;
mod gateway;
mod host;
mod inbound;
pub mod load;
mod loading;
mod metrics;
mod plane;
mod queue;
mod remote;
mod route;
mod seen;
mod slots;
pub mod tables;
mod tail;
mod trace;
mod trees;
mod tries;
mod watchdog;

pub use call::{CallError, Principal, Reply, Request, SeedRef};
pub use doors::Doors;
pub use metrics::Metric;
pub use plane::{Plane, PlaneConfig, PlaneError};
pub use trace::{Span, Spans, Trace};
