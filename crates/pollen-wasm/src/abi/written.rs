//! What the guest of one call wrote ahead of its output, whatever its ABI.
//!
//! Decides: what is kept for a caller that does not stream. Does not know: how a piece leaves the guest.
//! Invariants: what is kept never grows past the limit of an output, and is charged to the guest until
//! its next call.
//! Source: docs/design/guest-abi.md#streamed-output.

use std::future::poll_fn;

use bytes::Bytes;

use crate::engine::budget::Quota;
use crate::envelope::Host;
use crate::error::SandboxError;

/// What the guest of one call wrote; one pointer, because most guests write nothing.
#[derive(Default)]
pub(crate) struct Written(Option<Box<Kept>>);

#[derive(Default)]
struct Kept {
    /// Of a caller that does not stream: it stands before the output.
    bytes: Vec<u8>,
    charged: u64,
    /// All of it, bytes.
    total: u64,
}

impl Written {
    /// Bytes written so far, wherever they went.
    pub(crate) fn total(&self) -> u64 {
        self.0.as_ref().map_or(0, |kept| kept.total)
    }

    /// What is to stand before the output.
    pub(crate) fn kept(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |kept| &kept.bytes)
    }

    /// Counts a piece that goes to the caller at once.
    pub(crate) fn note(&mut self, bytes: usize) {
        self.0.get_or_insert_default().total += bytes as u64;
    }

    /// Keeps bytes for a caller that does not stream; all of an output has `limit`.
    pub(crate) fn keep(
        &mut self,
        bytes: &[u8],
        limit: usize,
        quota: &mut impl Quota,
    ) -> Result<(), SandboxError> {
        let written = self.0.get_or_insert_default();
        let length = written.bytes.len().saturating_add(bytes.len());
        if length > limit {
            return Err(SandboxError::output_too_large(length, limit));
        }
        if length > written.bytes.capacity() {
            let capacity = written.bytes.capacity().saturating_mul(2).max(length).min(limit);
            let more = capacity.saturating_sub(written.bytes.capacity());
            if !quota.charge(more as u64) {
                return Err(SandboxError::out_of_memory("there is no memory for what it wrote"));
            }
            written.charged += more as u64;
            written.bytes.reserve_exact(capacity.saturating_sub(written.bytes.len()));
        }
        written.bytes.extend_from_slice(bytes);
        written.total = length as u64;
        Ok(())
    }

    /// Forgets a call.
    pub(crate) fn clear(&mut self, quota: &mut impl Quota) {
        if let Some(kept) = self.0.take() {
            quota.release(kept.charged);
        }
    }

    /// The output of a call that returned `bytes`: what was kept stands before it.
    pub(crate) fn output(&self, bytes: Bytes, limit: usize) -> Result<Bytes, SandboxError> {
        let length = self.kept().len().saturating_add(bytes.len());
        if length > limit {
            return Err(SandboxError::output_too_large(length, limit));
        }
        if self.kept().is_empty() { Ok(bytes) } else { Ok([self.kept(), &bytes].concat().into()) }
    }
}

/// Hands a piece on to a caller that streams: whether it was taken, and whether that took a wait.
pub(crate) async fn send(host: &dyn Host, piece: Bytes) -> (bool, bool) {
    let mut sending = host.write(piece);
    let mut waited = false;
    let taken = poll_fn(|cx| {
        let polled = sending.as_mut().poll(cx);
        waited |= polled.is_pending();
        polled
    });
    (taken.await, waited)
}
