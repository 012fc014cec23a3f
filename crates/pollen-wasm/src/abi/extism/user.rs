//! `extism:host/user`: the mesh as a guest sees it. Handles are not consumed; results belong to the
//! guest; during initialisation there is no call yet and every result is 0.

use bytes::Bytes;
use wasmtime::{AsContextMut, Caller, Linker, Result};

use super::State;
use super::names::USER as MODULE;
use super::written;
use crate::abi::state::SLICE;
use crate::envelope::{LogLevel, NoReply};

/// A URI longer than this is refused, bytes.
const URI: usize = 4 << 10;

/// Defines all imports of this module.
pub(crate) fn define(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "pollen_log",
        |caller: Caller<'_, State>, level: u64, message: u64| {
            let state = caller.data();
            let level = match level {
                0 => LogLevel::Debug,
                1 => LogLevel::Info,
                2 => LogLevel::Warn,
                _ => LogLevel::Error,
            };
            state.logs.line(level, state.own.kernel.block(message));
        },
    )?;
    linker.func_wrap(MODULE, "pollen_caller_info", |mut caller: Caller<'_, State>| {
        let state = caller.data_mut();
        let text = state.host.as_ref().map(|host| host.caller_json());
        text.map_or(0, |text| state.put(text.as_bytes()))
    })?;
    linker.func_wrap(MODULE, "pollen_head", |mut caller: Caller<'_, State>| {
        let state = caller.data_mut();
        let head = state.host.as_ref().map(|host| host.head());
        head.map_or(0, |head| state.put(&head))
    })?;
    linker.func_wrap_async(
        MODULE,
        "pollen_write",
        |caller: Caller<'_, State>, (block,): (u64,)| Box::new(written::write(caller, block)),
    )?;
    linker.func_wrap_async(
        MODULE,
        "pollen_request",
        |mut caller: Caller<'_, State>, (uri, input): (u64, u64)| {
            Box::new(async move {
                let offset = request(caller.data_mut(), uri, input).await?;
                // The time awaited was not the guest's.
                caller.as_context_mut().set_epoch_deadline(SLICE);
                Ok(offset)
            })
        },
    )?;
    Ok(())
}

async fn request(state: &mut State, uri: u64, input: u64) -> Result<u64> {
    let Some(host) = state.host.clone() else { return Ok(0) };
    let uri = state.own.kernel.block(uri);
    let text = match std::str::from_utf8(uri) {
        Ok(text) if text.len() <= URI => text.to_owned(),
        _ => {
            state.logs.notice(LogLevel::Warn, "pollen_request: the URI is not text or too long");
            return Ok(0);
        }
    };
    let input = Bytes::copy_from_slice(state.own.kernel.block(input));
    match host.request(text, input).await {
        Ok(reply) => Ok(reply_handle(state, &reply)),
        Err(NoReply::Told(text)) => {
            state.logs.notice(LogLevel::Warn, &format!("pollen_request failed: {text}"));
            Ok(0)
        }
        Err(NoReply::Ends(error)) => Err(state.fail(error)),
    }
}

/// An empty reply is a live handle of length 0, so that 0 always means failure.
fn reply_handle(state: &mut State, reply: &[u8]) -> u64 {
    let offset = if reply.is_empty() {
        state.own.kernel.alloc_empty(&mut state.meter)
    } else {
        state.put(reply)
    };
    if offset == 0 {
        let text = format!("pollen_request: no memory for a reply of {} bytes", reply.len());
        state.logs.notice(LogLevel::Warn, &text);
    }
    offset
}
