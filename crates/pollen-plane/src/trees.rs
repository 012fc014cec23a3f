//! What a call and those beneath it need of the memory for guests, as it was seen.
//!
//! A guest waits for one call at a time, so what a tree needs at once is its own guest and the
//! largest of its children's trees. Trees on other nodes need memory there.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Guest memory of the node, bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) free: u64,
    /// For calls with a depth only.
    pub(crate) reserve: u64,
    pub(crate) total: u64,
}

impl Memory {
    /// What a guest counts at least in a promise, bytes: what is promised at depth 0 ends with
    /// seven eighths of the instances, and the last eighth is for calls beneath those.
    pub(crate) fn least_guest(&self, instances: u64) -> u64 {
        self.total.saturating_sub(self.reserve) / (instances - instances / 8).max(1)
    }
}

/// The largest tree of the calls that one call made, bytes.
#[derive(Debug, Default)]
pub(crate) struct Below(AtomicU64);

impl Below {
    pub(crate) fn note(&self, tree: u64) {
        self.0.fetch_max(tree, Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What calls of a seed needed beneath them: rises at once and fades over some hundred calls.
#[derive(Debug, Default)]
pub(crate) struct HighWater(AtomicU64);

impl HighWater {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Takes in a call that ended. Concurrent ones may lose one; that is harmless.
    pub(crate) fn note(&self, below: u64) {
        let held = self.0.load(Relaxed);
        if below > held {
            self.0.fetch_max(below, Relaxed);
        } else if below < held {
            self.0.store(held - (held - below).div_ceil(128), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HighWater, Memory};

    #[test]
    fn seven_eighths_of_the_instances_are_promised_however_large_the_memory() {
        for total in [1_u64 << 30, 12 << 30, 1 << 40] {
            let memory = Memory { free: total, reserve: total / 4, total };
            for instances in [64, 1_250, 11_500] {
                let promised = (total - memory.reserve) / memory.least_guest(instances);
                assert!((instances * 7 / 8..=instances * 8 / 9).contains(&promised), "{promised}");
            }
            assert_eq!(memory.least_guest(u64::MAX), 0);
        }
    }

    #[test]
    fn a_high_water_rises_at_once_and_fades_slowly() {
        let water = HighWater::default();
        water.note(1000);
        assert_eq!(water.bytes(), 1000);
        (0..10).for_each(|_| water.note(0));
        assert!((900..1000).contains(&water.bytes()), "{}", water.bytes());
        (0..2000).for_each(|_| water.note(10));
        assert_eq!(water.bytes(), 10);
    }
}
