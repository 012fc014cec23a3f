//! Tables pushed by the brain: one consistent snapshot, swapped whole, valid for a lease (PROTOCOL 5).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pollen_wasm::Seed;
use pollen_wire::Id;

use crate::{loading::Flight, metrics::SeedCounters};

/// What the muscles know of one seed; the fields are those of `SeedRow` in `pollen.core.effects`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct SeedRow {
    pub name: Arc<str>,
    pub seed: Id,
    pub content: Id,
    pub functions: Vec<Arc<str>>,
    pub replicas: Vec<Id>,
    pub wake: Vec<Id>,
    pub gate: Vec<(String, String)>,
    pub memory_bytes: u64,
    pub timeout_ms: u64,
    pub config: BTreeMap<String, String>,
    pub env: BTreeMap<String, String>,
    pub allow_hosts: Vec<String>,
    pub idempotent: bool,
    pub isolate: bool,
    pub shared: bool,
    pub public: bool,
    pub tail_call: bool,
}

/// What the muscles know of a member; as `PeerRow` in `pollen.core.effects`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct PeerRow {
    pub peer: Id,
    pub name: String,
    pub properties: Arc<str>,
    pub price_us: u64,
}

/// A seed row with what belongs to it on this node; the latter survives changes of the row.
pub struct SeedEntry {
    /// As pushed.
    pub row: SeedRow,
    /// Counters and the loaded module, shared by successive rows of one spec.
    pub local: Arc<SeedLocal>,
}

/// What this node keeps for a spec.
#[derive(Default)]
pub struct SeedLocal {
    /// Present while the seed can run here.
    pub loaded: ArcSwap<Option<Arc<Seed>>>,
    /// The load under way, for all who wait for it. Held while `loaded` is set by it.
    pub(crate) flight: Mutex<Option<Flight>>,
    /// Since the first row of this spec.
    pub counters: SeedCounters,
}

/// A member with what this node noticed of it.
pub struct PeerEntry {
    /// As pushed.
    pub row: PeerRow,
    /// Survives changes of the row.
    pub local: Arc<PeerLocal>,
}

/// What this node noticed of a member.
#[derive(Default)]
pub struct PeerLocal {
    /// Its last reply said that its queue is full: avoided until this time.
    pub saturated_until: Mutex<Option<Instant>>,
    /// The brain knows until then that calls would use a link to it.
    pub wanted_until: Mutex<Option<Instant>>,
}

/// One consistent view.
#[derive(Default)]
pub struct Tables {
    /// Counts pushes; 0 before the first.
    pub generation: u64,
    seeds: HashMap<Id, Arc<SeedEntry>>,
    names: HashMap<Arc<str>, Arc<SeedEntry>>,
    /// Members.
    pub peers: HashMap<Id, Arc<PeerEntry>>,
}

impl Tables {
    /// By spec hash.
    pub fn seed(&self, seed: &Id) -> Option<&Arc<SeedEntry>> {
        self.seeds.get(seed)
    }

    /// By name.
    pub fn named(&self, name: &str) -> Option<&Arc<SeedEntry>> {
        self.names.get(name)
    }

    /// All rows.
    pub fn seeds(&self) -> impl Iterator<Item = &Arc<SeedEntry>> {
        self.seeds.values()
    }
}

/// A change, as the brain pushes it.
pub struct Push {
    /// What the tables are called afterwards.
    pub generation: u64,
    /// 0 replaces everything, else the generation this builds on.
    pub base: u64,
    /// Rows that are new or changed.
    pub seeds: Vec<SeedRow>,
    /// Rows that go.
    pub gone_seeds: Vec<Id>,
    /// Members that are new or changed.
    pub peers: Vec<PeerRow>,
    /// Members that go.
    pub gone_peers: Vec<Id>,
    /// How long the tables hold without another push.
    pub lease: Duration,
}

/// The push builds on another generation than the one held; it must be sent whole.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the tables are of generation {held}, the push builds on {base}")]
pub struct StaleGeneration {
    /// The generation held.
    pub held: u64,
    /// The one the push named.
    pub base: u64,
}

/// The tables in force and until when.
pub struct Held {
    tables: ArcSwap<Tables>,
    pushed: tokio::sync::Notify,
    writing: Mutex<()>,
    born: Instant,
    /// Nanoseconds after `born` at which the lease ends.
    until: AtomicU64,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            tables: ArcSwap::default(),
            pushed: tokio::sync::Notify::new(),
            writing: Mutex::new(()),
            born: Instant::now(),
            until: AtomicU64::new(0),
        }
    }
}

impl Held {
    /// The tables in force, whether or not their lease holds.
    pub fn load(&self) -> arc_swap::Guard<Arc<Tables>> {
        self.tables.load()
    }

    /// The same, to be kept across awaits.
    pub fn load_full(&self) -> Arc<Tables> {
        self.tables.load_full()
    }

    /// Waits for a push after `generation`, or until the deadline.
    pub async fn changed(&self, generation: u64, deadline: Instant) {
        let pushed = self.pushed.notified();
        if self.tables.load().generation == generation {
            let _ = tokio::time::timeout_at(deadline.into(), pushed).await;
        }
    }

    /// Whether the brain renewed the lease in time. Routes outlive it, admission does not.
    pub fn is_leased(&self) -> bool {
        self.nanos() < self.until.load(Relaxed)
    }

    /// Applies a push in one swap; on an error the tables and the lease stay as they were.
    ///
    /// Returns the members that left, whose links and calls are to be cut.
    pub fn push(&self, push: Push) -> Result<Vec<Id>, StaleGeneration> {
        let _one = self.writing.lock();
        let old = self.tables.load_full();
        if push.base != 0 && push.base != old.generation {
            return Err(StaleGeneration { held: old.generation, base: push.base });
        }
        let (mut seeds, mut peers) = match push.base {
            0 => (HashMap::new(), HashMap::new()),
            _ => (old.seeds.clone(), old.peers.clone()),
        };
        for gone in &push.gone_seeds {
            seeds.remove(gone);
        }
        for gone in &push.gone_peers {
            peers.remove(gone);
        }
        for row in push.seeds {
            let local: Arc<SeedLocal> =
                old.seeds.get(&row.seed).map_or_else(Arc::default, |entry| entry.local.clone());
            if !row.name.is_empty() {
                local.counters.name.get_or_init(|| row.name.clone());
            }
            seeds.insert(row.seed, Arc::new(SeedEntry { row, local }));
        }
        for row in push.peers {
            let local =
                old.peers.get(&row.peer).map_or_else(Arc::default, |entry| entry.local.clone());
            peers.insert(row.peer, Arc::new(PeerEntry { row, local }));
        }
        let names = seeds.values().map(|entry| (entry.row.name.clone(), entry.clone())).collect();
        let left = old.peers.keys().filter(|peer| !peers.contains_key(*peer)).copied().collect();
        self.tables.store(Arc::new(Tables { generation: push.generation, seeds, names, peers }));
        self.pushed.notify_waiters();
        let lease = u64::try_from(push.lease.as_nanos()).unwrap_or(u64::MAX);
        self.until.store(self.nanos().saturating_add(lease), Relaxed);
        Ok(left)
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
