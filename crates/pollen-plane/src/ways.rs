//! The ways to a node as tunnels take them.

use std::{sync::Arc, time::Instant};

use pollen_net::Link;
use pollen_rules::numbers::{BRAIN_DRAIN, WANTED};
use pollen_wire::Id;

use crate::{
    events,
    plane::Plane,
    tables::{PeerEntry, Tables},
    tunnels::TakesTunnels,
};

/// How a node can be reached now.
pub enum Way {
    /// It is this node.
    Here,
    /// Over this link.
    Link(Arc<Link>),
    /// It is alive, and a link to it is missing.
    Unlinked,
    /// Not at all: it is silent, or no member.
    None,
}

impl Plane {
    /// Hands peers' tunnels to `tunnels` until the muscles end.
    pub fn serve_tunnels(&self, tunnels: Arc<dyn TakesTunnels>) {
        *self.0.tunnels.lock() = Some(tunnels);
    }

    /// The way to a node.
    pub fn way(&self, tables: &Tables, node: Id) -> Way {
        if node == self.id() {
            return Way::Here;
        }
        if !tables.peers.contains_key(&node) {
            return Way::None;
        }
        match self.net().link(node) {
            Some(link) if is_usable(&link) => Way::Link(link),
            Some(_) => Way::None,
            None => Way::Unlinked,
        }
    }

    /// Tells the brain, once a second a peer, that a link to it would be used.
    pub fn want(&self, peer: &Arc<PeerEntry>) {
        let now = Instant::now();
        let mut wanted = peer.local.wanted_until.lock();
        if wanted.is_some_and(|until| now < until) {
            return;
        }
        *wanted = Some(now + WANTED);
        let (plane, peer) = (self.clone(), peer.row.peer);
        tokio::spawn(async move { plane.events().emit(events::Event::LinkWanted { peer }).await });
    }
}

/// Heard of lately, and its brain is alive: a dead one is drained
/// (docs/design/protocol.md#liveness).
pub(crate) fn is_usable(link: &Link) -> bool {
    !link.is_ejected() && u128::from(link.brain_age_ms()) < BRAIN_DRAIN.as_millis()
}
