//! `extism:host/env`: the imports of the Extism ABI over the native [`Kernel`](super::kernel).

use wasmtime::{Caller, Linker, Result};

use super::State;
use super::http;
use super::names::ENV as MODULE;
use crate::engine::budget::Quota;
use crate::envelope::LogLevel;
use crate::error::SandboxError;

/// All variables of a guest together, bytes.
const VARS: u64 = 1 << 20;

/// What one variable costs beside its bytes.
const VAR_OVERHEAD: u64 = 64;

/// Defines all imports of this module.
pub(crate) fn define(linker: &mut Linker<State>) -> Result<()> {
    blocks(linker)?;
    memory(linker)?;
    input_output(linker)?;
    config(linker)?;
    logs(linker)?;
    http::define(linker)
}

fn blocks(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(MODULE, "alloc", |mut caller: Caller<'_, State>, n: u64| {
        let state = caller.data_mut();
        state.own.kernel.alloc(n, &mut state.meter)
    })?;
    linker.func_wrap(MODULE, "free", |mut caller: Caller<'_, State>, offset: u64| {
        caller.data_mut().own.kernel.free(offset);
    })?;
    for name in ["length", "length_unsafe"] {
        linker.func_wrap(MODULE, name, |caller: Caller<'_, State>, offset: u64| {
            caller.data().own.kernel.length(offset)
        })?;
    }
    linker.func_wrap(MODULE, "memory_bytes", |caller: Caller<'_, State>| {
        caller.data().own.kernel.memory_bytes()
    })?;
    linker.func_wrap(MODULE, "reset", |mut caller: Caller<'_, State>| {
        caller.data_mut().own.kernel.reset();
    })?;
    Ok(())
}

fn memory(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(MODULE, "load_u8", |caller: Caller<'_, State>, offset: u64| {
        u32::from(caller.data().own.kernel.load_u8(offset))
    })?;
    linker.func_wrap(MODULE, "load_u64", |caller: Caller<'_, State>, offset: u64| {
        caller.data().own.kernel.load_u64(offset)
    })?;
    linker.func_wrap(
        MODULE,
        "store_u8",
        |mut caller: Caller<'_, State>, offset: u64, value: u32| {
            let [low, ..] = value.to_le_bytes();
            caller.data_mut().own.kernel.store_u8(offset, low);
        },
    )?;
    linker.func_wrap(
        MODULE,
        "store_u64",
        |mut caller: Caller<'_, State>, offset: u64, value: u64| {
            caller.data_mut().own.kernel.store_u64(offset, value);
        },
    )?;
    Ok(())
}

fn input_output(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(MODULE, "input_length", |caller: Caller<'_, State>| {
        caller.data().own.kernel.input_length()
    })?;
    linker.func_wrap(MODULE, "input_offset", |caller: Caller<'_, State>| {
        caller.data().own.kernel.input_offset()
    })?;
    linker.func_wrap(MODULE, "input_load_u8", |caller: Caller<'_, State>, offset: u64| {
        u32::from(caller.data().own.kernel.input_load_u8(offset))
    })?;
    linker.func_wrap(MODULE, "input_load_u64", |caller: Caller<'_, State>, offset: u64| {
        caller.data().own.kernel.input_load_u64(offset)
    })?;
    linker.func_wrap(
        MODULE,
        "input_set",
        |mut caller: Caller<'_, State>, offset: u64, length: u64| {
            caller.data_mut().own.kernel.input_set(offset, length);
        },
    )?;
    linker.func_wrap(
        MODULE,
        "output_set",
        |mut caller: Caller<'_, State>, offset: u64, length: u64| -> wasmtime::Result<()> {
            let state = caller.data_mut();
            if state.own.kernel.output_set(offset, length) {
                return Ok(());
            }
            let reason = format!("output_set({offset}, {length}) is outside of the host's memory");
            let remedy = "give an offset that alloc returned, and a length within that block";
            Err(state.fail(SandboxError::ran("guest-failed", reason, remedy)))
        },
    )?;
    linker.func_wrap(MODULE, "output_offset", |caller: Caller<'_, State>| {
        caller.data().own.kernel.output_offset()
    })?;
    linker.func_wrap(MODULE, "output_length", |caller: Caller<'_, State>| {
        caller.data().own.kernel.output_length()
    })?;
    linker.func_wrap(MODULE, "error_set", |mut caller: Caller<'_, State>, offset: u64| {
        caller.data_mut().own.kernel.error_set(offset);
    })?;
    linker.func_wrap(MODULE, "error_get", |caller: Caller<'_, State>| {
        caller.data().own.kernel.error_get()
    })?;
    Ok(())
}

