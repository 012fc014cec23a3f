//! split: what a child call inherits.

/// A child's share. Its parent has no calls left meanwhile: it waits, and what the child did not use
/// comes back with its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Hops the child may still go.
    pub hops: u8,
    /// Calls it may make.
    pub calls: u32,
    /// Retries it may use.
    pub retries: u8,
}

/// The child costs one hop and one call, and gets all the rest: a guest makes one call at a time, so
/// nothing need be kept for another. `Err` is the slug of the limit that forbids it.
#[inline]
pub fn split(hops: u8, calls_left: u32, retries: u8) -> Result<Share, &'static str> {
    let hops = hops.checked_sub(1).ok_or("hop-limit")?;
    let calls = calls_left.checked_sub(1).ok_or("call-limit")?;
    Ok(Share { hops, calls, retries })
}
