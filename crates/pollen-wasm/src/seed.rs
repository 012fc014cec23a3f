//! A loaded seed: its module ready to instantiate, its functions, and its idle guests.
//!
//! Invariants: an idle guest is handed to the identity that it served before, or to anybody when
//! the seed is shared, last in first out. What the last minute needed is kept: guests kept for reuse
//! together stay under half of the node's memory, and of two seeds the one gives way whose guests
//! are worth less.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::abi::contract::Birth;
use crate::abi::{Abi, Linked, Linkers};
use crate::engine::code::{Code, Form};
use crate::engine::meter::Purpose;
use crate::engine::registry::{Idle, Registry};
use crate::envelope::{Host, SeedSettings};
use crate::error::SandboxError;
use crate::future::{BURNS, Runs};
use crate::guest::Guest;
use crate::sharded;
use crate::stock::Stock;
use crate::waiting::{Resting, Share, Waiting};

/// Each thread looks at a share of the idle guests of its own first.
const SHARES: usize = 2;

/// An idle guest lives this long.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// A guest that grew past this many times its initial size is not kept ...
const GROWN: u64 = 4;

/// ... unless it is still smaller than this, bytes (a guess: reuse saves more than it holds).
const SMALL: u64 = 4 << 20;

/// A callable export.
pub(crate) struct Function {
    pub(crate) name: String,
    /// Smoothed run time, ns.
    smoothed: AtomicU64,
}

impl Function {
    /// Smoothed run time of this function, ns; 0 before the first call.
    pub(crate) fn smoothed(&self) -> u64 {
        self.smoothed.load(Ordering::Relaxed)
    }
}

/// The key of guests that have served nobody; no public key is all ones.
const UNUSED: [u8; 32] = [0xff; 32];

/// The key of guests that have served their only call and are about to be dropped.
const SPENT: [u8; 32] = [0xfe; 32];

/// A seed that is loaded and can be called.
pub struct Seed {
    content: [u8; 32],
    /// Held so that all seeds of one module share it.
    code: Arc<Code>,
    registry: Arc<Registry>,
    /// What its bundle takes of the node's memory for guests, bytes.
    bundle_bytes: u64,
    /// What a guest of it takes at least, so that the pool does not run out before memory does, bytes.
    least: u64,
    pub(crate) settings: Arc<SeedSettings>,
    linked: Linked,
    /// Each call gets a guest of its own.
    is_fresh: bool,
    pub(crate) stock: Stock,
    pub(crate) runs: Arc<Runs>,
    functions: Vec<Function>,
    names: Vec<String>,
    index: HashMap<String, usize>,
    idle: [Share; SHARES],
    high_water: AtomicU64,
    smoothed: AtomicU64,
    /// Smoothed time that it takes to make a guest, ns.
    making: AtomicU64,
}

impl Seed {
    /// Links a compiled module; no guest exists afterwards. `least` is what a guest of it is to take
    /// at least.
    pub(crate) fn link(
        linkers: &Linkers,
        code: &Arc<Code>,
        least: u64,
        registry: &Arc<Registry>,
        runs: &Arc<Runs>,
        content: [u8; 32],
        settings: SeedSettings,
    ) -> Result<Arc<Self>, SandboxError> {
        let (abi, exports) = Abi::read(code, &settings);
        let linked = linkers.link(abi, code, &exports, &settings)?;
        let bundle_bytes = settings.bundle.as_ref().map_or(0, |bundle| bundle.bytes());
        if !registry.charge(bundle_bytes, false) {
            return Err(SandboxError::overloaded("there is no memory for the files of the seed"));
        }
        let is_fresh = settings.guest.isolate || !linked.is_kept();
        let names: Vec<String> = exports.callable.into_iter().map(|(name, _)| name).collect();
        let function = |name: &String| Function { name: name.clone(), smoothed: AtomicU64::new(0) };
        let functions = names.iter().map(function).collect();
        let index = names.iter().cloned().enumerate().map(|(at, name)| (name, at)).collect();
        let seed = Arc::new(Self {
            content,
            code: code.clone(),
            registry: registry.clone(),
            bundle_bytes,
            least,
            settings: Arc::new(settings),
            linked,
            is_fresh,
            stock: Stock::new(is_fresh),
            runs: runs.clone(),
            functions,
            names,
            index,
            idle: Default::default(),
            high_water: AtomicU64::new(0),
            smoothed: AtomicU64::new(0),
            making: AtomicU64::new(0),
        });
        let idle: Weak<Self> = Arc::downgrade(&seed);
        registry.add(idle);
        Ok(seed)
    }

