//! `pollen_write`: what a guest says ahead of its output.
//!
//! Decides: whether it goes to the caller at once or is kept until the function returns.
//! Does not know: who the caller is, and how its pieces travel.
//! Invariant: a piece is copied out of the guest once.
//! Source: docs/design/guest-abi.md#streamed-output.

use bytes::Bytes;
use pollen_wire::frame::MAX_CHUNK;
use wasmtime::{AsContextMut, Caller, Result};

use super::State;
use crate::abi::state::SLICE;
use crate::abi::written::send;
use crate::error::SandboxError;

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
        caller.data_mut().own.written.note(piece.len());
        let (is_taken, has_waited) = send(&*host, piece).await;
        waited |= has_waited;
        if !is_taken {
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
    let limit = state.settings.max_output_bytes;
    let bytes = state.own.kernel.block(block);
    let kept = state.own.written.keep(bytes, limit, &mut state.meter);
    kept.map_err(|error| state.fail(error))
}
