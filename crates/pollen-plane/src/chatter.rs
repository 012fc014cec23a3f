//! How much a seed may log on this node, over all of its calls.
//!
//! Decides: whether a line of a guest is taken.
//! Does not know: what it says; how much one call may log (the sandbox counts that).
//! Invariants: a seed writes at most [`BURST`] at once and [`RATE`] a second; what is left out is
//! counted, and the next line that is taken tells how many.
//! Source: docs/guide/limits.md#a-seed.

use std::time::Instant;

use parking_lot::Mutex;

/// Bytes a second of one seed: a thousand lines of little text. Guess.
const RATE: u64 = 256 << 10;
/// Bytes at once: what 64 calls may say. Guess.
const BURST: u64 = 4 << 20;
/// What a line costs beside its text, bytes (measured: 245).
const OVERHEAD: u64 = 256;

/// What one seed may still log.
#[derive(Default)]
pub(crate) struct Chatter(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// Bytes used and not yet given back by time.
    used: u64,
    at: Option<Instant>,
    left_out: u64,
}

impl Chatter {
    /// Whether a line of so many bytes is taken at `now`; then, how many were left out before.
    pub(crate) fn take(&self, bytes: usize, now: Instant) -> Option<u64> {
        let mut held = self.0.lock();
        let since = held.at.map_or(0, |at| now.saturating_duration_since(at).as_micros());
        let back = u64::try_from(since).unwrap_or(u64::MAX).saturating_mul(RATE) / 1_000_000;
        // Less than a byte is not given back yet, and its time is kept.
        if held.at.is_none() || back > 0 {
            held.at = Some(now);
            held.used = held.used.saturating_sub(back);
        }
        let cost = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(OVERHEAD);
        if held.used.saturating_add(cost) > BURST {
            held.left_out += 1;
            return None;
        }
        held.used += cost;
        Some(std::mem::take(&mut held.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_the_rate() {
        let (chatter, begun) = (Chatter::default(), Instant::now());
        let at_once = (0..30_000).filter(|_| chatter.take(0, begun).is_some()).count();
        assert_eq!(at_once as u64, BURST / OVERHEAD);
        let later = begun + Duration::from_secs(1);
        assert_eq!(chatter.take(0, later), Some(30_000 - BURST / OVERHEAD));
        let then = (0..30_000).filter(|_| chatter.take(0, later).is_some()).count();
        assert_eq!(u64::try_from(then).unwrap_or(0) + 1, RATE / OVERHEAD);
    }

    #[test]
    fn many_looks_in_a_microsecond_lose_no_time() {
        let (chatter, begun) = (Chatter::default(), Instant::now());
        while chatter.take(0, begun).is_some() {}
        let mut taken = 0_u64;
        for micros in 1..=1_000_000 {
            taken += u64::from(chatter.take(0, begun + Duration::from_micros(micros)).is_some());
        }
        assert!((RATE / OVERHEAD * 9 / 10..=RATE / OVERHEAD).contains(&taken), "{taken}");
    }
}
