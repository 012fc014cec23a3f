//! What the network side hands up, and what it asks of those above it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use iroh::endpoint::{RecvStream, SendStream};
use pollen_mesh::Members;
use pollen_wire::{Id, fetch::FetchRequest, hello::Hello};

use crate::{link::Link, tunnel::Arrived};

/// What this node says in its Hello, or a peer said in its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloData {
    /// The cluster.
    pub cluster: Id,
    /// Lowest minor version.
    pub minor_min: u16,
    /// Highest minor version.
    pub minor_max: u16,
    /// Opaque to the muscles.
    pub chain: Vec<u8>,
}

impl HelloData {
    pub(crate) fn wire(&self, boot: [u8; 16]) -> Hello<'_> {
        Hello {
            cluster: self.cluster,
            minor_min: self.minor_min,
            minor_max: self.minor_max,
            boot,
            chain: &self.chain,
        }
    }
}

/// A record whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRecord {
    /// Who signed.
    pub owner: Id,
    /// The exact bytes.
    pub body: Vec<u8>,
    /// ed25519.
    pub signature: [u8; 64],
}

/// What the brain is to know; the fields are those of `pollen.core.events`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NetEvent {
    Hello { link: u64, peer: Id, dialled: bool, remote: String, hello: HelloData, boot: [u8; 16] },
    LinkClosed { link: u64, peer: Id, code: u32, reason: String },
    PathMoved { link: u64, peer: Id, address: String },
    DialFailed { peer: Id, slug: String, reason: String },
    Message { link: u64, peer: Id, body: Vec<u8> },
    Records { link: u64, peer: Id, records: Vec<VerifiedRecord>, rejected: usize },
    Join { request: u64, peer: Id, remote: String, body: Vec<u8> },
}

/// What stands above the network: the call path, the way to the brain, and who is a member.
pub trait Upcalls: Members {
    /// Hands an event up; waits while the queue is full, so that the peer feels it.
    fn emit(&self, event: NetEvent) -> BoxFuture<'_, ()>;
    /// Serves one call stream of an admitted peer; must not block.
    fn serve(&self, link: &Arc<Link>, send: SendStream, recv: RecvStream);
    /// Whether the pushed tables let this peer have that content, else the slug to refuse with. It is given
    /// away only if it was got for the owner of the spec that it is asked for, who is returned.
    fn may_fetch(&self, peer: &Id, request: &FetchRequest<'_>) -> Result<Id, &'static str>;
    /// The copy of a content could not be read from the disk, and may be damaged; must not block.
    fn suspect(&self, content: Id);
    /// Serves a tunnel that a linked peer asks for; must not block.
    fn tunnel(&self, arrived: Arrived);
    /// Milliseconds since the brain last beat.
    fn brain_age_ms(&self) -> u32;
}
