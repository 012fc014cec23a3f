//! One call: a guest is taken or made, runs, is judged, and is kept or discarded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::envelope::{Call, Host, Outcome, Output};
use crate::error::SandboxError;
use crate::future::{poll_began, ran_until};
use crate::seed::Seed;

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
    let Some(at) = at else { return Err(not_found(seed, &call.function)) };
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
    guest.living.begin(&call, host);
    let ended = guest.living.enter(at, &call).await?;
    let verdict = guest.living.leave(at, ended);
    let now = Instant::now();
    guest.living.end();
    seed.note_memory(guest.living.meter().peak());
    seed.note_run(at, ran_until(now).saturating_sub(before), guest.calls);
    guest.calls = guest.calls.wrapping_add(1);
    if verdict.keep {
        guest.living.reset();
        seed.keep(call.identity, guest, now);
    }
    verdict.result
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
