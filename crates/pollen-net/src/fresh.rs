//! What just came of a content, in memory: its readers take it from here, and not from the disk.
//!
//! Decides: what of it is kept, and how much. Does not know: holders, the store, who reads.
//! Invariants: only bytes that this process has verified as they came stand here. They are those next to the
//!     foremost reader, no more than [`MOST`] of a content, and no more than [`MOST_OF_ALL`] together.
//! Source: docs/internals/content.md#reading.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::pace::Pace;

/// Bytes that wait for a reader. Two pieces: while one is read as it comes, the next one comes beside it.
const MOST: usize = 16 * 1024 * 1024;
/// The same of all contents of the process: whoever reads many of them slowly holds no more.
const MOST_OF_ALL: usize = 2 * MOST;
static OF_ALL: AtomicUsize = AtomicUsize::new(0);
/// Readers are woken when so many bytes more came, and at the end of a piece.
const WORTH: usize = 256 * 1024;

/// What the readers of a content share with its fetch.
#[derive(Default)]
pub struct Readers {
    /// How fast it may come.
    pub pace: Pace,
    /// Whether a holder let this node pass.
    pub lets_in: AtomicBool,
    /// What came lately.
    pub fresh: Fresh,
}

impl Readers {
    /// The first of them takes so many bytes a second; 0 is no limit.
    pub fn of(bytes_per_s: u64) -> Self {
        let fresh = Fresh { most: MOST, ..Fresh::default() };
        Self { pace: Pace::of(bytes_per_s), fresh, ..Self::default() }
    }
}

/// Verified bytes of one content. Nothing is kept without [`Readers::of`]: nobody would take it.
#[derive(Default)]
pub struct Fresh {
    most: usize,
    held: Mutex<Held>,
    came: Notify,
}

struct Held {
    /// Bytes of all contents.
    all: &'static AtomicUsize,
    /// By their offset in the content; they do not overlap.
    leaves: BTreeMap<u64, Bytes>,
    bytes: usize,
    /// Where the foremost reader is: nothing before it is kept.
    at: u64,
    /// Bytes of which nobody was told.
    untold: usize,
}

impl Default for Held {
    fn default() -> Self {
        Self::among(&OF_ALL)
    }
}

impl Held {
    fn among(all: &'static AtomicUsize) -> Self {
        Self { all, leaves: BTreeMap::new(), bytes: 0, at: 0, untold: 0 }
    }

    fn add(&mut self, offset: u64, data: Bytes) {
        self.bytes += data.len();
        self.all.fetch_add(data.len(), Relaxed);
        if let Some(twice) = self.leaves.insert(offset, data) {
            self.forget(&twice);
        }
    }

    /// No longer counts what was taken out.
    fn forget(&mut self, data: &Bytes) {
        self.bytes -= data.len();
        self.all.fetch_sub(data.len(), Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Relaxed);
    }
}

impl Fresh {
    /// Keeps bytes that were verified, as far as there is room. What lies furthest ahead goes first.
    pub(crate) fn put(&self, offset: u64, data: &Bytes) {
        if self.most == 0 {
            return;
        }
        let mut held = self.held.lock();
        held.untold += data.len();
        if offset + data.len() as u64 > held.at {
            held.add(offset, data.clone());
            while held.bytes > self.most || held.all.load(Relaxed) > MOST_OF_ALL {
                let Some((_, last)) = held.leaves.pop_last() else { break };
                held.forget(&last);
            }
        }
        let is_worth_it = held.untold >= WORTH;
        drop(held);
        if is_worth_it {
            self.tell();
        }
    }

    /// Wakes the readers.
    pub(crate) fn tell(&self) {
        self.held.lock().untold = 0;
        self.came.notify_waiters();
    }

