//! Close codes of a link, which the peer sees: `CLOSE_*` of `pollen.core.limits`. The brain chooses
//! one; a few are the muscles' own.

/// Its chain does not make the peer a member of this cluster.
pub const NOT_A_MEMBER: u32 = 1;
/// No version that both speak.
pub const VERSION_MISMATCH: u32 = 2;
/// Another link to the same peer is kept.
pub const DUPLICATE_LINK: u32 = 3;
/// The peer's access ended.
pub const DENIED: u32 = 4;
/// The node is shutting down.
pub const SHUTTING_DOWN: u32 = 5;
/// What came on the link breaks the protocol.
pub const PROTOCOL_ERROR: u32 = 6;
/// Nobody uses the link.
pub const IDLE: u32 = 7;
/// Another live process uses the same key.
pub const TWIN: u32 = 8;
