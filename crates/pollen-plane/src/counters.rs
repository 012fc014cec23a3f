//! Counters of the call path, read by `Telemetry` and the metrics page. What every call counts is
//! sharded by thread: a line that two cores write at each call costs more than the call's gate.

use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use pollen_wasm::{Sharded, Tally};
use serde::Serialize;

/// Upper bounds of the buckets of durations, microseconds; above the last there is one more.
pub const BOUNDS_US: [u64; 13] = [
    50, 250, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];
/// Behind the buckets of a tally: the sum of the durations, and what ended well.
const SUM: usize = BOUNDS_US.len() + 1;
const OK: usize = SUM + 1;

/// How calls end other than well. A peer's word that is not here is counted as `internal`: labels
/// must not grow by what strangers say.
const SLUGS: [&str; 23] = [
    "internal",
    "bad-request",
    "seed-not-found",
    "function-not-found",
    "blob-not-found",
    "denied",
    "unreachable",
    "overloaded",
    "deadline",
    "input-too-large",
    "hop-limit",
    "call-limit",
    "guest-status",
    "guest-failed",
    "guest-trapped",
    "guest-out-of-memory",
    "guest-output-too-large",
    "guest-host-refused",
    "guest-vars-too-large",
    "module-invalid",
    "import-unknown",
    "version-mismatch",
    CANCELLED,
];

/// Of a call that began here and whose caller went away before its end.
const CANCELLED: &str = "cancelled";

/// Calls of one spec by how they ended, and how long they took.
///
/// A call that ends well costs three relaxed additions to lines of its thread.
#[derive(Default)]
pub struct Outcomes {
    /// Of those that were called here at all; 2 kB.
    tally: OnceLock<Box<Tally<{ OK + 1 }>>>,
    failed: [AtomicU64; SLUGS.len()],
}

impl Outcomes {
    /// Counts a call that ended; an empty slug is a good end, no time one that never ran.
    pub fn count(&self, slug: &str, took: Option<Duration>) {
        let tally = self.tally.get_or_init(Box::default);
        if let Some(took) = took {
            let us = micros(took);
            let bucket = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(SUM - 1);
            tally.add(bucket, 1);
            tally.add(SUM, us);
        }
        if slug.is_empty() {
            tally.add(OK, 1);
            return;
        }
        let at = SLUGS.iter().position(|known| *known == slug).unwrap_or(0);
        if let Some(counter) = self.failed.get(at) {
            count(counter);
        }
    }

    /// How many ended because their caller went away.
    pub fn cancelled(&self) -> u64 {
        let held = SLUGS.iter().zip(&self.failed).find(|(slug, _)| **slug == CANCELLED);
        held.map_or(0, |(_, count)| count.load(Relaxed))
    }

    /// How many ended well, and how many did not.
    pub fn good_and_bad(&self) -> (u64, u64) {
        let good = self.tally.get().map_or(0, |tally| tally.sums()[OK]);
        (good, self.failed.iter().map(|count| count.load(Relaxed)).sum())
    }

