//! `pollen_write`: what a guest says ahead of its output.
//!
//! Decides: whether it goes to the caller at once or is kept until the function returns.
//! Does not know: who the caller is, and how its pieces travel.
//! Invariants: a piece is copied out of the guest once. What is kept never grows past the limit of
//! an output, and is charged to the guest until its next call.
//! Source: docs/design/guest-abi.md#streamed-output.

use std::future::poll_fn;

use bytes::Bytes;
use pollen_wire::frame::MAX_CHUNK;
use wasmtime::{AsContextMut, Caller, Result};

use super::State;
use crate::abi::state::SLICE;
use crate::engine::budget::Quota;
use crate::error::SandboxError;

/// What the guest of one call wrote.
#[derive(Default)]
pub(super) struct Written {
    /// Of a caller that does not stream: it stands before the output.
    kept: Vec<u8>,
    charged: u64,
    /// All of it, bytes.
    total: u64,
}

impl Written {
    /// Bytes written so far, wherever they went.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// What is to stand before the output.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Forgets a call.
    pub(super) fn clear(&mut self, quota: &mut impl Quota) {
        if self.total > 0 {
            quota.release(self.charged);
            *self = Self::default();
        }
    }
}

/// `pollen_write`: the bytes of the block that were written, 0 when there is no such block.
pub(super) async fn write(mut caller: Caller<'_, State>, block: u64) -> Result<u64> {
    let state = caller.data_mut();
    let Some(host) = state.host.clone() else { return Ok(0) };
    let length = state.own.kernel.block(block).len();
    if !host.streams() {
        keep(state, block)?;
        return Ok(length as u64);
    }
    let (mut at, mut waited) = (0, false);
    while at < length {
        let rest = caller.data().own.kernel.block(block).get(at..).unwrap_or_default();
        let piece = Bytes::copy_from_slice(rest.get(..MAX_CHUNK).unwrap_or(rest));
        at += piece.len();
        caller.data_mut().own.written.total += piece.len() as u64;
        let mut sending = host.write(piece);
        let taken = poll_fn(|cx| {
            let polled = sending.as_mut().poll(cx);
            waited |= polled.is_pending();
            polled
        });
        if !taken.await {
            return Err(caller.data_mut().fail(SandboxError::not_taken()));
        }
    }
    // The time awaited was not the guest's. Who never waits is interrupted as always.
    if waited {
        caller.as_context_mut().set_epoch_deadline(SLICE);
    }
    Ok(length as u64)
}

fn keep(state: &mut State, block: u64) -> Result<()> {
    let bytes = state.own.kernel.block(block);
    let written = &mut state.own.written;
    let length = written.kept.len().saturating_add(bytes.len());
    let limit = state.settings.max_output_bytes;
    if length > limit {
        return Err(state.fail(SandboxError::output_too_large(length, limit)));
    }
    if length > written.kept.capacity() {
        let capacity = written.kept.capacity().saturating_mul(2).max(length).min(limit);
        let more = capacity.saturating_sub(written.kept.capacity());
        if !state.meter.charge(more as u64) {
            let error = SandboxError::out_of_memory("there is no memory for what it wrote");
            return Err(state.fail(error));
        }
        written.charged += more as u64;
        written.kept.reserve_exact(capacity.saturating_sub(written.kept.len()));
    }
    written.kept.extend_from_slice(bytes);
    written.total = length as u64;
    Ok(())
}
