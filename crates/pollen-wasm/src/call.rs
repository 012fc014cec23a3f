//! One call: a guest is taken or made, runs, is judged, and is kept or discarded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::Store;

use crate::envelope::{Call, Host, Outcome, Output};
use crate::error::SandboxError;
use crate::future::{poll_began, ran_until};
use crate::guest::{Guest, Handle, SLICE, State};
use crate::outcome::{self, Verdict};
use crate::seed::{Function, Seed};

/// Runs the call to its end. Dropping the future discards the guest.
///
/// `refused` says that nothing runs any more; `at` is the function's index in the seed, if any.
pub(crate) async fn run(
    refused: Result<(), SandboxError>,
    seed: Arc<Seed>,
    at: Option<usize>,
    call: Call,
    host: Arc<dyn Host>,
) -> Outcome {
    let result = match refused {
        Ok(()) => execute(&seed, at, call, host).await,
        Err(error) => Err(error),
    };
    // `Guarded` fills in the time.
    Outcome { result, run: Duration::ZERO }
}

async fn execute(
    seed: &Seed,
    at: Option<usize>,
    call: Call,
    host: Arc<dyn Host>,
) -> Result<Output, SandboxError> {
    let Some((at, function)) = at.and_then(|at| seed.function_at(at)) else {
        return Err(not_found(seed, &call.function));
    };
    let began = poll_began();
    if began >= call.deadline {
        return Err(SandboxError::deadline(false));
    }
    let kept = if seed.settings.isolate { None } else { seed.take(call.identity) };
    let (mut guest, before) = match kept {
        Some(guest) => (guest, ran_until(began)),
        None => {
            let guest = seed.make(Some(&host), call.nested, call.deadline).await?;
            // An isolated seed pays for its initialisation on each call, so it counts as run time.
            let after = if seed.settings.isolate { began } else { Instant::now() };
            (guest, ran_until(after))
        }
    };
    let handle = resolve(&mut guest, at, function)?;
    begin(&mut guest.store, &call, host)?;
    let returned = match &handle {
        Handle::Unit(run) => run.call_async(&mut guest.store, ()).await.map(|()| 0),
        Handle::Status(run) => run.call_async(&mut guest.store, ()).await,
    };
    if let Some(slot) = guest.handles.get_mut(at) {
        *slot = Some(handle);
    }
    let state = guest.store.data_mut();
    let verdict = match state.pipes.clone() {
        Some(pipes) => {
            Verdict { result: outcome::of_program(returned, state, &pipes), keep: false }
        }
        None => outcome::of_call(returned, state),
    };
    let now = Instant::now();
    end(&mut guest.store);
    seed.note_memory(guest.store.data().meter.peak());
    seed.note_run(at, ran_until(now).saturating_sub(before), guest.calls);
    guest.calls = guest.calls.wrapping_add(1);
    if verdict.keep && !function.once {
        guest.store.data_mut().recycle();
        seed.keep(call.identity, guest, now);
    }
    verdict.result
}

impl State {
    /// Prepares for the next call after a good one.
    fn recycle(&mut self) {
        self.kernel.recycle(&mut self.meter);
        self.http.clear();
    }
}

fn not_found(seed: &Seed, function: &str) -> SandboxError {
    let names = seed.functions().join(", ");
    SandboxError::refused(
        "function-not-found",
        format!("the seed {} has no function named {function:?}", seed.settings.name),
        if names.is_empty() {
            "it exports no callable function".to_owned()
        } else {
            format!("its functions: {names}")
        },
    )
}

/// The function in this instance. It is taken out, not cloned: a clone would count on a line that
/// all threads share.
fn resolve(guest: &mut Guest, at: usize, function: &Function) -> Result<Handle, SandboxError> {
    if let Some(handle) = guest.handles.get_mut(at).and_then(Option::take) {
        return Ok(handle);
    }
    let lost = || SandboxError::internal(format!("the export {} was lost", function.name), false);
    let export = guest.instance.get_module_export(&mut guest.store, &function.export);
    let func = export.and_then(wasmtime::Extern::into_func).ok_or_else(lost)?;
    if function.returns {
        Ok(Handle::Status(func.typed(&guest.store).map_err(|_| lost())?))
    } else {
        Ok(Handle::Unit(func.typed(&guest.store).map_err(|_| lost())?))
    }
}

fn begin(store: &mut Store<State>, call: &Call, host: Arc<dyn Host>) -> Result<(), SandboxError> {
    store.set_epoch_deadline(SLICE);
    let state = store.data_mut();
    state.deadline = call.deadline;
    state.expired = false;
    state.failure = None;
    state.meter.begin(call.nested);
    state.logs.begin(Some(host.clone()), state.settings.log_bytes);
    state.host = Some(host);
    if let Some(pipes) = &state.pipes {
        pipes.begin(call.input.clone(), call.nested);
        return Ok(());
    }
    if call.input.is_empty() {
        return Ok(());
    }
    let offset = state.put(&call.input);
    if offset == 0 {
        return Err(SandboxError::refused(
            "input-too-large",
            format!(
                "an input of {} bytes does not fit into the memory limit of {} bytes",
                call.input.len(),
                state.settings.memory_bytes
            ),
            "send less, or raise the limit: pln seed --memory SIZE",
        ));
    }
    state.kernel.input_set(offset, call.input.len() as u64);
    Ok(())
}

fn end(store: &mut Store<State>) {
    let state = store.data_mut();
    state.logs.end();
    state.host = None;
}

/// Makes the first guest of a seed, which proves its initialisation.
///
/// The guest has served nobody yet, so it waits for whichever identity calls first.
pub(crate) async fn warm(seed: Arc<Seed>, deadline: Instant) -> Outcome {
    let result = seed.make(None, false, deadline).await.map(|guest| {
        seed.keep_unused(guest);
        Output { bytes: bytes::Bytes::new(), status: 0, tail_call: None }
    });
    Outcome { result, run: Duration::ZERO }
}
