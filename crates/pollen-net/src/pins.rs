//! What keeps a content in the store until it is let go: a tag of its own, set when it is on disk.
//!
//! Decides: nothing but the names of tags. The store sweeps what has none.
//! Source: docs/decisions/content-behind-a-trait.md.

use std::{fs::File, io, path::Path};

use iroh_blobs::{Hash, HashAndFormat, store::fs::FsStore};
use pollen_wire::Id;

/// Why something failed inside; for the log and the reason.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the tags of whole contents begin with.
pub(crate) const PINS: &[u8] = b"pin/";

/// Pins what is held, on disk when this returns; what has a pin already costs no write. Whether it wrote,
/// and all that came before it.
pub(crate) async fn pin(folder: &Path, store: &FsStore, content: Id) -> Result<bool, Failure> {
    if store.tags().get(tag(content)).await?.is_some() {
        return Ok(false);
    }
    sync_files(folder, content).await?;
    store.tags().set(tag(content), HashAndFormat::raw(Hash::from_bytes(content))).await?;
    store.tags().delete(unfinished(content)).await?;
    store.sync_db().await?;
    Ok(true)
}

/// The library syncs its database only. What has no file of its own stands there.
async fn sync_files(folder: &Path, content: Id) -> Result<(), Failure> {
    let name = Hash::from_bytes(content).to_hex();
    let folder = folder.join("data");
    let synced = tokio::task::spawn_blocking(move || {
        for ending in ["data", "obao4"] {
            match File::open(folder.join(format!("{name}.{ending}"))) {
                Ok(file) => file.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        File::open(folder)?.sync_all()
    });
    Ok(synced.await??)
}

pub(crate) fn tag(content: Id) -> Vec<u8> {
    [PINS, &content].concat()
}

/// The tag of what has not come whole yet.
pub(crate) fn unfinished(content: Id) -> Vec<u8> {
    [b"part/".as_slice(), &content].concat()
}
