//! One living guest of one ABI: what is the same for all of them.
//!
//! Decides: the order of making, calling and ending. Does not know: what any of it means to the
//! guest (the ABI's folder), nor when guests are made and kept (`seed`).

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use wasmtime::{Error, Store};

use crate::abi::contract::{Abi, Birth, Verdict};
use crate::abi::log::Logs;
use crate::abi::outcome::{self, NO_MEMORY};
use crate::abi::probe;
use crate::abi::state::{SLICE, State, on_epoch};
use crate::engine::meter::Meter;
use crate::envelope::{Call, Host};
use crate::error::SandboxError;
use crate::future::runs;

/// What one import of a component, or one result of it, may make the host hold, bytes: twice the largest
/// input and all that is beside it. wasmtime's own limit is 128 MiB.
const HOSTCALL: usize = 32 << 20;

/// A live instance and its store.
pub(crate) struct Body<A: Abi> {
    store: Store<State<A>>,
    live: A::Live,
    linked: Arc<A::Linked>,
}

impl<A: Abi> Body<A> {
    /// Instantiates and initialises; nothing is left behind by an error.
    pub(crate) async fn make(
        linked: &Arc<A::Linked>,
        birth: &Birth<'_>,
    ) -> Result<Self, SandboxError> {
        let settings = birth.settings;
        let limit = Instant::now().checked_add(settings.init_timeout).unwrap_or(birth.deadline);
        let logs = Logs::default();
        let state = State {
            meter: Meter::new(
                birth.registry.clone(),
                settings.guest.memory_bytes,
                birth.purpose,
                A::sharable(linked),
            ),
            own: A::new(linked, birth, &logs),
            logs,
            settings: settings.clone(),
            host: None,
            deadline: birth.deadline.min(limit),
            expired: false,
            failure: None,
        };
        state.logs.begin(birth.host.cloned(), settings.log_bytes);
        runs(state.meter.touched());
        let mut store = Store::new(birth.engine, state);
        store.set_hostcall_fuel(HOSTCALL);
        store.limiter(|state| &mut state.meter);
        store.epoch_deadline_callback(on_epoch);
        store.set_epoch_deadline(SLICE);
        let live = match A::instantiate(linked, &mut store).await {
            Ok(live) => live,
            Err((true, error)) => return Err(outcome::of_instantiation(error, store.data_mut())),
            Err((false, error)) => {
                return Err(outcome::of_initialisation(error, store.data_mut()));
            }
        };
        if store.data().meter.touched().is_some() {
            let ways_in = A::ways_in(&live, linked, &mut store);
            let (address, bytes) = probe::memory_of(&ways_in, &mut store).await;
            let state = store.data_mut();
            if !state.meter.found(address, bytes) {
                return Err(SandboxError::overloaded(NO_MEMORY));
            }
        }
        let state = store.data_mut();
        state.logs.end();
        A::reset(state);
        Ok(Self { store, live, linked: linked.clone() })
    }

    /// Binds the guest to a call.
    pub(crate) fn begin(&mut self, call: &Call, host: Arc<dyn Host>) {
        self.store.set_epoch_deadline(SLICE);
        let state = self.store.data_mut();
        state.deadline = call.deadline;
        state.expired = false;
        state.failure = None;
        state.meter.begin(call.nested);
        runs(state.meter.touched());
        state.logs.begin(Some(host.clone()), state.settings.log_bytes);
        state.host = Some(host);
    }

    /// Runs the function of this number. Not `async`: that would wrap the future once more.
    pub(crate) fn enter(
        &mut self,
        at: usize,
        call: &Call,
    ) -> impl Future<Output = Result<Result<i32, Error>, SandboxError>> + Send {
        A::enter(&mut self.live, &self.linked, &mut self.store, at, call)
    }

    /// Judges how the function of this number ended.
    pub(crate) fn leave(&mut self, at: usize, ended: Result<i32, Error>) -> Verdict {
        A::leave(&self.linked, self.store.data_mut(), at, ended)
    }

    /// Lets go of the call's host, after the last lines of the log.
    pub(crate) fn end(&mut self) {
        let state = self.store.data_mut();
        state.logs.end();
        state.host = None;
    }

    /// Prepares for the next call after a good one.
    pub(crate) fn reset(&mut self) {
        A::reset(self.store.data_mut());
    }

    /// The parts, for work on a guest that is not a call.
    pub(crate) fn parts(&mut self) -> (&mut A::Live, &A::Linked, &mut Store<State<A>>) {
        (&mut self.live, &self.linked, &mut self.store)
    }

    pub(crate) fn meter(&mut self) -> &mut Meter {
        &mut self.store.data_mut().meter
    }
}
