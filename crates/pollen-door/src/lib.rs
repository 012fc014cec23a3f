//! The doors of a node: who comes in with a call, and what is spoken there. The call path
//! (`pollen-plane`) does not know them.
//!
//! - [`Doors`] (`doors.rs`): what a stranger may hold of the node, and who is turned away;
//!   `listen.rs`: the accept loops.
//! - `gateway.rs`: HTTP, its answers in `answer.rs`; `framed.rs`: `pollen-call/1`, its streamed
//!   replies in `credit.rs`.
//! - `http.rs`: requests that a component answers.
//! - `contents.rs`: files that come in and go out over HTTP, and never stand in memory.
//! - `reading.rs`: which content a request is for; `address.rs`: its host and its path as text.
//! - `sites.rs`: sites; `site.rs`: what a path is in one; `coding.rs`: its packed forms; `warm.rs`: small
//!   files that stay in memory.
//! - `screen.rs`: one connection's stream; `head.rs`, `chunks.rs`: what may pass it.
//! - `tunnel.rs`: a client that wants a tunnel (`pollen-tunnel`).
//! - `body.rs`: a request's body; `visitors.rs`: who is inside, and the account of bytes.
//! - `limits.rs`: every number of the doors.
//! - [`load`]: the load generator, a caller that needs no door.

mod address;
mod answer;
mod body;
mod chunks;
mod coding;
mod contents;
mod credit;
mod doors;
mod framed;
mod gateway;
mod head;
mod http;
mod limits;
mod listen;
mod reading;
mod screen;
mod site;
mod sites;
mod tunnel;
mod visitors;
mod warm;
pub mod workload;

pub use address::Hosts;
pub use doors::Doors;
