//! Ids of calls that came over a link in the last minute: none of them runs twice
//! (docs/design/protocol.md#calls).

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use pollen_rules::numbers::SEEN as WINDOW;

/// Ids remembered at the most, over all shards.
const CAP: usize = 1_000_000;
const BUCKET: Duration = Duration::from_secs(10);
const SHARDS: usize = 16;

/// What is known of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It was not here within the window.
    New,
    /// It was here.
    Before,
    /// It is a repeated attempt older than what is still remembered: it may have run.
    Forgotten,
}

/// The memory, sharded so that streams do not wait for one another.
pub(crate) struct SeenIds {
    shards: [Mutex<Shard>; SHARDS],
    cap: usize,
}

#[derive(Default)]
struct Shard {
    buckets: VecDeque<Bucket>,
    len: usize,
    /// Everything that came before this was forgotten early, for want of room.
    cut: Option<Instant>,
}

struct Bucket {
    began: Instant,
    ids: HashSet<[u8; 16], BuildHasherDefault<TakeEight>>,
}

/// Call ids are random: their first bytes are hash enough.
#[derive(Default)]
struct TakeEight(u64);

impl Hasher for TakeEight {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(head) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*head);
        }
    }

    fn write_usize(&mut self, _length_prefix: usize) {}
}

impl Default for SeenIds {
    fn default() -> Self {
        Self::with_cap(CAP)
    }
}

impl SeenIds {
    fn with_cap(cap: usize) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), cap: (cap / SHARDS).max(1) }
    }

    /// Notes an id; `attempt` over 0 says that it may have been sent before, at most one window ago.
    pub(crate) fn note(&self, id: [u8; 16], attempt: u8, now: Instant) -> Seen {
        let [.., last] = id;
        let Some(shard) = self.shards.get(usize::from(last) % SHARDS) else { return Seen::New };
        let mut shard = shard.lock();
        shard.expire(now);
        if shard.buckets.iter().any(|bucket| bucket.ids.contains(&id)) {
            return Seen::Before;
        }
        let within = |cut: Instant| now.saturating_duration_since(cut) < WINDOW;
        if attempt > 0 && shard.cut.is_some_and(within) {
            return Seen::Forgotten;
        }
        shard.insert(id, now, self.cap);
        Seen::New
    }

    /// The call did not run here: should it come again, it is new.
    pub(crate) fn forget(&self, id: [u8; 16]) {
        let [.., last] = id;
        let Some(shard) = self.shards.get(usize::from(last) % SHARDS) else { return };
        let mut shard = shard.lock();
        if shard.buckets.iter_mut().rev().any(|bucket| bucket.ids.remove(&id)) {
            shard.len -= 1;
        }
    }
}

impl Shard {
    fn expire(&mut self, now: Instant) {
        while self.buckets.front().is_some_and(|oldest| now >= oldest.began + BUCKET + WINDOW) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.buckets.pop_front() {
            self.len -= oldest.ids.len();
        }
    }

    fn insert(&mut self, id: [u8; 16], now: Instant, cap: usize) {
        if self.len >= cap {
            self.drop_oldest();
            self.cut = Some(now);
        }
        if self.buckets.back().is_none_or(|newest| now >= newest.began + BUCKET) {
            self.buckets.push_back(Bucket { began: now, ids: HashSet::default() });
        }
        if let Some(newest) = self.buckets.back_mut() {
            newest.ids.insert(id);
            self.len += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(n: u8) -> [u8; 16] {
        let mut id = [0; 16];
        id[0] = n;
        id
    }

    #[test]
    fn an_id_is_known_for_a_minute() {
        let (seen, start) = (SeenIds::default(), Instant::now());
        assert_eq!(seen.note(id(1), 0, start), Seen::New);
        assert_eq!(seen.note(id(1), 0, start + WINDOW), Seen::Before);
        assert_eq!(seen.note(id(1), 0, start + WINDOW + BUCKET), Seen::New);
    }

    #[test]
    fn an_id_that_is_forgotten_is_new_and_leaves_its_room() {
        let (seen, start) = (SeenIds::with_cap(SHARDS), Instant::now());
        assert_eq!(seen.note(id(1), 0, start), Seen::New);
        seen.forget(id(1));
        seen.forget(id(2));
        assert_eq!(seen.note(id(2), 0, start), Seen::New);
        assert_eq!(seen.note(id(2), 1, start), Seen::Before);
        seen.forget(id(2));
        assert_eq!(
            seen.note(id(1), 1, start),
            Seen::New,
            "nothing was pushed out for want of room"
        );
    }

    #[test]
    fn a_repeated_attempt_that_may_predate_the_memory_is_told_apart() {
        let (seen, start) = (SeenIds::with_cap(SHARDS), Instant::now());
        assert_eq!(seen.note(id(1), 0, start), Seen::New);
        assert_eq!(seen.note(id(2), 0, start), Seen::New, "which pushes the first one out");
        assert_eq!(seen.note(id(1), 1, start), Seen::Forgotten);
        assert_eq!(seen.note(id(3), 0, start), Seen::New, "a first attempt was never here");
    }
}
