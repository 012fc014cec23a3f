//! Calls that one guest makes at once.
//!
//! Decides: which part of what is left of the budget of calls each of them gets
//! (docs/design/guest-abi.md#python).

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Counts a call as made beside others until dropped, also when its future is.
pub(crate) struct Beside<'a>(&'a AtomicU32);

impl<'a> Beside<'a> {
    pub(crate) fn new(counter: &'a AtomicU32) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }

    /// What is left is divided by this: half of it when no other is under way, else a 64th, so that as
    /// many can begin as a guest may have under way.
    pub(crate) fn part(&self) -> u32 {
        if self.0.load(Relaxed) > 1 { 64 } else { 2 }
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
