//! Rows that the brain pushes, by lane, and what this node keeps beside each of them.

use std::{collections::HashMap, sync::Arc};

use pollen_wire::Id;

/// A row that the brain pushes. Its key names it; what this node keeps beside it survives a change.
pub trait Row {
    /// What belongs to the row on this node.
    type Local: Default;
    /// The 32 bytes that name it.
    fn key(&self) -> Id;
    /// The row came, or changed: `local` may note what stands in it.
    fn settle(&self, _local: &Self::Local) {}
}

/// A row with what belongs to it on this node.
pub struct Entry<R: Row> {
    /// As pushed.
    pub row: R,
    /// Shared by successive rows of one key.
    pub local: Arc<R::Local>,
}

/// What is new or changed in one lane of rows, and the keys of those that go.
pub struct Lane<R> {
    /// Rows that are new or changed.
    pub rows: Vec<R>,
    /// Keys of rows that go.
    pub gone: Vec<Id>,
}

impl<R> Default for Lane<R> {
    fn default() -> Self {
        Self { rows: Vec::new(), gone: Vec::new() }
    }
}

/// All rows of one lane.
pub struct Table<R: Row>(HashMap<Id, Arc<Entry<R>>>);

impl<R: Row> Default for Table<R> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<R: Row> Table<R> {
    /// By key.
    pub fn get(&self, key: &Id) -> Option<&Arc<Entry<R>>> {
        self.0.get(key)
    }

    /// Whether there is a row of this key.
    pub fn contains_key(&self, key: &Id) -> bool {
        self.0.contains_key(key)
    }

    /// All of them.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Entry<R>>> {
        self.0.values()
    }

    /// The table after a push; `is_whole` drops the rows that the push does not name.
    pub(crate) fn after(&self, lane: Lane<R>, is_whole: bool) -> Self {
        let mut entries = if is_whole { HashMap::new() } else { self.0.clone() };
        for gone in &lane.gone {
            entries.remove(gone);
        }
        for row in lane.rows {
            let key = row.key();
            let local = self.0.get(&key).map_or_else(Arc::default, |entry| entry.local.clone());
            row.settle(&local);
            entries.insert(key, Arc::new(Entry { row, local }));
        }
        Self(entries)
    }

    /// The keys that another table does not have.
    pub(crate) fn keys_without(&self, other: &Self) -> Vec<Id> {
        self.0.keys().filter(|key| !other.contains_key(key)).copied().collect()
    }
}
