//! A copy on this disk, read again from end to end.
//!
//! Decides: nothing. Does not know: who holds other copies, and what follows from a damaged one.
//! Invariant: each byte is held against the hash of the whole.
//! Source: docs/internals/content.md#a-damaged-copy.

use futures_util::StreamExt as _;
use iroh_blobs::{Hash, api::blobs::EncodedItem, protocol::ChunkRanges, store::fs::FsStore};
use pollen_wire::Id;

/// Whether all of it can be read, and is what its hash says.
pub(crate) async fn is_sound(store: &FsStore, content: Id) -> bool {
    let all = store.blobs().export_bao(Hash::from_bytes(content), ChunkRanges::all());
    let mut items = std::pin::pin!(all.stream());
    while let Some(item) = items.next().await {
        if let EncodedItem::Error(_) = item {
            return false;
        }
    }
    true
}
