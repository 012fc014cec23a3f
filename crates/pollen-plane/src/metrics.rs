//! Counters of the call path, read by `Telemetry` and the metrics page. What every call counts is
//! sharded by thread: a line that two cores write at each call costs more than the call's gate.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use pollen_wasm::Sharded;

/// Counters of one spec on this node, as a callee.
#[derive(Default)]
pub struct SeedCounters {
    /// Calls that were admitted or refused here.
    pub calls: Sharded,
    /// Of these, the ones that ended with an error.
    pub failures: AtomicU64,
    /// Admitted and not ended.
    pub in_flight: Sharded,
    /// Smoothed run time in microseconds, also of remote replicas as their replies tell.
    pub run_us: Smoothed,
    /// Calls that began on this node, wherever they ran: the demand it publishes.
    pub demand: Sharded,
}

/// Counters of the node.
#[derive(Default)]
pub struct NodeCounters {
    /// Calls that came through a door here.
    pub door_calls: Sharded,
    /// Calls that came over links.
    pub link_calls: Sharded,
    /// Attempts beyond the first.
    pub retries: AtomicU64,
    /// Calls refused for want of a slot or memory.
    pub overloaded: AtomicU64,
    /// Ids seen twice.
    pub duplicates: AtomicU64,
    /// Callers that a gate turned away.
    pub denied: AtomicU64,
    /// Guests dropped because their caller went away.
    pub cancelled: AtomicU64,
}

/// Exponentially smoothed microseconds, weight 1/8 (as RFC 6298 smooths round trips).
#[derive(Default)]
pub struct Smoothed(AtomicU64);

impl Smoothed {
    /// The present value, 0 before the first sample.
    pub fn load(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Takes a sample. Concurrent samples may be lost; the value stays between those taken.
    pub fn record(&self, sample: Duration) {
        let sample = micros(sample).max(1);
        let old = self.0.load(Relaxed);
        let new = if old == 0 { sample } else { (old * 7 + sample).div_ceil(8) };
        self.0.store(new, Relaxed);
    }
}

/// Whole microseconds.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Whole microseconds, as the wire carries them.
pub(crate) fn micros32(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
