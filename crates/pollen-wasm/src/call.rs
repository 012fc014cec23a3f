//! One call: a guest is taken or made, runs, is judged, and is kept or discarded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bundle::Bundle;
use crate::engine::meter::Purpose;
use crate::envelope::{Call, Host, Outcome, Output};
use crate::error::SandboxError;
use crate::future::{Guarded, poll_began, ran_until};
use crate::guest::Guest;
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
    seed: &Arc<Seed>,
    at: Option<usize>,
    call: Call,
    host: Arc<dyn Host>,
) -> Result<Output, SandboxError> {
    let Some(at) = at else { return Err(not_found(seed, &call.function)) };
    let began = poll_began();
    if began >= call.deadline {
        return Err(SandboxError::deadline(false));
    }
    let (mut guest, before, is_stocked) = match seed.take(call.identity) {
        Some(guest) => (guest, ran_until(began), false),
        // In a box of its own: making a guest is rare, and its future would make that of every call
        // larger, which is copied when the call begins.
        None => Box::pin(fresh(seed, &call, &host, began)).await?,
    };
    guest.living.begin(&call, host);
    let ended = guest.living.enter(at, &call).await?;
    let verdict = guest.living.leave(at, ended);
    let now = Instant::now();
    guest.living.end();
    // What it wrote to is paid before anybody else may have the guest.
    let is_paid = guest.living.meter().settle_used();
    seed.note_memory(guest.living.meter().peak());
    seed.note_run(at, ran_until(now).saturating_sub(before), guest.calls);
    guest.calls = guest.calls.wrapping_add(1);
    if !is_paid {
        drop(guest);
    } else if seed.is_fresh() {
        // The core stays with the calls where they make their guests themselves.
        if is_stocked && seed.stock.takes_spent(seed.spent()) {
            seed.spend(guest, now);
        }
        fill(seed);
    } else if verdict.keep {
        guest.living.reset();
        seed.keep(call.identity, guest, now);
    }
    verdict.result
}

/// A guest from the stock, or one made now; how long the call ran before it had one, and whether it
/// is from the stock.
async fn fresh(
    seed: &Arc<Seed>,
    call: &Call,
    host: &Arc<dyn Host>,
    began: Instant,
) -> Result<(Box<Guest>, Duration, bool), SandboxError> {
    if let Some(guest) = seed.take_unused(call.identity) {
        // Of a seed whose guests are spent, the end of this call wakes the one who fills: once is
        // enough. Should the stock run out meanwhile, the call that finds none wakes it.
        if !seed.is_fresh() {
            fill(seed);
        }
        return Ok((guest, ran_until(began), true));
    }
    let purpose = if call.nested { Purpose::Nested } else { Purpose::Call };
    let made = seed.make(Some(host), purpose, call.deadline).await;
    fill(seed);
    // An isolated seed paid for its initialisation within the call, so it counts as run time.
    let after = if seed.settings.guest.isolate { began } else { Instant::now() };
    Ok((made?, ran_until(after), false))
}

/// Drops the spent guests of a seed and makes fresh ones, one by one on the guest runtime, until its
/// stock has what is wanted. Returns at once.
fn fill(seed: &Arc<Seed>) {
    if !seed.stock.begin(seed.making()) {
        return;
    }
    let mut seed = seed.clone();
    let guest = seed.runs.guest.clone();
    guest.spawn(async move {
        loop {
            if let Some(spent) = seed.take_spent() {
                drop(spent);
            } else if !wants_more(&seed) {
                seed.stock.finished();
                // A call may have left one meanwhile and found this task still at work.
                let is_idle = seed.spent() == 0 && !wants_more(&seed);
                if is_idle || !seed.stock.begin(seed.making()) {
                    break;
                }
            } else if let Some(busy) = seed.stock.busy() {
                // A seed that is withdrawn meanwhile goes at once.
                let waiting = Arc::downgrade(&seed);
                drop(seed);
                tokio::time::sleep(busy).await;
                let Some(back) = waiting.upgrade() else { break };
                seed = back;
            } else {
                make_one(&seed).await;
            }
        }
    });
}

fn wants_more(seed: &Seed) -> bool {
    seed.stock.wants(seed.unused()) && !seed.runs.is_closed()
}

async fn make_one(seed: &Arc<Seed>) {
    let deadline = Instant::now().checked_add(seed.settings.init_timeout);
    let deadline = deadline.unwrap_or_else(Instant::now);
    let making = Box::pin(stocked(seed.clone(), deadline));
    let made = Guarded::new(seed.runs.clone(), deadline, None, making).await;
    if made.result.is_err() {
        seed.stock.is_full();
    }
}

/// Adds a fresh guest to the stock of a seed.
async fn stocked(seed: Arc<Seed>, deadline: Instant) -> Outcome {
    let result = seed.make(None, Purpose::Stock, deadline).await.and_then(|guest| {
        let full = || SandboxError::overloaded("there is no room for idle guests");
        if !seed.runs.is_closed() && seed.keep_unused(guest) { Ok(nothing()) } else { Err(full()) }
    });
    Outcome { result, run: Duration::ZERO }
}

fn nothing() -> Output {
    Output { bytes: bytes::Bytes::new(), status: 0, tail_call: None }
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

/// The seed-time work on a bundle, by a guest of its own; the output is the prepared bundle.
pub(crate) async fn prepare(seed: Arc<Seed>, bundle: Arc<Bundle>, deadline: Instant) -> Outcome {
    let result = match seed.make(None, Purpose::Call, deadline).await {
        Ok(mut guest) => guest.living.prepare(&bundle).await,
        Err(error) => Err(error),
    };
    let output = |bytes: Vec<u8>| Output { bytes: bytes.into(), status: 0, tail_call: None };
    Outcome { result: result.map(output), run: Duration::ZERO }
}

/// Makes the first guest of a seed, which proves its initialisation.
///
/// The guest has served nobody yet, so it waits for whichever identity calls first.
pub(crate) async fn warm(seed: Arc<Seed>, deadline: Instant) -> Outcome {
    let result = seed.make(None, Purpose::Call, deadline).await.map(|guest| {
        seed.keep_first(guest);
        nothing()
    });
    Outcome { result, run: Duration::ZERO }
}
