//! Idle guests of a seed: a share of them, by whom they served.
//!
//! Invariants: of each identity the longest idle one stands first, and the last one is taken first;
//! number and bytes are those of all that wait.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use parking_lot::Mutex;

use crate::guest::Guest;

/// A guest that waits for its next call.
pub(crate) struct Resting {
    pub(crate) guest: Box<Guest>,
    pub(crate) since: Instant,
    pub(crate) bytes: u64,
}

/// Idle guests, of each identity the longest idle one first; their bytes.
#[derive(Default)]
pub(crate) struct Waiting {
    pub(crate) idle: HashMap<[u8; 32], VecDeque<Resting>>,
    pub(crate) count: usize,
    pub(crate) bytes: u64,
    /// Calls that asked for a guest here: of the last minute, older ones fade.
    pub(crate) uses: u64,
}

impl Waiting {
    pub(crate) fn push(&mut self, key: [u8; 32], idle: Resting) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(idle.bytes);
        self.idle.entry(key).or_default().push_back(idle);
    }

    pub(crate) fn pop(&mut self, key: &[u8; 32]) -> Option<Resting> {
        let idle = self.idle.get_mut(key)?.pop_back()?;
        self.note_gone(&idle);
        Some(idle)
    }

    pub(crate) fn oldest(&self) -> Option<([u8; 32], Instant)> {
        let firsts = self.idle.iter().filter_map(|(key, idle)| Some((*key, idle.front()?.since)));
        firsts.min_by_key(|(_, since)| *since)
    }

    pub(crate) fn pop_oldest(&mut self) -> Option<Resting> {
        let (key, _) = self.oldest()?;
        let idle = self.idle.get_mut(&key)?.pop_front()?;
        self.note_gone(&idle);
        Some(idle)
    }

    pub(crate) fn note_gone(&mut self, idle: &Resting) {
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(idle.bytes);
    }
}

/// A share of the idle guests, on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Share(pub(crate) Mutex<Waiting>);
