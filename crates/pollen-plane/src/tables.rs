//! Tables pushed by the brain: one consistent snapshot, swapped whole, valid for a lease
//! (docs/design/protocol.md#tables).

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use pollen_net::{Member, Readers, Short, short};
use pollen_rules::match_gate;
pub use pollen_rules::{Policy, Words};
use pollen_seal::Layout;
use pollen_wasm::Seed;
use pollen_wire::{Id, options::SeedOptions};
use tokio_util::sync::CancellationToken;

use crate::{
    call::CallError, chatter::Chatter, counters::SeedCounters, members::lets, trees::HighWater,
};
pub use crate::{
    lanes::{Entry, Lane, Row, Table},
    members::{PeerEntry, PeerLocal, PeerRow, SeedPolicy},
    services::{AnswerView, ServedRow, ServiceCounters, ServiceRow, Services},
};

/// The end of a load of a seed, for all who wait for it.
pub(crate) type Flight = Shared<BoxFuture<'static, Result<(), CallError>>>;

/// The fetch of a blob for those who read it here; the last of them says that it is over.
pub(crate) struct Reading {
    pub(crate) flight: Flight,
    pub(crate) readers: Arc<Readers>,
    pub(crate) ended: Box<dyn Fn() + Send + Sync>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        (self.ended)();
    }
}

/// What the muscles know of one seed; the fields are those of `SeedRow` in `pollen.core.effects`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct SeedRow {
    pub name: Arc<str>,
    pub seed: Id,
    /// Who published it.
    pub publisher: Id,
    pub content: Id,
    pub functions: Vec<Arc<str>>,
    pub replicas: Vec<Id>,
    pub wake: Vec<Id>,
    pub options: SeedOptions,
    pub policy: Option<Arc<SeedPolicy>>,
    pub kind: Kind,
    /// Bytes of `content`.
    pub size: u64,
    /// By role, what it needs beside its module.
    pub manifest: Vec<(Arc<str>, Id)>,
    /// Former versions of the name that are kept, the newest first.
    pub former: Vec<Id>,
    /// Who may host a module: pairs, and a policy.
    pub host: Vec<(String, String)>,
    pub host_policy: Option<Arc<SeedPolicy>>,
}

/// What a spec is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// A module, which is run.
    #[default]
    Module,
    /// A file, which is held and handed out.
    Blob,
    /// An archive of files: a blob that is served as a site.
    Site,
    /// A file that only the nodes can read for which it was sealed.
    Sealed,
}

/// The role of the module in a request for content; the other roles stand in the manifest.
pub(crate) const MODULE: &str = "module";

/// The role of the files that a runner reads.
pub(crate) const BUNDLE: &str = "bundle";

impl SeedRow {
    /// All that has to be held where it runs, with the role of each.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (&str, Id)> {
        let others = self.manifest.iter().map(|(role, content)| (&**role, *content));
        std::iter::once((MODULE, self.content)).chain(others)
    }

    /// The bundle, if it has one.
    pub(crate) fn bundle(&self) -> Option<Id> {
        self.manifest.iter().find(|(role, _)| &**role == BUNDLE).map(|(_, content)| *content)
    }

    /// Whether a member may call it: the pairs of the seed, and its policy where it has one.
    pub fn lets(&self, peer: &PeerRow) -> bool {
        lets(&self.options.allow, self.policy.as_deref(), peer)
    }

    /// Whether a member may have its contents: of a module its hosts, of a blob whoever may read it. What
    /// is sealed is held by others as well.
    pub(crate) fn lets_have(&self, peer: &PeerRow) -> bool {
        match self.kind {
            Kind::Module => lets(&self.host, self.host_policy.as_deref(), peer),
            Kind::Blob | Kind::Site => self.lets(peer),
            Kind::Sealed => true,
        }
    }

    /// Whether a member has the properties that its pairs ask for.
    pub(crate) fn matches(&self, peer: &PeerRow) -> bool {
        match_gate(&self.options.allow, &peer.properties)
    }

    /// Whether it lets every member pass.
    pub(crate) fn has_no_gate(&self) -> bool {
        self.options.allow.is_empty() && self.policy.is_none()
    }

    /// Whether it is held and handed out, and not run.
    pub fn is_blob(&self) -> bool {
        matches!(self.kind, Kind::Blob | Kind::Site | Kind::Sealed)
    }

    /// Whether it is a blob of many files, which is served as a site.
    pub fn is_site(&self) -> bool {
        self.kind == Kind::Site
    }

    /// Whether whoever holds it cannot read it.
    pub fn is_sealed(&self) -> bool {
        self.kind == Kind::Sealed
    }

    /// Whether a client of the TCP door may call it.
    pub fn lets_stranger(&self) -> bool {
        self.options.public && self.policy.as_ref().is_none_or(|held| held.lets_strangers)
    }
}

/// A seed row with its counters and its loaded module.
pub type SeedEntry = Entry<SeedRow>;
impl Row for SeedRow {
    type Local = SeedLocal;

    fn key(&self) -> Id {
        self.seed
    }

    fn settle(&self, local: &SeedLocal) {
        if !self.name.is_empty() {
            local.counters.name.get_or_init(|| self.name.clone());
        }
    }
}

