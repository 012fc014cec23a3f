//! split: what a child call inherits.

/// A child's share, and the calls that its parent keeps meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Hops the child may still go.
    pub hops: u8,
    /// Calls it may make.
    pub calls: u32,
    /// Retries it may use.
    pub retries: u8,
    /// Calls the parent keeps; what the child did not use comes back with its reply.
    pub parent_calls: u32,
}

/// The child costs one hop and one call; of the rest it gets half, rounded up, and all retries.
/// `Err` is the slug of the limit that forbids it.
pub fn split(hops: u8, calls_left: u32, retries: u8) -> Result<Share, &'static str> {
    let hops = hops.checked_sub(1).ok_or("hop-limit")?;
    let rest = calls_left.checked_sub(1).ok_or("call-limit")?;
    let calls = rest.div_ceil(2);
    Ok(Share { hops, calls, retries, parent_calls: rest - calls })
}