fn config(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(MODULE, "config_get", |mut caller: Caller<'_, State>, key: u64| {
        let state = caller.data_mut();
        let settings = state.settings.clone();
        let value = std::str::from_utf8(state.own.kernel.block(key))
            .ok()
            .and_then(|key| settings.guest.config.get(key));
        value.map_or(0, |value| state.put(value.as_bytes()))
    })?;
    linker.func_wrap(MODULE, "var_get", |mut caller: Caller<'_, State>, key: u64| {
        let state = caller.data_mut();
        let value = state.own.vars.get(state.own.kernel.block(key)).cloned();
        state.own.kernel.free(key);
        value.map_or(0, |value| state.put(&value))
    })?;
    linker.func_wrap(
        MODULE,
        "var_set",
        |mut caller: Caller<'_, State>, key: u64, value: u64| {
            var_set(caller.data_mut(), key, value)
        },
    )?;
    Ok(())
}

fn var_set(state: &mut State, key: u64, value: u64) -> Result<()> {
    let name: Box<[u8]> = state.own.kernel.block(key).into();
    let bytes = bytes::Bytes::copy_from_slice(state.own.kernel.block(value));
    state.own.kernel.free(key);
    let cost = |bytes: usize| VAR_OVERHEAD + name.len() as u64 + bytes as u64;
    let old = state.own.vars.get(&name).map_or(0, |old| cost(old.len()));
    if value == 0 {
        state.own.vars.remove(&name);
        state.own.vars_bytes -= old;
        state.meter.release(old);
        return Ok(());
    }
    state.own.kernel.free(value);
    let new = cost(bytes.len());
    let sum = state.own.vars_bytes - old + new;
    if sum > VARS || !state.meter.charge(new) {
        let error = SandboxError::ran(
            "guest-vars-too-large",
            format!("the guest's variables would take {sum} bytes; the limit is {VARS}"),
            "keep less in variables; they are a cache of one instance, not a store",
        );
        return Err(state.fail(error));
    }
    state.meter.release(old);
    state.own.vars_bytes = sum;
    state.own.vars.insert(name, bytes);
    Ok(())
}

fn logs(linker: &mut Linker<State>) -> Result<()> {
    for (name, level) in [
        ("log_trace", LogLevel::Trace),
        ("log_debug", LogLevel::Debug),
        ("log_info", LogLevel::Info),
        ("log_warn", LogLevel::Warn),
        ("log_error", LogLevel::Error),
    ] {
        linker.func_wrap(MODULE, name, move |mut caller: Caller<'_, State>, message: u64| {
            let state = caller.data_mut();
            state.logs.line(level, state.own.kernel.block(message));
            state.own.kernel.free(message);
        })?;
    }
    linker.func_wrap(MODULE, "get_log_level", |caller: Caller<'_, State>| {
        match caller.data().host.as_ref().map(|host| host.log_level()) {
            Some(LogLevel::Trace) => 0,
            Some(LogLevel::Debug) => 1,
            Some(LogLevel::Info) => 2,
            Some(LogLevel::Warn) => 3,
            Some(LogLevel::Error) => 4,
            // Off: nobody listens during initialisation.
            None => i32::MAX,
        }
    })?;
    Ok(())
}