/// What this node keeps for a spec.
#[derive(Default)]
pub struct SeedLocal {
    /// When its first row came.
    pub(crate) since: Since,
    /// Present while the seed can run here.
    pub loaded: ArcSwap<Option<Arc<Seed>>>,
    /// The load under way, for all who wait for it. Held while `loaded` is set by it.
    pub(crate) flight: Mutex<Option<Flight>>,
    /// Ends the load that was begun last, if it is a blob's.
    pub(crate) giving_up: Mutex<CancellationToken>,
    /// Whether what had come by then stays, for another try.
    pub(crate) keeps_part: AtomicBool,
    /// Whether the copy of a blob on this disk is being read for damage.
    pub(crate) is_looked_at: AtomicBool,
    /// The fetch of a blob for those who read it here.
    pub(crate) reading: Mutex<Weak<Reading>>,
    /// Where the plain text of a sealed blob is, once its head was read.
    pub(crate) layout: OnceLock<Layout>,
    /// Loaded for a seed with a check, and not open to callers yet. Held while it is opened.
    pub(crate) closed: Mutex<Option<Arc<Seed>>>,
    /// Rung when what was closed is opened or given up.
    pub(crate) opened: tokio::sync::Notify,
    /// Since the first row of this spec.
    pub counters: SeedCounters,
    /// What it may still log here.
    pub(crate) chatter: Chatter,
    /// Memory that calls of it needed beneath them.
    pub(crate) below: HighWater,
}

/// A moment: that of its making.
pub(crate) struct Since(pub(crate) Instant);

impl Default for Since {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl SeedLocal {
    /// What runs here, whether or not it is open to callers.
    pub(crate) fn held(&self) -> Option<Arc<Seed>> {
        let closed = self.closed.lock();
        (**self.loaded.load()).clone().or_else(|| closed.clone())
    }

    /// Loaded, and not open yet.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.lock().is_some()
    }

    /// A load ended well: open at once, unless a check comes first.
    pub(crate) fn hold(&self, seed: Arc<Seed>, is_checked: bool) {
        let mut closed = self.closed.lock();
        if is_checked {
            *closed = Some(seed);
        } else {
            self.loaded.store(Arc::new(Some(seed)));
        }
    }

    /// Open to callers from now on.
    pub(crate) fn open(&self) {
        let mut closed = self.closed.lock();
        if let Some(seed) = closed.take() {
            self.loaded.store(Arc::new(Some(seed)));
            self.opened.notify_waiters();
        }
    }

    /// Serves no more.
    pub(crate) fn let_go(&self) {
        let mut closed = self.closed.lock();
        *closed = None;
        self.loaded.store(Arc::new(None));
        self.opened.notify_waiters();
    }

    /// What callers may use, as soon as it is opened; `None` when it was given up, or at the
    /// deadline.
    pub(crate) async fn wait_open(&self, deadline: Instant) -> Option<Arc<Seed>> {
        loop {
            let opened = self.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            if !self.is_closed() {
                return (**self.loaded.load()).clone();
            }
            tokio::time::timeout_at(deadline.into(), opened).await.ok()?;
        }
    }
}

/// One consistent view.
#[derive(Default)]
pub struct Tables {
    /// Counts pushes; 0 before the first.
    pub generation: u64,
    seeds: Table<SeedRow>,
    names: HashMap<Arc<str>, Arc<SeedEntry>>,
    /// Members.
    pub peers: Table<PeerRow>,
    ways: Arc<HashMap<Short, Arc<Member>>>,
    /// Who provides which service.
    pub services: Services<ServiceRow>,
    /// What this node provides.
    pub served: Services<ServedRow>,
}

impl Tables {
    /// The member whose key begins like that, and to whom packets for it go; none if two do.
    pub fn way(&self, short: Short) -> Option<&Arc<Member>> {
        self.ways.get(&short)
    }

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
    /// Seeds.
    pub seeds: Lane<SeedRow>,
    /// Members.
    pub peers: Lane<PeerRow>,
    /// Who provides which service.
    pub services: Lane<ServiceRow>,
    /// What this node provides.
    pub served: Lane<ServedRow>,
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
        let is_whole = push.base == 0;
        let seeds = old.seeds.after(push.seeds, is_whole);
        let has_new_peers = is_whole || !push.peers.rows.is_empty() || !push.peers.gone.is_empty();
        let peers = old.peers.after(push.peers, is_whole);
        let ways = if has_new_peers { Arc::new(ways(&peers)) } else { old.ways.clone() };
        let names = seeds.values().map(|entry| (entry.row.name.clone(), entry.clone())).collect();
        let left = old.peers.keys_without(&peers);
        let services = old.services.after(push.services, is_whole);
        let served = old.served.after(push.served, is_whole);
        let generation = push.generation;
        let tables = Tables { generation, seeds, names, peers, ways, services, served };
        self.tables.store(Arc::new(tables));
        self.pushed.notify_waiters();
        let lease = u64::try_from(push.lease.as_nanos()).unwrap_or(u64::MAX);
        self.until.store(self.nanos().saturating_add(lease), Relaxed);
        Ok(left)
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Members by the first bytes of their key. Two that begin alike are not told apart: neither is there.
fn ways(peers: &Table<PeerRow>) -> HashMap<Short, Arc<Member>> {
    let mut ways = HashMap::new();
    let mut twice = Vec::new();
    for PeerRow { peer, hops, .. } in peers.values().map(|entry| &entry.row) {
        let member = Arc::new(Member { id: *peer, hops: hops.clone() });
        if ways.insert(short(peer), member).is_some() {
            twice.push(short(peer));
        }
    }
    twice.iter().for_each(|short| drop(ways.remove(short)));
    ways
}
