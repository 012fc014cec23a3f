//! What every living guest has in its store, whatever its ABI, and the clock that interrupts it.
//!
//! Invariant: a guest runs for [`SLICE`] ticks at most before its deadline is looked at.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::{StoreContextMut, UpdateDeadline};

use crate::abi::log::Logs;
use crate::engine::meter::Meter;
use crate::engine::ticker::TICK;
use crate::envelope::{Host, SeedSettings};
use crate::error::SandboxError;
use crate::future::{mark_expired, poll_began, ran_until};

/// Epoch ticks that a guest runs before its callback is asked.
pub(crate) const SLICE: u64 = 2;

/// The state of a guest that its imports work on; `own` is that of its ABI.
pub(crate) struct State<O> {
    pub(crate) meter: Meter,
    pub(crate) logs: Logs,
    pub(crate) settings: Arc<SeedSettings>,
    /// The node as this call sees it; none during initialisation.
    pub(crate) host: Option<Arc<dyn Host>>,
    pub(crate) deadline: Instant,
    /// The deadline passed while the guest ran.
    pub(crate) expired: bool,
    /// Why an import trapped.
    pub(crate) failure: Option<SandboxError>,
    pub(crate) own: O,
}

impl<O> State<O> {
    /// Ends the guest with this error.
    pub(crate) fn fail(&mut self, error: SandboxError) -> wasmtime::Error {
        let trap = wasmtime::Error::msg(error.reason().to_owned());
        self.failure = Some(error);
        trap
    }
}

/// The epoch callback: the deadline first, else give way to others.
pub(crate) fn on_epoch<O>(
    mut store: StoreContextMut<'_, State<O>>,
) -> wasmtime::Result<UpdateDeadline> {
    let state = store.data_mut();
    let now = Instant::now();
    let is_spent = |limit| ran_until(now) >= limit;
    if now >= state.deadline || state.settings.run_limit.is_some_and(is_spent) {
        state.expired = true;
        return Ok(UpdateDeadline::Interrupt);
    }
    // The ticks passed while it waited within an import.
    if now.saturating_duration_since(poll_began()) < TICK {
        return Ok(UpdateDeadline::Continue(SLICE));
    }
    mark_expired();
    Ok(UpdateDeadline::Yield(SLICE))
}
