//! Whether a disk is full, and the words for it.

use std::{fmt::Display, io, path::Path};

use crate::NetError;

/// Whoever writes needs some pages; with less the disk is full. Bytes. Guess.
const ROOM_LEAST: u64 = 256 * 1024;

/// Whether there is no room for `size` bytes more in `folder`. Unknown is no.
pub(crate) fn is_full(folder: &Path, size: u64) -> bool {
    room(folder).is_some_and(|room| room < size.saturating_add(ROOM_LEAST))
}

/// Whether a cause speaks of a full disk or a used-up quota. The causes come as text: libraries
/// wrap the number of the system's error.
pub(crate) fn is_full_by(cause: &impl Display) -> bool {
    let text = format!("{cause:#}");
    [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT]
        .iter()
        .any(|held| text.contains(&io::Error::from(*held).to_string()))
}

/// What happened, where, and how much room there is.
pub(crate) fn full_text(folder: &Path, size: u64) -> String {
    let wanted = if size == 0 { String::new() } else { format!(" for {}", mebibytes(size)) };
    let free = mebibytes(room(folder).unwrap_or(0));
    format!("the disk has no room{wanted}: {free} free at {}", folder.display())
}

fn mebibytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn room(folder: &Path) -> Option<u64> {
    let held = rustix::fs::statvfs(folder).ok()?;
    Some(held.f_bavail.saturating_mul(held.f_frsize))
}

/// What the content store failed at, or that its disk is full.
pub(crate) fn failed(folder: &Path, what: &str, size: u64, cause: impl Display) -> NetError {
    if is_full_by(&cause) || is_full(folder, size) {
        return NetError::Full(full_text(folder, size));
    }
    NetError::State(format!("the content store {} failed at {what}: {cause}", folder.display()))
}
