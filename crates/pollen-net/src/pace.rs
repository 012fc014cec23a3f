//! How fast a content may come: one token bucket for all parts of a fetch.
//!
//! Decides: how long a part waits before its next bytes. Does not know: holders, pieces.
//! Invariant: over any second no more comes than the rate and what was read at once.
//! Source: docs/internals/content.md#transfer; the generic cell rate algorithm (ITU-T I.371).

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Bytes a second, or no limit. A reader that reads no faster makes its holder send no faster.
#[derive(Default)]
pub struct Pace {
    /// 0: no limit.
    bytes_per_s: AtomicU64,
    /// When all that was taken is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Pace {
    /// The least limit, bytes a second: with less, a holder that sends is taken for a silent one.
    pub const LEAST: u64 = 4096;

    /// So many bytes a second; 0 is no limit.
    pub fn of(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: AtomicU64::new(limit(bytes_per_s)), paid: Mutex::default() }
    }

    /// Somebody else waits for the same content: the faster of both counts.
    pub fn join(&self, bytes_per_s: u64) {
        let faster = |held| (held != 0).then(|| limit(bytes_per_s).max(held));
        let faster = |held| if bytes_per_s == 0 { Some(0) } else { faster(held) };
        let _ = self.bytes_per_s.fetch_update(Relaxed, Relaxed, faster);
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.bytes_per_s.load(Relaxed) > 0
    }

    /// Waits until so many bytes that came are paid for.
    pub(crate) async fn pay(&self, bytes: usize) {
        let rate = self.bytes_per_s.load(Relaxed);
        if rate == 0 {
            return;
        }
        let until = {
            let mut paid = self.paid.lock();
            let now = Instant::now();
            let from = paid.map_or(now, |paid| paid.max(now));
            *paid.insert(from + Duration::from_secs_f64(bytes as f64 / rate as f64))
        };
        tokio::time::sleep_until(until.into()).await;
    }
}

fn limit(bytes_per_s: u64) -> u64 {
    if bytes_per_s == 0 { 0 } else { bytes_per_s.max(Pace::LEAST) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_is_paid_for_in_turn() {
        let pace = Pace::of(10_000);
        let began = tokio::time::Instant::now();
        pace.pay(5_000).await;
        pace.pay(2_500).await;
        // The bucket counts by the clock of the machine, and tokio's stands still between sleeps.
        assert!(began.elapsed() >= Duration::from_millis(740), "{:?}", began.elapsed());
        Pace::default().pay(usize::MAX).await;
    }

    #[test]
    fn the_faster_reader_counts() {
        let rate = |pace: &Pace| pace.bytes_per_s.load(Relaxed);
        let pace = Pace::of(1);
        assert_eq!(rate(&pace), Pace::LEAST);
        pace.join(9_000);
        assert_eq!(rate(&pace), 9_000);
        pace.join(5_000);
        assert_eq!(rate(&pace), 9_000);
        pace.join(0);
        assert!(!pace.is_limited());
        pace.join(5_000);
        assert!(!pace.is_limited(), "who waits without a limit still does");
    }
}
