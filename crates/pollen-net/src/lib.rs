//! Links between nodes: who may speak, messages, call streams, probes and content, over iroh QUIC.
//!
//! - [`Net`] (`net.rs`): the endpoint and the table of links; `start.rs`: begins, dials, accepts.
//! - [`Link`] (`link.rs`): one `pollen/1` connection; `greet.rs`: its Hello and its life;
//!   `control_stream.rs`: what is said on it; `silence.rs`: probes and ejection.
//! - [`Upcalls`], [`NetEvent`] (`up.rs`): what is handed up, and asked of those above.
//! - [`content`]: bytes by BLAKE3 behind [`ContentStore`], kept by iroh-blobs; `pins.rs`: until when;
//!   `possession.rs`: for whom; `damage.rs`: whether a copy is as it should be; `turns.rs`: who begins to read.
//! - `carriers.rs`: connections over which packets of others go (`pollen-mesh/1`); `paths.rs`: how the
//!   packets of a link go; `transports.rs`: the settings of all of them; `nudge.rs`: a direct path is looked for again.
//! - `gather.rs`: content from several holders at once; `arriving.rs`: a part of one as it comes; `pace.rs`: how fast;
//!   `fresh.rs`: what just came, for who reads it.
//! - `bulk.rs`: the connections of `pollen-bulk/1`; [`TunnelStream`] (`tunnel.rs`): a tunnel on one; `lane.rs`: one
//!   such connection and its datagrams; `slot.rs`: one dial for all who wait for it.
//! - `disk.rs`: whether a disk is full; `join.rs`: enrolment over `pollen-join/1`.
//!
//! Nothing here decides who is a member: a Hello goes up as [`NetEvent::Hello`] and waits for
//! [`Net::admit`] or [`Net::close_link`] (docs/internals/seam.md).

#![forbid(unsafe_code)]

mod arriving;
mod bulk;
mod carriers;
pub mod content;
mod control_stream;
mod damage;
mod disk;
mod doubt;
mod error;
mod fresh;
mod gather;
mod greet;
mod join;
mod lane;
mod link;
mod net;
mod nudge;
mod pace;
mod paths;
mod pins;
mod possession;
mod silence;
mod slot;
mod start;
mod streams;
mod transports;
mod tunnel;
mod turns;
mod up;
mod warm;

pub use arriving::{Coming, Part, Rest};
pub use content::{ContentStore, Parts};
pub use error::NetError;
pub use fresh::{Fresh, Readers};
pub use iroh::{PublicKey, SecretKey, Signature, endpoint::RecvStream, endpoint::SendStream};
pub use lane::Session;
pub use link::{CallStream, Link, Serving, Streaming};
pub use net::Net;
pub use pace::Pace;
pub use paths::{Candidate, LinkPath, Paths};
pub use pollen_mesh::{Counts, Member, Members, Short, short};
pub use possession::PUBLISHED;
pub use start::NetConfig;
pub use streams::{read_frame, verify_record};
pub use tunnel::{Arrived, BROKEN, CUT, Carries, Refusal, TunnelStream, read_answer};
pub use up::{HelloData, NetEvent, Upcalls, VerifiedRecord};
