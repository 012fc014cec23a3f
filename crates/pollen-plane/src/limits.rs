//! Numbers that more than one file of the call path, or a door, obeys.

/// Largest input of a call, bytes (docs/design/guest-abi.md#limits).
pub const MAX_INPUT: usize = 4 * 1024 * 1024;
/// Largest module, bytes.
pub const MAX_MODULE: u64 = 32 * 1024 * 1024;
/// What to do when the content store fails: nothing needs a restart.
pub const STORE_REMEDY: &str = "make room on the disk, then ask again; see: pln doctor";
