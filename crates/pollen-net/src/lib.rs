//! Links between nodes: who may speak, messages, call streams, probes and content, over iroh QUIC.
//!
//! - [`Net`] (`net.rs`): the endpoint; dials, accepts, and keeps the table of admitted links.
//! - [`Link`] (`link.rs`): one `pollen/1` connection: Hello, control stream, probes, ejection.
//! - [`content`]: bytes by BLAKE3 behind [`ContentStore`], kept by iroh-blobs.
//! - `disk.rs`: whether a disk is full; `bulk.rs`: content over `pollen-bulk/1`; `join.rs`: enrolment over `pollen-join/1`.
//!
//! Nothing here decides who is a member: a Hello goes up as [`NetEvent::Hello`] and waits for
//! [`Net::admit`] or [`Net::close_link`] (docs/internals/seam.md).

#![forbid(unsafe_code)]

mod bulk;
pub mod content;
mod disk;
mod error;
mod join;
mod link;
mod net;
mod streams;

pub use content::ContentStore;
pub use error::NetError;
pub use iroh::{PublicKey, SecretKey, Signature, endpoint::RecvStream, endpoint::SendStream};
pub use link::{CallStream, Link, Serving};
pub use net::{HelloData, Net, NetConfig, NetEvent, Upcalls, VerifiedRecord};
pub use streams::{read_frame, verify_record};

/// Close codes a peer sees (docs/internals/seam.md); the brain chooses, except for these two.
pub(crate) const CLOSE_NOT_A_MEMBER: u32 = 1;
pub(crate) const CLOSE_DUPLICATE: u32 = 3;
pub(crate) const CLOSE_SHUTTING_DOWN: u32 = 5;
pub(crate) const CLOSE_PROTOCOL: u32 = 6;
