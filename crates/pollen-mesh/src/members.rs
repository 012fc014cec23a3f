//! What the forwarder asks of those above it.

use std::sync::Arc;

use pollen_wire::{Id, packet::Short};

/// Next hops of a member at most.
pub(crate) const HOPS: usize = 4;

/// A live member, and the neighbours to whom packets for it go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its key.
    pub id: Id,
    /// Best first; only the first four are used.
    pub hops: Vec<Id>,
}

/// Who is a member, as the brain last said. It is asked for each batch of packets: no locks, no waiting.
pub trait Members: Send + Sync + 'static {
    /// The member of that short id; `None` when there is none, or more than one.
    fn member(&self, short: Short) -> Option<Arc<Member>>;
    /// Whether what the brain said still holds; without that nothing is passed on for others.
    fn is_leased(&self) -> bool;
}
