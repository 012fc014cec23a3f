//! A guest reads a blob: all of it, or one range, as far as its node and its publisher may.
//!
//! Decides: which blobs a guest may read, and what an address of one means. Does not know: where the
//!     bytes come from (`blobs.rs`).
//! Invariants: a guest reads nothing that the node where it runs may not read, nor anything that the
//!     member who published it may not. Source: docs/design/guest-abi.md#blobs.

use bytes::Bytes;
use pollen_wasm::MAX_ANSWER;

use crate::{
    call::{CallError, Principal, SeedRef},
    plane::Plane,
    ranges::ByteRange,
    tables::SeedRow,
};

/// How the address of a blob begins.
pub(crate) const BLOB: &str = "pln://blob/";

/// Reads what the rest of an address names: `NAME`, or `NAME?bytes=FIRST-LAST` and its like.
pub(crate) async fn read(
    plane: &Plane,
    row: &SeedRow,
    address: &str,
    input: &Bytes,
) -> Result<Bytes, CallError> {
    if !input.is_empty() {
        return Err(bad("a blob is read, and takes no input", "leave the input empty"));
    }
    let (name, query) = match address.split_once('?') {
        Some((name, query)) => (name, Some(query)),
        None => (address, None),
    };
    let blob = plane.open_blob(&SeedRef::parse(name), Principal::Node(plane.id()), 0).await?;
    if !blob.lets_publisher(row) {
        let reason = format!("the publisher of seed \"{}\" may not read blob \"{name}\"", row.name);
        return Err(CallError::refused("denied", reason, "pln inspect of both says who may"));
    }
    let range = match query.map(|query| ByteRange::read(query, blob.size())) {
        None => 0..blob.size(),
        Some(ByteRange::Some(range)) => range,
        Some(ByteRange::None) => {
            let reason = format!("the blob has {} bytes, and the range begins behind", blob.size());
            return Err(bad(&reason, "ask for bytes that are there"));
        }
        Some(ByteRange::All) => {
            return Err(bad("the address names no range", "write pln://blob/NAME?bytes=0-1023"));
        }
    };
    let size = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    if size > MAX_ANSWER {
        let reason = format!("{size} bytes are over the limit of {MAX_ANSWER} bytes of a reply");
        return Err(bad(&reason, "read it range by range: pln://blob/NAME?bytes=0-1048575"));
    }
    blob.read_whole(range).await
}

fn bad(reason: &str, remedy: &str) -> CallError {
    CallError::refused("bad-request", reason, remedy)
}
