//! The path through other members: a custom transport of iroh, and the forwarder beneath it
//! (docs/decisions/the-mesh-is-the-relay.md).
//!
//! - [`Mesh`] (`forwarder.rs`): where a packet goes next, and whose packets are passed on.
//! - [`Transport`] (`transport.rs`): the mesh as iroh sees it, one [`address`] a peer; `inbox.rs`:
//!   what waits for iroh; [`Prefer`] (`prefer.rs`): which path of a peer is used;
//!   `mint.rs`: that one of a peer that has none.
//! - `slots.rs`: which neighbour a packet goes to; `carrier.rs`: what goes out on one;
//!   `silence.rs`: whether it still carries; [`carry`] (`life.rs`): its life.
//! - [`Members`] (`members.rs`): what is asked of those above; `budget.rs`: how much is passed on.
//! - `halves.rs`: packets in two parts; [`Counts`] (`counters.rs`): what is counted.
//!
//! Nothing here knows who is a member, what a link is, or that there is a brain. Packets are opaque:
//! the connections above encrypt them from end to end.

#![forbid(unsafe_code)]

mod budget;
mod carrier;
mod counters;
mod forwarder;
mod halves;
mod inbox;
mod life;
mod members;
mod mint;
mod prefer;
mod silence;
mod slots;
mod transport;

pub use carrier::{RECEIVE_BUFFER, SEND_BUFFER};
pub use counters::Counts;
pub use forwarder::{Mesh, Wanted};
pub use life::carry;
pub use members::{Member, Members};
pub use pollen_wire::packet::{Short, short};
pub use prefer::{Doubt, Prefer, in_use};
pub use transport::{Transport, address};
