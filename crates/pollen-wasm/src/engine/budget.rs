//! The node's memory for guests, as one number that is charged and released.
//!
//! Invariant: `used` is the sum of what all living guests were charged.

use std::sync::atomic::{AtomicU64, Ordering};

/// Who pays for a host heap's memory.
pub trait Quota {
    /// Asks for this many more bytes; false refuses and changes nothing.
    fn charge(&mut self, bytes: u64) -> bool;
    /// Gives bytes back.
    fn release(&mut self, bytes: u64);
}

/// A quota without end, for tests.
#[derive(Debug, Default, Clone, Copy)]
pub struct Unlimited;

impl Quota for Unlimited {
    fn charge(&mut self, _bytes: u64) -> bool {
        true
    }
    fn release(&mut self, _bytes: u64) {}
}

/// The node-wide budget.
#[derive(Debug)]
pub(crate) struct Budget {
    total: u64,
    used: AtomicU64,
}

impl Budget {
    pub(crate) fn new(total: u64) -> Self {
        Self { total, used: AtomicU64::new(0) }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes bytes if they fit; calls that are not nested leave a quarter alone.
    pub(crate) fn charge(&self, bytes: u64, nested: bool) -> bool {
        let limit = if nested { self.total } else { self.total - self.total / 4 };
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= limit)
            })
            .is_ok()
    }

    pub(crate) fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}
