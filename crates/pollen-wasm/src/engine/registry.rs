//! What all seeds of a sandbox share: the memory budget, and the totals of the guests kept.
//!
//! Decides: which seed loses an idle guest when room is short: the one whose guests are worth least.
//! Does not know: what a guest is worth (`seed.rs`).
//! Invariants: guests kept for reuse take at most half of the node's memory, and idle ones make room
//! before anybody is refused. Of seeds that nobody called yet only the last ones loaded keep a guest.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use crate::engine::budget::Budget;
use crate::engine::code::Form;
use crate::sharded::Sharded;

/// So many seeds that nobody has called keep the guest that proved them when they were loaded. A
/// Python seed's takes 0.85 MiB, and whoever loads 1,000 seeds calls none of most of them.
const FIRSTS: usize = 8;

/// What a guest is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A call, or the proof that a seed works.
    Call,
    /// A call that a guest made: it may use the memory reserve.
    Nested,
    /// A later call. Nobody waits for it, so nobody gives way while it is made.
    Stock,
}

/// Guests that wait for their next call: those of one seed.
pub(crate) trait Idle: Send + Sync {
    /// The pool that they are in.
    fn form(&self) -> Form;

    /// Their number and bytes.
    fn totals(&self) -> (usize, u64);

    /// What a byte of them saves, with so many bytes beside them.
    fn worth(&self, beside: u64) -> u64;

    /// Drops the one that was idle for longest; its bytes.
    fn drop_oldest(&self) -> Option<u64>;

    /// Drops those that wait for a first call, if none has come yet.
    fn drop_first(&self);

    /// Drops those that were idle for too long, and lets the uses fade if `fade`; the number
    /// dropped.
    fn reap(&self, now: Instant, fade: bool) -> usize;
}

/// What all seeds of a sandbox share: the memory budget and the idle guests' totals.
pub(crate) struct Registry {
    pub(crate) budget: Budget,
    seeds: Mutex<Vec<Weak<dyn Idle>>>,
    /// Loaded with a guest that waits for a first call, the last one at the end.
    firsts: Mutex<VecDeque<Weak<dyn Idle>>>,
    /// Memory of the guests kept for reuse, those at work included, bytes.
    pooled: AtomicU64,
    pool_cap: u64,
    pub(crate) idle_bytes: Sharded,
    instances: AtomicUsize,
    started: Instant,
    /// Seconds since `started` at the last lazy reaping.
    reaped: AtomicU64,
}

impl Registry {
    pub(crate) fn new(memory_bytes: u64) -> Self {
        Self {
            budget: Budget::new(memory_bytes),
            seeds: Mutex::new(Vec::new()),
            firsts: Mutex::default(),
            pooled: AtomicU64::new(0),
            pool_cap: memory_bytes / 2,
            idle_bytes: Sharded::default(),
            instances: AtomicUsize::new(0),
            started: Instant::now(),
            reaped: AtomicU64::new(0),
        }
    }

    pub(crate) fn instance_made(&self) {
        self.instances.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn instance_dropped(&self) {
        self.instances.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn instances(&self) -> usize {
        self.instances.load(Ordering::Relaxed)
    }

    /// Takes bytes of the node's budget if they fit.
    pub(crate) fn charge(&self, bytes: u64, nested: bool) -> bool {
        // Idle guests are only a convenience: they make room before anybody is refused.
        self.budget.charge(bytes, nested)
            || (self.evict(bytes) > 0 && self.budget.charge(bytes, nested))
    }

    pub(crate) fn available(&self) -> u64 {
        let busy = self.budget.used().saturating_sub(self.idle_bytes.sum());
        self.budget.total().saturating_sub(busy)
    }

    /// Number and bytes of the idle guests; looks at every seed.
    pub(crate) fn idle(&self) -> (usize, u64) {
        self.seeds()
            .iter()
            .map(|seed| seed.totals())
            .fold((0, 0), |sum, totals| (sum.0 + totals.0, sum.1.saturating_add(totals.1)))
    }

    /// Replaces what a guest kept for reuse counts; false changes nothing.
    pub(crate) fn pool(&self, old: u64, new: u64) -> bool {
        let room = |sum: u64| {
            let sum = sum.saturating_sub(old).saturating_add(new);
            (new <= old || sum <= self.pool_cap).then_some(sum)
        };
        self.pooled.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    pub(crate) fn add(&self, seed: Weak<dyn Idle>) {
        let mut seeds = self.seeds.lock();
        seeds.retain(|seed| seed.strong_count() > 0);
        seeds.push(seed);
    }

    /// A seed was loaded and keeps its first guest; the one that was loaded `FIRSTS` before it gives
    /// its own up, unless it was called.
    pub(crate) fn note_first(&self, seed: Weak<dyn Idle>) {
        let last = {
            let mut firsts = self.firsts.lock();
            firsts.push_back(seed);
            if firsts.len() > FIRSTS { firsts.pop_front() } else { None }
        };
        if let Some(last) = last.and_then(|seed| seed.upgrade()) {
            last.drop_first();
        }
    }

    fn seeds(&self) -> Vec<Arc<dyn Idle>> {
        self.seeds.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Drops idle guests until at least `bytes` were freed, those worth least first; the number of
    /// guests dropped.
    pub(crate) fn evict(&self, bytes: u64) -> usize {
        let (mut freed, mut count) = (0_u64, 0);
        while freed < bytes {
            let Some(dropped) = self.drop_least(None, None) else { break };
            freed = freed.saturating_add(dropped);
            count += 1;
        }
        count
    }

    /// Drops so many idle guests of the pool of this form, those worth least first; whether there was
    /// one.
    pub(crate) fn evict_guests(&self, form: Form, count: usize) -> bool {
        (0..count).take_while(|_| self.drop_least(Some(form), None).is_some()).count() > 0
    }

    /// Makes room for a guest of so many bytes that `seed` wants to keep, by guests of seeds that
    /// are worth less; false when there are too few of them.
    pub(crate) fn make_room(&self, seed: &dyn Idle, bytes: u64) -> bool {
        let mut freed = 0_u64;
        while freed < bytes {
            let Some(dropped) = self.drop_least(None, Some(seed.worth(bytes))) else {
                return false;
            };
            freed = freed.saturating_add(dropped);
        }
        true
    }

    /// Drops the longest idle guest of the seed, of a form if one is given, whose guests are worth
    /// least, if that is less than `below`; its bytes.
    fn drop_least(&self, form: Option<Form>, below: Option<u64>) -> Option<u64> {
        let mut seeds = self.seeds();
        seeds.retain(|seed| form.is_none_or(|form| seed.form() == form) && seed.totals().0 > 0);
        let worth = |seed: &Arc<dyn Idle>| seed.worth(0);
        let least = seeds.into_iter().min_by_key(worth)?;
        if below.is_some_and(|below| worth(&least) >= below) {
            return None;
        }
        Some(least.drop_oldest()?.max(1))
    }

    /// Drops the guests that were idle for too long; the number dropped.
    pub(crate) fn reap(&self, now: Instant) -> usize {
        let fade = self.is_reaping_due(now);
        if fade {
            self.reaped.store(now.duration_since(self.started).as_secs(), Ordering::Relaxed);
        }
        self.seeds().iter().map(|seed| seed.reap(now, fade)).sum()
    }

    pub(crate) fn is_reaping_due(&self, now: Instant) -> bool {
        let seconds = now.duration_since(self.started).as_secs();
        seconds >= self.reaped.load(Ordering::Relaxed).saturating_add(15)
    }
}
