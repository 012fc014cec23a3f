//! Where a call may go: the replicas of a row, or the ranks that would wake its seed, as this node
//! sees them, and the choice among them (by `percall`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pollen_net::Link;
use pollen_wire::Id;

use crate::{
    events::Event,
    percall::{Candidate, choose, choose_rank},
    plane::Plane,
    route::Progress,
    tables::{PeerEntry, SeedEntry, Tables},
};

/// Rows name at most so many replicas (docs/design/protocol.md#tables).
const MAX_REPLICAS: usize = 16;

/// The brain hears at most so often that a link to one peer is wanted.
const WANTED: Duration = Duration::from_secs(1);

/// Where a call goes next.
pub(crate) enum Next {
    /// To this node; no link means that it is ourselves.
    Try(Id, Option<Arc<Link>>),
    /// Nowhere yet: a replica, or a rank to wake, is alive and not linked.
    Wait,
    /// There is no other.
    Nobody,
}

/// What a call sees of one node.
struct Looked<'a> {
    candidate: Candidate,
    node: Id,
    link: Option<Arc<Link>>,
    /// It is a member to which there is no link, and was not tried.
    unlinked: Option<&'a Arc<PeerEntry>>,
}

impl Plane {
    /// The replica to try next, of the nearest by price and one drawn; of a seed that runs nowhere
    /// the first of the ranks to wake. A full one is better than none: it says itself that it is.
    pub(crate) fn next_replica(
        &self,
        tables: &Tables,
        entry: &SeedEntry,
        progress: &Progress,
    ) -> Next {
        let (nodes, tried) = match entry.row.replicas.as_slice() {
            [] => (entry.row.wake.as_slice(), &progress.asked),
            replicas => (replicas.get(..MAX_REPLICAS).unwrap_or(replicas), &progress.tried),
        };
        match nodes {
            [] => Next::Nobody,
            // A single candidate needs no comparison.
            [only] => {
                let seen = self.look_at(tables, entry, *only, tried.contains(only));
                if !(seen.candidate.ejected || seen.candidate.tried) {
                    return Next::Try(*only, seen.link);
                }
                match seen.unlinked {
                    Some(peer) => {
                        self.want(peer);
                        Next::Wait
                    }
                    None => Next::Nobody,
                }
            }
            several => self.next_of(tables, entry, several, tried),
        }
    }

    fn look_at<'a>(
        &self,
        tables: &'a Tables,
        entry: &SeedEntry,
        node: Id,
        tried: bool,
    ) -> Looked<'a> {
        let mut candidate = Candidate { tried, ..Candidate::default() };
        if node == self.id() {
            candidate.saturated = self.slots().load() == u8::MAX;
            return Looked { candidate, node, link: None, unlinked: None };
        }
        let link = self.net().link(node);
        candidate.ejected = !link.as_ref().is_some_and(|link| self.is_usable(link));
        candidate.in_flight = link.as_ref().map_or(0, |link| link.calls() as u64);
        let peer = tables.peers.get(&node);
        match peer {
            Some(peer) => {
                candidate.price_us = peer.row.price_us;
                let until = *peer.local.saturated_until.lock();
                candidate.saturated = until.is_some_and(|until| Instant::now() < until);
            }
            None => candidate.ejected = true,
        }
        let unlinked = peer.filter(|_| link.is_none() && !tried);
        candidate.service_us = entry.local.counters.run_us.load();
        Looked { candidate, node, link, unlinked }
    }

    fn next_of(&self, tables: &Tables, entry: &SeedEntry, nodes: &[Id], tried: &[Id]) -> Next {
        let is_cold = entry.row.replicas.is_empty();
        let mut looked: Vec<Looked<'_>> = Vec::with_capacity(nodes.len());
        for node in nodes {
            let mut seen = self.look_at(tables, entry, *node, tried.contains(node));
            if *node == self.id() {
                seen.candidate.in_flight = entry.local.counters.in_flight.sum();
                seen.candidate.service_us = entry.local.counters.run_us.load();
            }
            looked.push(seen);
        }
        if !is_cold {
            looked.sort_by_key(|seen| seen.candidate.price_us);
        }
        let mut candidates = [Candidate::default(); MAX_REPLICAS];
        for (slot, seen) in candidates.iter_mut().zip(&looked) {
            *slot = seen.candidate;
        }
        let candidates = candidates.get_mut(..looked.len()).unwrap_or_default();
        let draw = if looked.len() > 2 { crate::plane::draw() } else { 0 };
        let pick = |candidates: &[Candidate]| match is_cold {
            true => choose_rank(candidates),
            false => choose(candidates, draw),
        };
        let mut chosen = pick(candidates);
        if chosen.is_none() && candidates.iter().any(|candidate| candidate.saturated) {
            candidates.iter_mut().for_each(|candidate| candidate.saturated = false);
            chosen = pick(candidates);
        }
        // The first that calls would use if it were linked: the brain may dial it.
        let unlinked = looked.iter().position(|seen| seen.unlinked.is_some());
        if let Some(first) = unlinked
            && chosen.is_none_or(|at| first < at)
            && let Some(peer) = looked.get(first).and_then(|seen| seen.unlinked)
        {
            self.want(peer);
        }
        match chosen.and_then(|at| looked.get_mut(at)) {
            Some(seen) => Next::Try(seen.node, seen.link.take()),
            None if unlinked.is_some() => Next::Wait,
            None => Next::Nobody,
        }
    }

    /// Tells the brain, once a second a peer, that calls would use a link to it.
    fn want(&self, peer: &Arc<PeerEntry>) {
        let now = Instant::now();
        let mut wanted = peer.local.wanted_until.lock();
        if wanted.is_some_and(|until| now < until) {
            return;
        }
        *wanted = Some(now + WANTED);
        let (plane, peer) = (self.clone(), peer.row.peer);
        tokio::spawn(async move { plane.events().emit(Event::LinkWanted { peer }).await });
    }

    /// Heard of lately, and its brain is alive: a dead one is drained
    /// (docs/design/protocol.md#liveness).
    fn is_usable(&self, link: &Link) -> bool {
        !link.is_ejected() && link.brain_age_ms() < crate::watchdog::DRAIN_MS
    }
}
