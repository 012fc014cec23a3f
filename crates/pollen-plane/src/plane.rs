//! One node's muscles: what they are made of, and the way to each part. `start.rs` puts them together.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use parking_lot::Mutex;
use pollen_net::Net;
use pollen_seal::Opener;
use pollen_wasm::Sandbox;
use pollen_wire::{Id, close};
use tokio::runtime::Runtime;

use crate::{
    counters::NodeCounters,
    events::EventQueue,
    seen::SeenIds,
    slots::Slots,
    spans::Spans,
    tables::{Held, Push, SeedRow, StaleGeneration},
    trees::Memory,
    tunnels::TakesTunnels,
    watchdog::Heart,
};

/// The muscles of one node; cheap to clone, closed once.
#[derive(Clone)]
pub struct Plane(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) id: Id,
    pub(crate) tables: Held,
    pub(crate) slots: Arc<Slots>,
    pub(crate) seen: SeenIds,
    pub(crate) counters: NodeCounters,
    pub(crate) spans: Arc<Spans>,
    pub(crate) events: EventQueue,
    pub(crate) heart: Arc<Heart>,
    pub(crate) sandbox: Sandbox,
    pub(crate) opener: Opener,
    pub(crate) memory_bytes: u64,
    pub(crate) net: OnceLock<Net>,
    pub(crate) tunnels: Mutex<Option<Arc<dyn TakesTunnels>>>,
    pub(crate) closing: AtomicBool,
    pub(crate) closed: AtomicBool,
    pub(crate) runtimes: Mutex<Option<Runtimes>>,
    pub(crate) handle: tokio::runtime::Handle,
}

pub(crate) struct Runtimes {
    pub(crate) net: Runtime,
    pub(crate) guest: Runtime,
}

impl Plane {
    /// This node's public key.
    pub fn id(&self) -> Id {
        self.0.id
    }

    pub(crate) fn tunnels(&self) -> Option<Arc<dyn TakesTunnels>> {
        self.0.tunnels.lock().clone()
    }

    /// What opens blobs that are sealed for this node.
    pub(crate) fn opener(&self) -> &Opener {
        &self.0.opener
    }

    /// The network side.
    pub fn net(&self) -> &Net {
        // Set before `start` returns, and nothing is served before that.
        self.0.net.get_or_init(|| unreachable!("the network is up before anything is served"))
    }

    /// The runtime that serves network and doors.
    pub fn handle(&self) -> &tokio::runtime::Handle {
        &self.0.handle
    }

    /// The queue towards the brain.
    pub fn events(&self) -> &EventQueue {
        &self.0.events
    }

    /// The pushed tables.
    pub fn tables(&self) -> &Held {
        &self.0.tables
    }

    pub(crate) fn slots(&self) -> &Arc<Slots> {
        &self.0.slots
    }

    pub(crate) fn seen(&self) -> &SeenIds {
        &self.0.seen
    }

    /// The counters of the node.
    pub fn counters(&self) -> &NodeCounters {
        &self.0.counters
    }

    /// The finished spans of sampled calls.
    pub fn spans(&self) -> &Arc<Spans> {
        &self.0.spans
    }

    /// Milliseconds since the brain's last beat.
    pub(crate) fn brain_age(&self) -> u32 {
        u32::try_from(self.0.heart.age().as_millis()).unwrap_or(u32::MAX)
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.0.sandbox
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.0.closing.load(Relaxed)
    }

    pub(crate) fn memory(&self) -> Memory {
        memory(&self.0.sandbox, self.0.memory_bytes)
    }

    /// Bytes that guests hold.
    pub(crate) fn memory_taken(&self) -> u64 {
        self.0.memory_bytes.saturating_sub(self.0.sandbox.memory_available())
    }

    /// What a guest counts at least in a promise of memory, bytes.
    pub(crate) fn least_guest(&self) -> u64 {
        self.memory().least_guest(self.0.sandbox.instances_limit())
    }

    /// The brain lives.
    pub fn beat(&self) {
        self.0.heart.beat();
    }

    /// Applies a push; members that left lose their links at once, and a replica here that was
    /// checked is open from the first row that names it.
    pub fn push(&self, push: Push) -> Result<(), StaleGeneration> {
        let rows = push.seeds.rows.iter();
        let is_ready =
            |row: &&SeedRow| !row.options.check.is_empty() && row.replicas.contains(&self.0.id);
        let ready: Vec<Id> = rows.filter(is_ready).map(|row| row.seed).collect();
        let left = self.0.tables.push(push)?;
        if !ready.is_empty() {
            let tables = self.0.tables.load();
            ready.iter().filter_map(|seed| tables.seed(seed)).for_each(|entry| entry.local.open());
        }
        for peer in left {
            if let Some(link) = self.net().link(peer) {
                self.net().close_link(link.id(), close::DENIED, "no member any more");
            }
        }
        Ok(())
    }

    /// Refuses new calls from now on; those under way go on.
    pub fn refuse_calls(&self) {
        self.0.closing.store(true, Relaxed);
    }

    /// Whether `close` began.
    pub fn is_closed(&self) -> bool {
        self.is_closing()
    }
}

/// Guest memory of a node with `total` bytes of it.
pub(crate) fn memory(sandbox: &Sandbox, total: u64) -> Memory {
    Memory { free: sandbox.memory_available(), reserve: total / 4, total }
}