    /// All of it at this moment.
    pub(crate) fn view(&self) -> OutcomesView {
        let sums = self.tally.get().map_or([0; OK + 1], |tally| tally.sums());
        let mut ended: BTreeMap<&'static str, u64> = SLUGS
            .iter()
            .zip(&self.failed)
            .map(|(slug, count)| (*slug, count.load(Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let [buckets @ .., sum_us, ok] = sums;
        ended.insert("ok", ok);
        OutcomesView { ended, buckets, sum_us }
    }
}

/// [`Outcomes`] at one moment.
#[derive(Debug, Serialize)]
pub struct OutcomesView {
    ended: BTreeMap<&'static str, u64>,
    /// Not cumulative.
    buckets: [u64; SUM],
    sum_us: u64,
}

/// Counters of one spec on this node.
#[derive(Default)]
pub struct SeedCounters {
    /// The first name it had; a spec that is being replaced has none in its row.
    pub name: OnceLock<std::sync::Arc<str>>,
    /// Calls that began on this node, wherever they ran.
    pub called: Outcomes,
    /// Calls that came to this node to run here, or were refused; how long the guest ran.
    pub executed: Outcomes,
    /// Calls by which this node checked its own replica: in none of the others.
    pub checked: Outcomes,
    /// Of the executed ones, members' calls that the guest failed: what speaks against a version.
    pub faults: AtomicU64,
    /// Admitted and not ended.
    pub in_flight: Sharded,
    /// Smoothed run time in microseconds, also of remote replicas as their replies tell.
    pub run_us: Smoothed,
    /// Calls that began on this node, wherever they ran: the demand it publishes.
    pub demand: Sharded,
}

/// Stands while a call that began here waits for its end. One that is dropped was cancelled, and is
/// counted so.
pub(crate) struct Awaited<'a>(&'a SeedCounters);

impl<'a> Awaited<'a> {
    /// The call waits from now on.
    pub(crate) fn begin(counters: &'a SeedCounters) -> Self {
        Self(counters)
    }

    /// It does not wait any more, and nothing is counted.
    pub(crate) fn end(self) {
        std::mem::forget(self);
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.called.count(CANCELLED, None);
    }
}

/// Counters of the node.
#[derive(Default)]
pub struct NodeCounters {
    /// Calls that came through a door here.
    pub door_calls: Sharded,
    /// Calls that came over links.
    pub link_calls: Sharded,
    /// Of them, those whose caller takes the output in chunks.
    pub door_streams: AtomicU64,
    /// The same of links.
    pub link_streams: AtomicU64,
    /// Bytes of chunks that clients of the doors were sent.
    pub door_chunk_bytes: AtomicU64,
    /// Bytes of chunks that peers were sent.
    pub link_chunk_bytes: AtomicU64,
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
    /// Calls that began here and named no seed that this node knows.
    pub unresolved: AtomicU64,
    /// Time that calls waited for a slot, microseconds.
    pub queued_us: AtomicU64,
    /// Time from a call that found its seed cold to the seed loaded, once a load.
    pub wakes: Times,
}

/// Times by size, for what happens seldom: writers share its lines.
#[derive(Default)]
pub struct Times {
    buckets: [AtomicU64; SUM],
    sum_us: AtomicU64,
}

impl Times {
    /// Takes a sample.
    pub fn record(&self, sample: Duration) {
        let us = micros(sample);
        let at = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(SUM - 1);
        if let Some(bucket) = self.buckets.get(at) {
            count(bucket);
        }
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// All of it at this moment.
    pub(crate) fn view(&self) -> TimesView {
        let buckets = std::array::from_fn(|at| self.buckets.get(at).map_or(0, |b| b.load(Relaxed)));
        TimesView { buckets, sum_us: self.sum_us.load(Relaxed) }
    }
}

/// [`Times`] at one moment.
#[derive(Debug, Serialize)]
pub struct TimesView {
    /// Not cumulative.
    buckets: [u64; SUM],
    sum_us: u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_outcome_and_by_time() {
        let outcomes = Outcomes::default();
        outcomes.count("", Some(Duration::from_micros(50)));
        outcomes.count("guest-trapped", Some(Duration::from_secs(60)));
        outcomes.count("overloaded", None);
        outcomes.count("said-by-a-peer", None);
        let view = outcomes.view();
        let ended = [("guest-trapped", 1), ("internal", 1), ("ok", 1), ("overloaded", 1)];
        assert_eq!(view.ended, BTreeMap::from(ended));
        assert_eq!((view.sum_us, view.buckets.iter().sum::<u64>()), (60_000_050, 2));
        assert_eq!((view.buckets.first(), view.buckets.last()), (Some(&1), Some(&1)));
    }

    #[test]
    fn a_time_lies_in_the_first_bucket_whose_bound_it_does_not_pass() {
        let times = Times::default();
        for us in [0, 50, 51, 30_000_000, 30_000_001] {
            times.record(Duration::from_micros(us));
        }
        let view = times.view();
        let filled = view.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        assert_eq!(filled.collect::<Vec<_>>(), [(0, &2), (1, &1), (12, &1), (13, &1)]);
        assert_eq!(view.sum_us, 60_000_102);
    }
}
