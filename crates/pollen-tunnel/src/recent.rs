//! The sessions of datagrams of a node: when each was used, and which one makes room.
//!
//! Decides: that the one that was idle longest goes.
//! Does not know: what a session is.
//! Invariants: there are never more than there may be.
//! Source: crates/pollen-tunnel/src/limits.rs.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

struct Held {
    /// The turn at which it was used last.
    used: AtomicU64,
    displaced: CancellationToken,
}

/// All of a node.
pub(crate) struct Recent {
    most: usize,
    turns: AtomicU64,
    held: Mutex<HashMap<u64, Arc<Held>>>,
}

impl Recent {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, turns: AtomicU64::new(0), held: Mutex::default() }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.held.lock().len()
    }

    /// Another one, in the place of the one that was idle longest when there are as many as may be.
    pub(crate) fn enter(&self) -> Used<'_> {
        let number = self.turns.fetch_add(1, Relaxed);
        let new =
            Arc::new(Held { used: AtomicU64::new(number), displaced: CancellationToken::new() });
        let mut held = self.held.lock();
        if held.len() >= self.most {
            let oldest = held.iter().min_by_key(|(_, held)| held.used.load(Relaxed));
            if let Some(number) = oldest.map(|(number, _)| *number) {
                held.remove(&number).into_iter().for_each(|oldest| oldest.displaced.cancel());
            }
        }
        held.insert(number, new.clone());
        Used { all: self, number, held: new }
    }
}

/// One of them; dropped, it leaves.
pub(crate) struct Used<'a> {
    all: &'a Recent,
    number: u64,
    held: Arc<Held>,
}

impl Used<'_> {
    /// It is used now.
    pub(crate) fn now(&self) {
        self.held.used.store(self.all.turns.fetch_add(1, Relaxed), Relaxed);
    }

    /// Ends when it lost its place.
    pub(crate) async fn displaced(&self) {
        self.held.displaced.cancelled().await;
    }
}

impl Drop for Used<'_> {
    fn drop(&mut self) {
        self.all.held.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_idle_longest_makes_room() {
        let recent = Recent::new(2);
        let (first, second) = (recent.enter(), recent.enter());
        first.now();
        let _third = recent.enter();
        assert!(second.held.displaced.is_cancelled() && !first.held.displaced.is_cancelled());
        drop(second);
        assert_eq!(recent.count(), 2);
        drop(first);
        assert_eq!(recent.count(), 1);
    }
}