    /// Names of the callable functions, in the module's order.
    #[must_use]
    pub fn functions(&self) -> &[String] {
        &self.names
    }

    /// The content id that the seed was loaded under.
    #[must_use]
    pub fn content(&self) -> [u8; 32] {
        self.content
    }

    /// The settings that the seed was loaded with.
    #[must_use]
    pub fn settings(&self) -> &SeedSettings {
        &self.settings
    }

    /// Memory to reserve for one call: the highest use seen so far, bytes.
    #[must_use]
    pub fn reserve_bytes(&self) -> u64 {
        self.high_water.load(Ordering::Relaxed).max(self.least)
    }

    /// Smoothed run time over all functions of the seed; zero before the first call.
    #[must_use]
    pub fn smoothed_run(&self) -> Duration {
        Duration::from_nanos(self.smoothed.load(Ordering::Relaxed))
    }

    /// Smoothed run time of one function; none when it does not exist.
    #[must_use]
    pub fn smoothed_run_of(&self, function: &str) -> Option<Duration> {
        self.function(function).map(|(_, function)| Duration::from_nanos(function.smoothed()))
    }

    /// Number of idle guests.
    #[must_use]
    pub fn idle_guests(&self) -> usize {
        self.totals().0
    }

    pub(crate) fn function(&self, name: &str) -> Option<(usize, &Function)> {
        // Comparing a few names is quicker than hashing one.
        let at = if self.functions.len() <= 8 {
            self.functions.iter().position(|function| function.name == name)?
        } else {
            *self.index.get(name)?
        };
        self.functions.get(at).map(|function| (at, function))
    }

    /// A fresh guest, initialised.
    pub(crate) async fn make(
        &self,
        host: Option<&Arc<dyn Host>>,
        purpose: Purpose,
        deadline: Instant,
    ) -> Result<Box<Guest>, SandboxError> {
        let birth = Birth {
            engine: self.code.engine(),
            registry: &self.registry,
            settings: &self.settings,
            host,
            purpose,
            deadline,
        };
        let began = Instant::now();
        let mut guest = Guest::make(&self.linked, &birth).await?;
        smooth(&self.making, nanos(began.elapsed()));
        self.note_memory(guest.living.meter().charged());
        Ok(guest)
    }

