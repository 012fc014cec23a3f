//! `pollen:python/host`: the bundle, and the mesh as the runner sees it.
//!
//! Decides: what each import does within a call, and what it says where there is none: at seed time
//! and during initialisation no import reaches the mesh.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pollen_wire::frame::MAX_CHUNK;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance};

use super::{HOST_VERSION, State};
use crate::abi::extism::is_seed_uri;
use crate::abi::mesh::{self, NO_CALL, Replied, URI, too_long};
use crate::abi::state::SLICE;
use crate::abi::written::send;
use crate::envelope::TailCall;

/// Defines all imports of this interface.
pub(super) fn define(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut host = linker.instance(HOST_VERSION)?;
    bundle(&mut host)?;
    mesh::define(&mut host)?;
    requests(&mut host)?;
    output(&mut host)
}

fn bundle(host: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    host.func_wrap("bundle", |store: StoreContextMut<'_, State>, (): ()| {
        let bundle = store.data().own.bundle.as_ref();
        Ok((bundle.map_or_else(Arc::default, |bundle| bundle.manifest()),))
    })?;
    host.func_wrap("read", |store: StoreContextMut<'_, State>, (path,): (Box<str>,)| {
        Ok((store.data().own.bundle.as_ref().and_then(|bundle| bundle.file(&path)),))
    })
}

fn requests(host: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    host.func_wrap_async(
        "start",
        |mut store: StoreContextMut<'_, State>, (uri, input): (String, Vec<u8>)| {
            Box::new(async move { Ok((start(store.data_mut(), uri, Bytes::from(input)),)) })
        },
    )?;
    host.func_wrap_async(
        "wait",
        |mut store: StoreContextMut<'_, State>, (time,): (Option<u64>,)| {
            Box::new(async move {
                let ended = wait(store.data_mut(), time.map(Duration::from_millis)).await;
                store.set_epoch_deadline(SLICE);
                Ok((ended?,))
            })
        },
    )
}

fn start(state: &mut State, uri: String, input: Bytes) -> u64 {
    match &state.host {
        None => state.own.begun.refused(NO_CALL),
        Some(_) if uri.len() > URI => state.own.begun.refused(&too_long(&uri)),
        Some(host) => state.own.begun.start(host, uri, input, &mut state.meter),
    }
}

async fn wait(state: &mut State, time: Option<Duration>) -> wasmtime::Result<Vec<(u64, Replied)>> {
    let host = state.host.clone();
    let resting = host.as_ref().filter(|_| !state.own.begun.has_ended());
    if let Some(host) = resting {
        host.rests();
    }
    let ended = state.own.begun.wait(host.as_ref(), time, &mut state.meter).await;
    if let Some(host) = resting {
        host.resumes();
    }
    ended.into_iter().map(|(number, reply)| Ok((number, mesh::read(state, reply)?))).collect()
}

fn output(host: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    host.func_wrap_async("write", |store: StoreContextMut<'_, State>, (bytes,): (Vec<u8>,)| {
        Box::new(async move { Ok((write(store, Bytes::from(bytes)).await?,)) })
    })?;
    host.func_wrap(
        "tail-call",
        |mut store: StoreContextMut<'_, State>, (uri, input): (String, Vec<u8>)| {
            let state = store.data_mut();
            let may = state.host.is_some()
                && state.settings.guest.tail_call
                && uri.len() <= URI
                && is_seed_uri(&uri);
            if may {
                state.own.tail_call = Some(TailCall { uri, input: Bytes::from(input) });
            }
            Ok((may,))
        },
    )
}

/// A piece of the output: false when nobody takes it.
async fn write(mut store: StoreContextMut<'_, State>, mut bytes: Bytes) -> wasmtime::Result<bool> {
    let state = store.data_mut();
    let Some(host) = state.host.clone() else { return Ok(false) };
    if !host.streams() {
        let limit = state.settings.max_output_bytes;
        let kept = state.own.written.keep(&bytes, limit, &mut state.meter);
        return kept.map(|()| true).map_err(|error| state.fail(error));
    }
    let mut waited = false;
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(MAX_CHUNK));
        store.data_mut().own.written.note(piece.len());
        let (is_taken, has_waited) = send(&*host, piece).await;
        waited |= has_waited;
        if !is_taken {
            return Ok(false);
        }
    }
    // Who never waits is interrupted as always.
    if waited {
        store.set_epoch_deadline(SLICE);
    }
    Ok(true)
}
