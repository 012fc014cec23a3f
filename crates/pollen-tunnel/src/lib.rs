//! Tunnels: a service of a machine, reached from other members' machines. No byte passes Python.
//!
//! - [`Tunnels`] (`shared.rs`): those of a node; `hub.rs`: how they begin and end, and what is told of them.
//! - `open.rs`: those that are open, judged again when the tables change; `gate.rs`: who may reach a service here.
//! - `opener.rs`: a provider is found for a client; `provider.rs`: a peer's client is served.
//! - `listen.rs`: [`Listener`]s of this machine; `bind.rs`: their sockets; `owner.rs`: whose a client is;
//!   `client.rs`: a client served.
//! - `datagrams.rs`: sessions of UDP begin; `session.rs`: one of them; `recent.rs`: which one makes room.
//! - `pump.rs`: bytes between both ends; `carry.rs`: one direction; `rest.rs`: what is not sent yet; `woken.rs`: which of both is to go on; `socket.rs`: a stream socket; `target.rs`: where a service is;
//!   `proxy.rs`: who calls, told to a service; `circle.rs`: a client that comes back.
//! - `probing.rs`: whether the program of a service works.
//! - `proxying/`: the proxy door, where a client says which service it wants.
//! - `limits.rs`: every number; `refusal.rs`: what is said to who is refused.
//!
//! The call path (`pollen-plane`) does not know them, and they do not know the doors.

#![deny(unsafe_code)]

mod bind;
mod carry;
mod circle;
mod client;
mod datagrams;
mod gate;
mod hub;
mod limits;
mod listen;
mod open;
mod opener;
mod owner;
mod probing;
mod provider;
mod proxy;
mod proxying;
mod pump;
mod recent;
mod refusal;
mod rest;
mod session;
mod shared;
mod socket;
mod target;
mod woken;

pub use listen::Listener;
pub use opener::{Missed, Want};
pub use probing::Probe;
pub use shared::Tunnels;
pub use socket::Socket;
