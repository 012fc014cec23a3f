//! For whom this node has a content: knowing a hash gives nothing.
//!
//! Decides: what counts as having got a content for an owner's specs, and which upload outlives an unload.
//! Does not know: gates; who asks; whether it is a module or a blob.
//! Invariants: a content is given away, and run, for the specs of an owner only when it was uploaded here by
//!     this node's own user, for this node's specs, or fetched for a spec of that owner, whose gate then let it
//!     pass. So whoever publishes somebody else's hash gets no byte of it. What the node brings along, its
//!     runner, is for the specs of all.
//! Source: docs/internals/content.md#possession.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use iroh_blobs::{Hash, HashAndFormat, store::fs::FsStore};
use parking_lot::Mutex;
use pollen_wire::Id;

use crate::pins::{Failure, pin};

/// That the store knows owners, of blobs and of modules. What one without it held is for all.
const KNOWN: [&[u8]; 2] = [b"format/owners", b"format/modules"];
const ANYBODY: &[u8] = b"*";
/// A row follows its upload within this: a publication takes 150 s at the most.
pub const PUBLISHED: Duration = Duration::from_secs(600);

/// When contents were uploaded here. An unload for a spec of before lets none of them go while the row of
/// the spec that they are for may be on its way.
#[derive(Default)]
pub(crate) struct Uploads(Mutex<HashMap<Id, Instant>>);

impl Uploads {
    pub(crate) fn note(&self, content: Id) {
        let now = Instant::now();
        let mut held = self.0.lock();
        held.retain(|_, at| now.duration_since(*at) < PUBLISHED);
        held.insert(content, now);
    }

    /// Whether it was uploaded after that, and a moment ago.
    pub(crate) fn is_newer(&self, content: Id, than: Instant) -> bool {
        self.0.lock().get(&content).is_some_and(|at| *at > than && at.elapsed() < PUBLISHED)
    }
}

/// Notes that a content is here for an owner, or for all; whether that was new. On disk with the next sync.
pub(crate) async fn note(store: &FsStore, content: Id, owner: Option<Id>) -> Result<bool, Failure> {
    let tag = tag(content, owner.as_ref().map_or(ANYBODY, |owner| owner));
    if store.tags().get(&tag).await?.is_some() {
        return Ok(false);
    }
    store.tags().set(tag, held(content)).await?;
    Ok(true)
}

/// Keeps what this node's own user uploaded, on disk when this returns.
pub(crate) async fn own(
    folder: &Path,
    store: &FsStore,
    content: Id,
    own: Id,
) -> Result<Id, Failure> {
    let is_new = note(store, content, Some(own)).await?;
    let is_synced = pin(folder, store, content).await?;
    if is_new && !is_synced {
        store.sync_db().await?;
    }
    Ok(content)
}

/// Whether it is.
pub(crate) async fn is_for(store: &FsStore, content: Id, owner: Id) -> Result<bool, Failure> {
    for whose in [&owner[..], ANYBODY] {
        if store.tags().get(tag(content, whose)).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// It is here for nobody any more.
pub(crate) async fn forget(store: &FsStore, content: Id) -> Result<(), Failure> {
    Ok(store.tags().delete_prefix(tag(content, b"")).await.map(drop)?)
}

/// Of a store of before: what is pinned there and noted for nobody is for all, as it was. Before owners that
/// was everything; later the modules that other nodes had published. What was noted stays for those alone.
pub(crate) async fn adopt(store: &FsStore, pins: &[u8]) -> Result<(), Failure> {
    let [owners, modules] = KNOWN;
    if store.tags().get(modules).await?.is_some() {
        return Ok(());
    }
    let of_before_owners = store.tags().get(owners).await?.is_none();
    let mut pinned = store.tags().list_prefix(pins).await?;
    let mut contents = Vec::new();
    while let Some(pin) = pinned.next().await {
        contents.push(*pin?.hash.as_bytes());
    }
    for content in contents {
        let is_noted = store.tags().list_prefix(tag(content, b"")).await?.next().await.is_some();
        if of_before_owners || !is_noted {
            note(store, content, None).await?;
        }
    }
    for known in KNOWN {
        store.tags().set(known, HashAndFormat::raw(Hash::EMPTY)).await?;
    }
    Ok(store.sync_db().await?)
}

fn tag(content: Id, owner: &[u8]) -> Vec<u8> {
    [b"own/".as_slice(), &content, b"/", owner].concat()
}

fn held(content: Id) -> HashAndFormat {
    HashAndFormat::raw(Hash::from_bytes(content))
}