    /// The first bytes of a range, as many as came together. What lies before them is let go.
    pub fn take(&self, range: &Range<u64>) -> Option<Bytes> {
        let mut held = self.held.lock();
        let (offset, leaf) = held.leaves.range(..=range.start).next_back()?;
        let within = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX).min(leaf.len());
        let taken = leaf.slice(within(range.start)..within(range.end.max(range.start)));
        if taken.is_empty() {
            return None;
        }
        let at = held.at.max(range.start + taken.len() as u64);
        held.at = at;
        while let Some(first) = held.leaves.first_entry()
            && first.key() + first.get().len() as u64 <= at
        {
            let read = first.remove();
            held.forget(&read);
        }
        Some(taken)
    }

    /// Where the next bytes behind `at` begin that are here, if there are any.
    pub fn next_behind(&self, at: u64) -> Option<u64> {
        self.held.lock().leaves.range(at..).next().map(|next| *next.0)
    }

    /// Waits until the bytes at this place are here.
    pub async fn until_came(&self, at: u64) {
        loop {
            let came = self.came.notified();
            if self.has(at) {
                return;
            }
            came.await;
        }
    }

    fn has(&self, at: u64) -> bool {
        let held = self.held.lock();
        let before = held.leaves.range(..=at).next_back();
        before.is_some_and(|(offset, leaf)| offset + leaf.len() as u64 > at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(most: usize) -> Fresh {
        among(Box::leak(Box::default()), most)
    }

    fn among(all: &'static AtomicUsize, most: usize) -> Fresh {
        Fresh { most, held: Mutex::new(Held::among(all)), ..Fresh::default() }
    }

    #[test]
    fn what_came_is_taken_in_order_and_once() {
        let fresh = of(100);
        fresh.put(10, &Bytes::from_static(b"second"));
        fresh.put(0, &Bytes::from_static(b"first 0123"));
        assert_eq!(fresh.take(&(2..14)).as_deref(), Some(&b"rst 0123"[..]));
        assert_eq!(fresh.take(&(10..14)).as_deref(), Some(&b"seco"[..]));
        assert_eq!(fresh.take(&(14..16)).as_deref(), Some(&b"nd"[..]));
        assert_eq!(fresh.take(&(16..20)), None);
        assert_eq!(fresh.take(&(2..14)), None, "it was let go");
        assert_eq!(fresh.held.lock().bytes, 0);
    }

    #[test]
    fn what_lies_furthest_ahead_gives_way_and_what_was_read_is_not_kept() {
        let fresh = of(8);
        for offset in [20, 8, 4, 0] {
            fresh.put(offset, &Bytes::from_static(b"four"));
        }
        assert_eq!(fresh.next_behind(0), Some(0));
        assert_eq!(fresh.next_behind(5), None, "no more than 8 bytes stand here");
        assert!(fresh.take(&(0..4)).is_some());
        fresh.put(0, &Bytes::from_static(b"four"));
        assert_eq!(fresh.take(&(0..4)), None, "the foremost reader is behind it");
        fresh.put(4, &Bytes::from_static(b"four"));
        assert_eq!(fresh.held.lock().bytes, 4, "what comes twice counts once");
    }

    #[test]
    fn many_contents_together_hold_no_more_than_two() {
        let big = Bytes::from(vec![0; MOST / 2]);
        let count: &AtomicUsize = Box::leak(Box::default());
        let all: Vec<Fresh> = (0..5).map(|_| among(count, MOST)).collect();
        for fresh in &all {
            fresh.put(0, &big);
            fresh.put(big.len() as u64, &big);
        }
        let held: usize = all.iter().map(|fresh| fresh.held.lock().bytes).sum();
        assert!((2 * MOST - big.len()..=MOST_OF_ALL).contains(&held), "{held}");
        drop(all);
        let next = among(count, MOST);
        next.put(0, &big);
        assert!(next.take(&(0..1)).is_some(), "what was let go has room for others");
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let fresh = Readers::default().fresh;
        fresh.put(0, &Bytes::from_static(b"four"));
        assert_eq!(fresh.take(&(0..4)), None);
    }

    #[tokio::test]
    async fn a_reader_is_woken_by_what_it_waits_for() {
        let fresh = std::sync::Arc::new(of(100));
        let waiting = tokio::spawn({
            let fresh = fresh.clone();
            async move { fresh.until_came(5).await }
        });
        tokio::task::yield_now().await;
        fresh.put(0, &Bytes::from_static(b"four"));
        fresh.tell();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        fresh.put(4, &Bytes::from_static(b"four"));
        fresh.tell();
        waiting.await.unwrap_or_else(|error| panic!("{error}"));
    }
}
