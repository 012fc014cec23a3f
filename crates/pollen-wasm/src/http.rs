//! `http_request` and what belongs to it.

use bytes::Bytes;
use wasmtime::{AsContextMut, Caller, Linker, Result};

use crate::error::SandboxError;
use crate::guest::{SLICE, State};
use crate::imports::MODULE;

/// Status and headers of a guest's last request.
#[derive(Default)]
pub(crate) struct LastReply {
    status: u16,
    /// A JSON object; empty before the first request.
    headers: Bytes,
}

impl LastReply {
    pub(crate) fn clear(&mut self) {
        self.status = 0;
        self.headers = Bytes::new();
    }
}

/// Defines the imports about HTTP.
pub(crate) fn define(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(MODULE, "http_status_code", |caller: Caller<'_, State>| {
        i32::from(caller.data().http.status)
    })?;
    linker.func_wrap(MODULE, "http_headers", |mut caller: Caller<'_, State>| {
        let state = caller.data_mut();
        let headers = state.http.headers.clone();
        state.put(&headers)
    })?;
    linker.func_wrap_async(
        MODULE,
        "http_request",
        |mut caller: Caller<'_, State>, (request, body): (u64, u64)| {
            Box::new(async move {
                let reply = exchange(caller.data_mut(), request, body).await;
                caller.as_context_mut().set_epoch_deadline(SLICE);
                reply
            })
        },
    )?;
    Ok(())
}

async fn exchange(state: &mut State, request: u64, body: u64) -> Result<u64> {
    state.kernel.free(request);
    state.kernel.free(body);
    let error = SandboxError::ran("guest-host-refused", "http is not available", "");
    Err(state.fail(error))
}
