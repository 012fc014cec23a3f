//! Small files of sites that stay in memory: pages that many ask for.
//!
//! Decides: which files stay, and which go when there is no room.
//! Does not know: who may read a file; it was judged before it is looked for.
//! Invariants: at most `BYTES` in all, and `FILE` of each. What was read for the specs of one owner is not
//!     found for those of another one.
//! Source: docs/internals/content.md#small-files.

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use pollen_wire::Id;

/// Bytes of all of them. A site's pages, scripts and styles; what is larger comes from the disk. Guess.
const BYTES: usize = 16 << 20;
/// Bytes of one. Reading a larger one from the store costs less than sending it.
const FILE: u64 = 128 << 10;

/// Whose spec a file was read for, the archive, and where the file begins and ends there.
pub(crate) type Place = (Id, Id, u64, u64);

pub(crate) struct Warm(Mutex<Held>);

struct Held {
    files: LruCache<Place, Bytes>,
    bytes: usize,
}

impl Default for Warm {
    fn default() -> Self {
        Self(Mutex::new(Held { files: LruCache::unbounded(), bytes: 0 }))
    }
}

impl Warm {
    /// Whether a file of so many bytes may stay.
    pub(crate) fn takes(size: u64) -> bool {
        size <= FILE
    }

    /// A file, if it is here.
    pub(crate) fn get(&self, place: &Place) -> Option<Bytes> {
        self.0.lock().files.get(place).cloned()
    }

    /// Keeps a file; those that were not asked for longest make room.
    pub(crate) fn put(&self, place: Place, file: &Bytes) {
        // A piece of a larger buffer would hold all of it.
        let file = Bytes::copy_from_slice(file);
        let mut held = self.0.lock();
        held.bytes += file.len();
        if let Some(before) = held.files.put(place, file) {
            held.bytes -= before.len();
        }
        while held.bytes > BYTES {
            let Some((_, oldest)) = held.files.pop_lru() else { return };
            held.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Id = [1; 32];
    const SITE: Id = [2; 32];

    #[test]
    fn what_was_asked_for_last_stays() {
        let warm = Warm::default();
        let file = Bytes::from(vec![7; 128 << 10]);
        let most = (BYTES / file.len()) as u64;
        for at in 0..most {
            warm.put((OWNER, SITE, at, 9), &file);
        }
        assert_eq!(warm.get(&(OWNER, SITE, 0, 9)), Some(file.clone()));
        warm.put((OWNER, SITE, most, 9), &file);
        assert_eq!(warm.get(&(OWNER, SITE, 1, 9)), None);
        assert_eq!(warm.get(&(OWNER, SITE, 0, 9)), Some(file.clone()));
        // Kept twice, it counts once.
        for _ in 0..2 * most {
            warm.put((OWNER, SITE, most, 9), &file);
        }
        assert_eq!(warm.get(&(OWNER, SITE, 2, 9)), Some(file));
        assert_eq!(warm.0.lock().bytes, BYTES);
    }

    #[test]
    fn what_one_owner_may_give_is_not_anothers() {
        let warm = Warm::default();
        warm.put((OWNER, SITE, 0, 9), &Bytes::from_static(b"secret"));
        assert_eq!(warm.get(&([3; 32], SITE, 0, 9)), None);
    }
}
