//! What more than one file of the call path, or a door, says.

/// What to do when the content store fails: nothing needs a restart.
pub const STORE_REMEDY: &str = "make room on the disk, then ask again; see: pln doctor";

/// How much of the output of a call that the brain began comes back to it, bytes; as in
/// `pollen.core.limits`.
pub const OWN_OUTPUT_MAX: usize = 4 * 1024;
