//! What the checks of modules and of components say alike: a file that is broken, a name that is near.

use crate::error::SandboxError;

/// A page of linear memory, bytes.
pub(super) const PAGE: u64 = 64 << 10;

/// Why a file is not valid, with the place.
pub(super) fn broken(error: &wasmparser::BinaryReaderError, length: usize) -> SandboxError {
    let text = error.message();
    if text.contains("unexpected end") || error.offset() >= length {
        return SandboxError::invalid(
            format!("the module is cut off at byte {length}: {text}"),
            "copy or build it again",
        );
    }
    let remedy = if text.contains("must be enabled") || text.contains("not enabled") {
        "build without this feature of WebAssembly"
    } else {
        ""
    };
    SandboxError::invalid(format!("invalid at byte {:#x}: {text}", error.offset()), remedy)
}

/// The name that is closest, if any is close.
pub(super) fn nearest_of<'a>(names: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    names
        .map(|known| (distance(name, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(name.len()) / 3)
        .min()
        .map(|(_, known)| known)
}

/// Edit distance.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}
