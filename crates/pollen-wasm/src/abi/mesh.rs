//! What components of several ABIs ask of the mesh by the same functions: a log, a request, who calls,
//! the configuration.
//!
//! Does not know: the interface that they stand in. At seed time and during initialisation no
//! function reaches the mesh.

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;

use crate::abi::state::{SLICE, State};
use crate::envelope::{LogLevel, NoReply};

/// A URI longer than this is refused, bytes.
pub(crate) const URI: usize = 4 << 10;

/// What a request is told where there is no call.
pub(crate) const NO_CALL: &str =
    "[denied] no other seed can be called while this one is being made";

/// A reply as the guest takes it.
pub(crate) type Replied = Result<Vec<u8>, String>;

/// Defines the functions in an interface.
pub(crate) fn define<O: Send + 'static>(
    host: &mut LinkerInstance<'_, State<O>>,
) -> wasmtime::Result<()> {
    host.func_wrap(
        "log",
        |store: StoreContextMut<'_, State<O>>, (level, message): (u32, Box<str>)| {
            let level = match level {
                0 => LogLevel::Debug,
                1 => LogLevel::Info,
                2 => LogLevel::Warn,
                _ => LogLevel::Error,
            };
            store.data().logs.line(level, message.as_bytes());
            Ok(())
        },
    )?;
    host.func_wrap("caller-info", |store: StoreContextMut<'_, State<O>>, (): ()| {
        let host = store.data().host.as_ref();
        Ok((host.map_or_else(|| "{}".to_owned(), |host| host.caller_json()),))
    })?;
    host.func_wrap("config", |store: StoreContextMut<'_, State<O>>, (key,): (Box<str>,)| {
        Ok((store.data().settings.guest.config.get(&*key).cloned(),))
    })?;
    host.func_wrap_async(
        "request",
        |mut store: StoreContextMut<'_, State<O>>, (uri, input): (String, Vec<u8>)| {
            Box::new(async move {
                let host = store.data().host.clone();
                let replied: Replied = match (host, uri.len() <= URI) {
                    (None, _) => Err(NO_CALL.to_owned()),
                    (_, false) => Err(too_long(&uri)),
                    (Some(host), true) => {
                        let replied = host.request(uri, Bytes::from(input)).await;
                        // The time awaited was not the guest's.
                        store.set_epoch_deadline(SLICE);
                        read(store.data_mut(), replied)?
                    }
                };
                Ok((replied,))
            })
        },
    )
}

/// A reply as the guest takes it; it ends where it asked for what it may not.
pub(crate) fn read<O>(
    state: &mut State<O>,
    replied: Result<Bytes, NoReply>,
) -> wasmtime::Result<Replied> {
    match replied {
        Ok(reply) => Ok(Ok(Vec::from(reply))),
        Err(NoReply::Told(text)) => Ok(Err(text)),
        Err(NoReply::Ends(error)) => Err(state.fail(error)),
    }
}

/// What an address over the limit is told.
pub(crate) fn too_long(uri: &str) -> String {
    format!("[bad-request] an address of {} bytes is over the limit of {URI}", uri.len())
}
