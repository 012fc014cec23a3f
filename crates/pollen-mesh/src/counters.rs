//! What is counted of the packets that go through the mesh at this node.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

/// Counters since start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) passed_on: AtomicU64,
    pub(crate) passed_bytes: AtomicU64,
    pub(crate) no_way: AtomicU64,
    pub(crate) over_budget: AtomicU64,
    pub(crate) not_allowed: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) crowded: AtomicU64,
    pub(crate) too_large: AtomicU64,
    pub(crate) halved: AtomicU64,
}

/// The counters at one moment: packets, but for `passed_bytes` and `carriers`. The brain reads them
/// by these names, as `pollen.core.events.MeshSample`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Of this node's own connections.
    pub sent: u64,
    /// For this node's own connections.
    pub received: u64,
    /// Of others, passed on.
    pub passed_on: u64,
    /// Their bytes, without headers.
    pub passed_bytes: u64,
    /// Dropped: no neighbour takes them.
    pub no_way: u64,
    /// Dropped: more than may be passed on.
    pub over_budget: u64,
    /// Dropped: whose source, or destination, is no member, or whose source is forged; or this node
    /// passes nothing on.
    pub not_allowed: u64,
    /// Dropped: they went through as many members as they may.
    pub expired: u64,
    /// Dropped: a queue was full.
    pub crowded: u64,
    /// Dropped: larger than the next carrier takes, which tells their source what fits.
    pub too_large: u64,
    /// Sent on in two halves.
    pub halved: u64,
    /// Neighbours with a carrier now.
    pub carriers: u64,
}

impl Counters {
    pub(crate) fn view(&self, carriers: usize) -> Counts {
        Counts {
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
            passed_on: self.passed_on.load(Relaxed),
            passed_bytes: self.passed_bytes.load(Relaxed),
            no_way: self.no_way.load(Relaxed),
            over_budget: self.over_budget.load(Relaxed),
            not_allowed: self.not_allowed.load(Relaxed),
            expired: self.expired.load(Relaxed),
            crowded: self.crowded.load(Relaxed),
            too_large: self.too_large.load(Relaxed),
            halved: self.halved.load(Relaxed),
            carriers: carriers as u64,
        }
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Relaxed);
}
