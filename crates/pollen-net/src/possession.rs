//! For whom this node has a content: knowing a hash gives nothing.
//!
//! Decides: what counts as having got a content for an owner's specs.
//! Does not know: gates; who asks.
//! Invariants: a content is given away for the specs of an owner only when it was uploaded here by this node's
//!     own user, for this node's specs, or fetched for a spec of that owner, whose gate then let it pass. So
//!     whoever publishes somebody else's hash gets no byte of it.
//! Source: docs/internals/content.md#possession.

use futures_util::StreamExt as _;
use iroh_blobs::{Hash, HashAndFormat, store::fs::FsStore};
use pollen_wire::Id;

use crate::pins::Failure;

/// That the store knows owners. One without it is of before, and gives what it held to all.
const KNOWN: &[u8] = b"format/owners";

/// Notes that a content is here for an owner.
pub(crate) async fn note(store: &FsStore, content: Id, owner: Id) -> Result<(), Failure> {
    Ok(store.tags().set(tag(content, &owner), held(content)).await?)
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

/// Of a store of before owners: what is pinned there is for all, as it was.
pub(crate) async fn adopt(store: &FsStore, pins: &[u8]) -> Result<(), Failure> {
    if store.tags().get(KNOWN).await?.is_some() {
        return Ok(());
    }
    let mut pinned = store.tags().list_prefix(pins).await?;
    let mut contents = Vec::new();
    while let Some(pin) = pinned.next().await {
        contents.push(*pin?.hash.as_bytes());
    }
    for content in contents {
        store.tags().set(tag(content, ANYBODY), held(content)).await?;
    }
    store.tags().set(KNOWN, HashAndFormat::raw(Hash::EMPTY)).await?;
    Ok(store.sync_db().await?)
}

const ANYBODY: &[u8] = b"*";

fn tag(content: Id, owner: &[u8]) -> Vec<u8> {
    [b"own/".as_slice(), &content, b"/", owner].concat()
}

fn held(content: Id) -> HashAndFormat {
    HashAndFormat::raw(Hash::from_bytes(content))
}
