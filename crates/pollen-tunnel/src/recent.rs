//! The sessions of datagrams of a node: when each was used, and which one makes room.
//!
//! Decides: that the one goes that was idle longest among those of whoever has most.
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
use pollen_wire::Id;
use tokio_util::sync::CancellationToken;

struct Held {
    /// Whose it is: who opens many displaces its own.
    owner: Id,
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

    /// Another one of this owner. When there are as many as may be, one of the owner that has most
    /// makes room, this one included: the one that was idle longest.
    pub(crate) fn enter(&self, owner: Id) -> Used<'_> {
        let number = self.turns.fetch_add(1, Relaxed);
        let (used, displaced) = (AtomicU64::new(number), CancellationToken::new());
        let new = Arc::new(Held { owner, used, displaced });
        let mut held = self.held.lock();
        if held.len() >= self.most {
            let mut counts = HashMap::from([(owner, 1)]);
            held.values().for_each(|one| *counts.entry(one.owner).or_insert(0) += 1);
            let most = counts.values().max().copied().unwrap_or(0);
            let crowds = |one: &&Arc<Held>| counts.get(&one.owner) == Some(&most);
            let oldest = held.iter().filter(|(_, one)| crowds(one));
            let oldest = oldest.min_by_key(|(_, one)| one.used.load(Relaxed));
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
        let (first, second) = (recent.enter([1; 32]), recent.enter([1; 32]));
        first.now();
        let _third = recent.enter([1; 32]);
        assert!(second.held.displaced.is_cancelled() && !first.held.displaced.is_cancelled());
        drop(second);
        assert_eq!(recent.count(), 2);
        drop(first);
        assert_eq!(recent.count(), 1);
    }

    #[test]
    fn who_opens_many_displaces_its_own_and_not_those_of_others() {
        let recent = Recent::new(4);
        let quiet = recent.enter([1; 32]);
        let many: Vec<_> = (0..8).map(|_| recent.enter([2; 32])).collect();
        assert!(!quiet.held.displaced.is_cancelled());
        let gone = |held: &&Used<'_>| held.held.displaced.is_cancelled();
        assert_eq!(many.iter().take_while(gone).count(), 5);
        // A newcomer gets a place of the one that has most.
        let new = recent.enter([3; 32]);
        assert!(many.iter().take(6).all(|held| gone(&held)) && !new.held.displaced.is_cancelled());
        assert_eq!(recent.count(), 4);
    }
}
