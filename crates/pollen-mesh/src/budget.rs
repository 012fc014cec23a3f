//! How many bytes a second are passed on for others: a bucket that fills at that rate.

use std::time::{Duration, Instant};

/// What the bucket holds when it is full: the bytes of so long. Guess: a burst of a window.
const BURST: Duration = Duration::from_millis(250);
/// It holds at least so much, or a small rate would pass no batch at all.
const BURST_MIN: u64 = 64 * 1024;

/// The bucket. At first nothing may pass.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    bytes_per_s: u64,
    left: u64,
    filled: Option<Instant>,
}

impl Budget {
    /// So many bytes a second from now on; 0 lets nothing pass. A bucket that is set again begins full.
    pub(crate) fn set(&mut self, bytes_per_s: u64, now: Instant) {
        if bytes_per_s != self.bytes_per_s {
            *self = Self { bytes_per_s, left: 0, filled: Some(now) };
            self.left = self.most();
        }
    }

    /// Takes `bytes` out; false, and nothing is taken, when there are fewer. `None` when nothing may
    /// pass at all.
    pub(crate) fn take(&mut self, bytes: usize, now: Instant) -> Option<bool> {
        if self.bytes_per_s == 0 {
            return None;
        }
        let since = self.filled.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let nanos = u128::from(self.bytes_per_s) * since.as_nanos();
        let grown = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
        // What is under a byte stays to be counted the next time.
        if grown > 0 {
            self.left = self.left.saturating_add(grown).min(self.most());
            self.filled = Some(now);
        }
        let left = self.left.checked_sub(bytes as u64);
        self.left = left.unwrap_or(self.left);
        Some(left.is_some())
    }

    fn most(&self) -> u64 {
        let bytes = u128::from(self.bytes_per_s) * BURST.as_millis() / 1_000;
        u64::try_from(bytes).unwrap_or(u64::MAX).max(BURST_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_passes_in_a_second_than_the_rate_and_one_burst() {
        let (mut budget, began) = (Budget::default(), Instant::now());
        assert_eq!(budget.take(1, began), None, "nothing passes before it is set");
        budget.set(1_000_000, began);
        let mut passed = 0;
        for ms in 0..1_000 {
            while budget.take(1_000, began + Duration::from_millis(ms)) == Some(true) {
                passed += 1_000;
            }
        }
        assert!((1_245_000..=1_250_000).contains(&passed), "{passed}");
    }

    #[test]
    fn a_rate_of_zero_ends_it_and_the_same_rate_fills_nothing() {
        let (mut budget, now) = (Budget::default(), Instant::now());
        budget.set(1_000, now);
        let taken = [budget.take(64 * 1024, now), budget.take(1, now)];
        assert_eq!(taken, [Some(true), Some(false)]);
        budget.set(1_000, now);
        assert_eq!(budget.take(1, now), Some(false));
        budget.set(0, now);
        assert_eq!(budget.take(1, now + Duration::from_secs(9)), None);
    }

    #[test]
    fn a_slow_rate_asked_often_still_fills() {
        let (mut budget, began) = (Budget::default(), Instant::now());
        budget.set(100, began);
        assert_eq!(budget.take(64 * 1024, began), Some(true));
        let at = |ms| began + Duration::from_millis(ms);
        let passed = (0..2_000).filter(|ms| budget.take(1, at(*ms)) == Some(true));
        assert!((195..=200).contains(&passed.count()));
    }
}
