//! What the end of the runner means: output, tail call, failure.

use bytes::Bytes;
use wasmtime::Error;

use super::{Failure, State};
use crate::abi::contract::plain;
use crate::abi::outcome;
use crate::envelope::Output;
use crate::error::SandboxError;

/// An error text of a guest is cut at this, bytes: a traceback of many frames fits.
const MESSAGE: usize = 16 << 10;

/// The guest is kept after these errors: the interpreter ended the call by itself.
pub(super) const KEEPS: [&str; 3] = ["guest-failed", "bad-argument", "function-not-found"];

/// The result of a call that returned.
pub(super) fn of_answer(state: &mut State) -> Result<Output, SandboxError> {
    let lost = || SandboxError::internal("the runner returned and gave no answer", true);
    let bytes = match state.own.answer.take().ok_or_else(lost)? {
        Ok(bytes) => Bytes::from(bytes),
        Err(failure) => return Err(failed(failure)),
    };
    let written = state.own.written.total();
    let Some(tail_call) = state.own.tail_call.take() else {
        let limit = state.settings.max_output_bytes;
        return Ok(plain(state.own.written.output(bytes, limit)?, 0));
    };
    if written > 0 {
        return Err(SandboxError::ran(
            "guest-failed",
            format!("the function wrote {written} bytes and then made a tail call"),
            "write nothing ahead of a tail call",
        ));
    }
    Ok(Output { bytes: Bytes::new(), status: 0, tail_call: Some(tail_call) })
}

fn failed(failure: Failure) -> SandboxError {
    match failure {
        Failure::NoFunction(text) => {
            SandboxError::refused("function-not-found", cut(text), "see pln inspect NAME")
        }
        Failure::BadArgument(text) => {
            SandboxError::refused("bad-argument", cut(text), "see the arguments: pln inspect NAME")
        }
        Failure::Failed(text) => SandboxError::ran("guest-failed", cut(text), ""),
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MESSAGE {
        let end = (0..=MESSAGE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// What a trap means.
pub(super) fn of_trap(state: &mut State, error: &Error) -> SandboxError {
    if state.failure.is_none() && !state.expired && outcome::exit_code(error) == Some(0) {
        return SandboxError::ran(
            "guest-failed",
            "the function ended the whole interpreter (exit code 0)",
            "return instead of os._exit",
        );
    }
    outcome::of_cut(state, error)
}
