//! What is the same in the ends of all guests: a failed start, a deadline, a limit, a trap.

use wasmtime::{Error, PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::abi::contract::Abi;
use crate::abi::state::State;
use crate::engine::meter::Refusal;
use crate::error::SandboxError;

/// Frames of a trap's backtrace that are shown.
const FRAMES: usize = 8;

/// Why a guest is not begun when the budget is spent.
pub(crate) const NO_MEMORY: &str = "the node's memory for guests is used up";

/// Judges a failed instantiation. The function has not run.
pub(crate) fn of_instantiation<A: Abi>(error: Error, state: &mut State<A>) -> SandboxError {
    if error.is::<PoolConcurrencyLimitError>() {
        return SandboxError::overloaded(format!("the instance pool is full: {error}"));
    }
    if error.is::<std::io::Error>() {
        return SandboxError::overloaded(format!("this machine gives no memory: {error}"));
    }
    match state.meter.refused() {
        Some(Refusal::Budget) => SandboxError::overloaded(NO_MEMORY),
        Some(Refusal::Limit) => SandboxError::out_of_memory(format!(
            "the module needs more than its memory limit of {} bytes to start",
            state.settings.guest.memory_bytes
        ))
        .not_executed(),
        None => of_initialisation(error, state),
    }
}

/// Judges a failed initialisation. The function has not run.
pub(crate) fn of_initialisation<A: Abi>(error: Error, state: &mut State<A>) -> SandboxError {
    state.logs.end();
    if state.meter.refused() == Some(Refusal::Budget) {
        return SandboxError::overloaded(NO_MEMORY);
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return SandboxError::overloaded(format!("the instance pool is full: {error}"));
    }
    match A::cut(state, &error) {
        Err(error) if error.slug() == "guest-trapped" => SandboxError::ran(
            "guest-trapped",
            format!("initialisation failed: {}", error.reason()),
            error.remedy().to_owned(),
        )
        .not_executed(),
        Err(error) => error.not_executed(),
        Ok(_) => {
            SandboxError::ran("guest-failed", "the module exited while it was initialised", "")
                .not_executed()
        }
    }
}

/// The host ended the guest: an import refused, or its time ran out.
pub(crate) fn of_interruption<O>(state: &mut State<O>) -> Option<SandboxError> {
    let expired = state.expired.then(|| SandboxError::deadline(true));
    state.failure.take().or(expired)
}

/// The code that a guest ended itself with, if it did.
pub(crate) fn exit_code(error: &Error) -> Option<i32> {
    error.downcast_ref::<I32Exit>().map(|exit| exit.0)
}

/// The guest ended itself with a code that means failure; `message` is what it said of it.
pub(crate) fn of_exit(error: &Error, message: Option<&str>) -> Option<SandboxError> {
    let code = exit_code(error)?;
    let reason = match message {
        Some(message) => message.to_owned(),
        None => format!("the guest exited with code {code}"),
    };
    Some(SandboxError::ran("guest-failed", reason, ""))
}

/// A growth of memory was refused, and the trap came of it.
pub(crate) fn of_refusal<O>(state: &State<O>) -> Option<SandboxError> {
    Some(SandboxError::out_of_memory(match state.meter.refused()? {
        Refusal::Limit => {
            format!(
                "the guest needed more than its {} bytes of memory",
                state.settings.guest.memory_bytes
            )
        }
        Refusal::Budget => "the node's memory for guests was used up while it ran".to_owned(),
    }))
}

/// What cut a guest off that says nothing of itself but its exit code: the host, the guest, a limit or
/// a trap.
pub(crate) fn of_cut<O>(state: &mut State<O>, error: &Error) -> SandboxError {
    of_interruption(state)
        .or_else(|| of_exit(error, None))
        .or_else(|| of_refusal(state))
        .unwrap_or_else(|| SandboxError::ran("guest-trapped", trap_text(error), ""))
}

/// A trap and where it was, as text.
pub(crate) fn trap_text(error: &Error) -> String {
    let mut text = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    let names: Vec<String> = error
        .downcast_ref::<WasmBacktrace>()
        .map(|trace| trace.frames().iter().take(FRAMES))
        .into_iter()
        .flatten()
        .map(|frame| match frame.func_name() {
            Some(name) => name.to_owned(),
            None => format!("function {}", frame.func_index()),
        })
        .collect();
    if !names.is_empty() {
        text.push_str(" in ");
        text.push_str(&names.join(" < "));
    }
    text
}