    pub(crate) fn note_memory(&self, bytes: u64) {
        if bytes > self.high_water.load(Ordering::Relaxed) {
            self.high_water.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    /// Takes a run time into the averages. Concurrent updates may lose one; that is harmless.
    ///
    /// `sample` is the guest's count of calls: short runs are taken every eighth time, because the
    /// averages are shared by all threads.
    pub(crate) fn note_run(&self, function: usize, run: Duration, sample: u32) {
        let run = nanos(run);
        let known = self.functions.get(function).is_some_and(|function| function.smoothed() > 0);
        if known && run < BURNS / 8 && !sample.is_multiple_of(8) {
            return;
        }
        for average in
            self.functions.get(function).map(|f| &f.smoothed).into_iter().chain([&self.smoothed])
        {
            smooth(average, run);
        }
    }

    fn key(&self, identity: [u8; 32]) -> [u8; 32] {
        if self.settings.guest.shared { [0; 32] } else { identity }
    }

    /// An idle guest that this identity used, the last one first, if any.
    pub(crate) fn take(&self, identity: [u8; 32]) -> Option<Box<Guest>> {
        if self.is_fresh {
            return None;
        }
        let key = self.key(identity);
        let mut counted = false;
        let of = self.shares().find_map(|share| {
            let mut waiting = share.lock();
            waiting.uses += u64::from(!std::mem::replace(&mut counted, true));
            waiting.pop(&key)
        });
        of.map(|idle| self.taken(idle))
    }

    /// A guest that has served nobody, if one is in stock.
    pub(crate) fn take_unused(&self, identity: [u8; 32]) -> Option<Box<Guest>> {
        let mut counted = !self.is_fresh;
        let unused = self.shares().find_map(|share| {
            let mut waiting = share.lock();
            waiting.uses += u64::from(!std::mem::replace(&mut counted, true));
            waiting.pop(&UNUSED)
        });
        self.stock.asked(self.key(identity), unused.is_none());
        unused.map(|idle| self.taken(idle))
    }

    /// Takes a guest that has served its only call. It is dropped off the path of the call, which
    /// costs more than to run an echo; until then it counts as idle and may be evicted.
    pub(crate) fn spend(&self, mut guest: Box<Guest>, now: Instant) {
        let bytes = guest.living.meter().charged();
        self.push(SPENT, Resting { guest, since: now, bytes });
    }

    /// A guest that has served its only call, if one is left.
    pub(crate) fn take_spent(&self) -> Option<Box<Guest>> {
        let spent = self.shares().find_map(|share| share.lock().pop(&SPENT));
        spent.map(|idle| self.taken(idle))
    }

    /// Each call gets a guest of its own.
    pub(crate) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    fn push(&self, key: [u8; 32], resting: Resting) {
        if let Some(share) = self.shares().next() {
            self.registry.idle_bytes.add(signed(resting.bytes));
            share.lock().push(key, resting);
        }
    }

    /// The number of guests that have served nobody.
    pub(crate) fn unused(&self) -> usize {
        self.count(&UNUSED)
    }

    /// The number of guests that have served their only call and are not dropped yet.
    pub(crate) fn spent(&self) -> usize {
        self.count(&SPENT)
    }

    /// Smoothed time that it takes to make a guest, ns.
    pub(crate) fn making(&self) -> u64 {
        self.making.load(Ordering::Relaxed)
    }

    fn count(&self, key: &[u8; 32]) -> usize {
        let count = |share: &Mutex<Waiting>| share.lock().idle.get(key).map_or(0, VecDeque::len);
        self.shares().map(count).sum()
    }

    /// The shares, that of the calling thread first.
    fn shares(&self) -> impl Iterator<Item = &Mutex<Waiting>> {
        let (before, after) = self.idle.split_at(sharded::place(SHARES));
        after.iter().chain(before).map(|share| &share.0)
    }

    /// Keeps a guest that has not served anybody yet; whether there was room.
    pub(crate) fn keep_unused(&self, guest: Box<Guest>) -> bool {
        self.rest(UNUSED, guest, Instant::now())
    }

    /// Keeps the guest that proved the seed when it was loaded, for whoever calls first.
    pub(crate) fn keep_first(self: &Arc<Self>, guest: Box<Guest>) {
        if self.keep_unused(guest) {
            let idle: Weak<Self> = Arc::downgrade(self);
            self.registry.note_first(idle);
        }
    }

    /// The guest that was idle for longest.
    fn take_oldest(&self) -> Option<Box<Guest>> {
        let since = |share: &Mutex<Waiting>| share.lock().oldest().map(|(_, since)| since);
        let oldest = self.shares().filter_map(|share| Some((share, since(share)?)));
        let (share, _) = oldest.min_by_key(|(_, since)| *since)?;
        let idle = share.lock().pop_oldest()?;
        Some(self.taken(idle))
    }

    fn taken(&self, idle: Resting) -> Box<Guest> {
        self.registry.idle_bytes.add(-signed(idle.bytes));
        idle.guest
    }

    /// Keeps a guest for the next call of this identity, or drops it.
    pub(crate) fn keep(&self, identity: [u8; 32], mut guest: Box<Guest>, now: Instant) {
        let bytes = guest.living.meter().size();
        let grown = bytes > SMALL && bytes > guest.initial.saturating_mul(GROWN);
        if !grown {
            self.rest(self.key(identity), guest, now);
        }
    }

    /// Adds to the idle guests; false, and the guest is dropped, when there is no room.
    fn rest(&self, key: [u8; 32], mut guest: Box<Guest>, now: Instant) -> bool {
        let bytes = guest.living.meter().charged();
        let registry = &self.registry;
        let has_room = guest.living.meter().pool()
            || (registry.make_room(self, bytes) && guest.living.meter().pool());
        if !has_room {
            return false;
        }
        self.push(key, Resting { guest, since: now, bytes });
        if registry.is_reaping_due(now) {
            registry.reap(now);
        }
        true
    }
}

impl Idle for Seed {
    fn form(&self) -> Form {
        self.linked.form()
    }

    fn totals(&self) -> (usize, u64) {
        self.shares().fold((0, 0), |sum, share| {
            let waiting = share.lock();
            (sum.0 + waiting.count, sum.1.saturating_add(waiting.bytes))
        })
    }

    /// What a byte of its idle guests saves, with so many bytes beside them: what it takes to make
    /// one, times the calls of the last minute, over the bytes of all. Few guests of a busy seed are
    /// worth more than the last of many.
    fn worth(&self, beside: u64) -> u64 {
        let (mut uses, mut bytes) = (0_u64, beside);
        for share in self.shares() {
            let waiting = share.lock();
            uses = uses.saturating_add(waiting.uses);
            bytes = bytes.saturating_add(waiting.bytes);
        }
        let saved = u128::from(self.making.load(Ordering::Relaxed)) * u128::from(uses.max(1));
        // In ns a MiB: whole numbers would round what is cheap to nothing.
        u64::try_from((saved << 20) / u128::from(bytes.max(1))).unwrap_or(u64::MAX)
    }

    fn drop_oldest(&self) -> Option<u64> {
        let mut guest = self.take_oldest()?;
        Some(guest.living.meter().charged())
    }

    fn drop_first(&self) {
        if self.shares().any(|share| share.lock().uses > 0) {
            return;
        }
        while let Some(first) = self.shares().find_map(|share| share.lock().pop(&UNUSED)) {
            drop(self.taken(first));
        }
    }

    /// Drops what was idle for too long, and lets a quarter of the uses fade; called four times a
    /// minute while there are calls.
    fn reap(&self, now: Instant, fade: bool) -> usize {
        let mut old = Vec::new();
        for share in self.shares() {
            let mut waiting = share.lock();
            let before = old.len();
            waiting.idle.retain(|_, idle| {
                // The longest idle ones stand first.
                let late = idle.partition_point(|idle| now.duration_since(idle.since) >= IDLE_TIME);
                old.extend(idle.drain(..late));
                !idle.is_empty()
            });
            for idle in old.iter().skip(before) {
                waiting.note_gone(idle);
            }
            if fade {
                waiting.uses -= waiting.uses / 4;
            }
        }
        if fade {
            self.stock.fade();
        }
        let count = old.len();
        for idle in old {
            drop(self.taken(idle));
        }
        count
    }
}

/// Takes one more into an average. Concurrent updates may lose one; that is harmless.
fn smooth(average: &AtomicU64, sample: u64) {
    let old = average.load(Ordering::Relaxed);
    let new = if old == 0 { sample } else { old - old / 8 + sample / 8 };
    average.store(new.max(1), Ordering::Relaxed);
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for Seed {
    fn drop(&mut self) {
        while let Some(guest) = self.take_oldest() {
            drop(guest);
        }
        self.registry.budget.release(self.bundle_bytes);
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
