//! The tunnels that are open, and which of them may stay.
//!
//! Decides: which end when the tables change.
//! Does not know: what runs in them.
//! Invariants: one that is not allowed any more is cut at the push that says so.
//! Source: docs/internals/seam.md#tunnels.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use pollen_plane::tables::{Entry, ServedRow, ServiceCounters, Tables};
use pollen_wire::Id;
use tokio_util::sync::CancellationToken;

use crate::gate::{self, Who};

/// What must hold for a tunnel to stay.
#[derive(Clone)]
pub(crate) enum Bond {
    /// A caller may reach this service here.
    Serves { caller: Id, entry: Arc<Entry<ServedRow>> },
    /// The node that serves us is a member.
    Uses { provider: Id },
}

impl Bond {
    /// All that must hold for those who were let in to a service here.
    pub(crate) fn of(who: &Who, entry: &Arc<Entry<ServedRow>>) -> Vec<Self> {
        let held = |caller| Self::Serves { caller, entry: entry.clone() };
        std::iter::once(who.caller).chain(who.publisher).map(held).collect()
    }

    fn holds(&self, tables: &Tables) -> bool {
        match self {
            Self::Serves { caller, entry } => gate::may_stay(tables, caller, &entry.row),
            Self::Uses { provider } => tables.peers.contains_key(provider),
        }
    }
}

/// What must hold for one of them, and what ends it.
type Held = (Vec<Bond>, CancellationToken);

/// All of a node.
#[derive(Default)]
pub(crate) struct OpenTunnels {
    held: Mutex<HashMap<u64, Held>>,
    numbers: AtomicU64,
    cut: AtomicU64,
}

impl OpenTunnels {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.held.lock().len()
    }

    /// How many were cut because something that must hold did not any more.
    pub(crate) fn cut(&self) -> u64 {
        self.cut.load(Relaxed)
    }

    /// Cuts those that may not stay.
    pub(crate) fn judge(&self, tables: &Tables) {
        for held in self.held.lock().values() {
            self.judge_one(held, tables);
        }
    }

    fn judge_one(&self, (bonds, token): &Held, tables: &Tables) {
        if !token.is_cancelled() && !bonds.iter().all(|bond| bond.holds(tables)) {
            self.cut.fetch_add(1, Relaxed);
            token.cancel();
        }
    }
}

/// An open tunnel; dropped, it is over.
pub(crate) struct OpenTunnel<'a> {
    all: &'a OpenTunnels,
    number: u64,
    counters: Arc<ServiceCounters>,
    /// Cancelled when it is to end.
    pub(crate) cut: CancellationToken,
}

impl<'a> OpenTunnel<'a> {
    /// It is open from now on, under what `tables` says now. `cut` is its own token.
    pub(crate) fn begin(
        all: &'a OpenTunnels,
        bonds: Vec<Bond>,
        counters: Arc<ServiceCounters>,
        cut: CancellationToken,
    ) -> Self {
        let number = all.numbers.fetch_add(1, Relaxed);
        counters.opened.fetch_add(1, Relaxed);
        counters.open.fetch_add(1, Relaxed);
        all.held.lock().insert(number, (bonds, cut.clone()));
        Self { all, number, counters, cut }
    }

    /// Cuts it when it may not stay.
    pub(crate) fn judge(&self, tables: &Tables) {
        if let Some(held) = self.all.held.lock().get(&self.number) {
            self.all.judge_one(held, tables);
        }
    }

    pub(crate) fn counters(&self) -> &ServiceCounters {
        &self.counters
    }
}

impl Drop for OpenTunnel<'_> {
    fn drop(&mut self) {
        self.all.held.lock().remove(&self.number);
        self.counters.open.fetch_sub(1, Relaxed);
    }
}
