//! The ABI of the Python runner: one component, CPython with its library, that runs the bundle of
//! whichever seed it is made for.
//!
//! Decides: how the function's name and input reach the runner, and what its answer means.
//! Does not know: Python. Which functions a bundle has is what its publisher found at seed time
//! (`prepare`), and the runner judges each name again.
//! Invariants: all seeds of one runner share its compiled code and, until a guest writes to it, its
//! first memory; a guest serves one seed. It is kept after an answer, whatever that says, and
//! discarded after anything else.
//! Source: docs/design/guest-abi.md#python.

mod host;
mod outcome;
pub(crate) mod prepare;

use std::sync::Arc;

use wasmtime::component::{ComponentType, Func, Instance, Lift, Linker, TypedFunc};
use wasmtime::{Engine, Error, Store};
use wasmtime_wasi::{WasiCtxView, WasiView};

use crate::abi::base::{self, Base};
use crate::abi::begun::Begun;
use crate::abi::contract::{Abi, Birth, Verdict};
use crate::abi::log::Logs;
use crate::abi::p2::{self, Wasi};
use crate::abi::shape::{Exports, Shape};
use crate::abi::written::Written;
use crate::abi::{state, wasi};
use crate::bundle::Bundle;
use crate::engine::code::{Code, Form};
use crate::envelope::{Call, Output, SeedSettings, TailCall};
use crate::error::SandboxError;

/// The interface by whose import the runner is known.
const HOST: &str = "pollen:python/host";

/// The same with the version that is served; any 0.1 is.
const HOST_VERSION: &str = "pollen:python/host@0.1.0";

/// The functions that the runner exports.
const EXPORTS: [&str; 3] = ["handle", "describe", "compile"];

/// What a guest writes to of its first memory before its first call has ended, bytes: it is charged.
/// Measured: 1.9 MB for a seed of one function, 5 MB for one with two dataclasses.
const PRIVATE: u64 = 5 << 20;

type State = state::State<Python>;

/// What a guest of this ABI has of its own.
pub(crate) struct Python {
    wasi: Wasi,
    bundle: Option<Arc<Bundle>>,
    begun: Begun,
    written: Written,
    tail_call: Option<TailCall>,
    /// What `handle` returned.
    answer: Option<Result<Vec<u8>, Failure>>,
}

/// Why the runner has no result: the variant `failure` of `pollen:python/types`.
#[derive(Debug, Clone, ComponentType, Lift)]
#[component(variant)]
pub(crate) enum Failure {
    #[component(name = "no-function")]
    NoFunction(String),
    #[component(name = "bad-argument")]
    BadArgument(String),
    #[component(name = "failed")]
    Failed(String),
}

type Handle = TypedFunc<(Arc<str>, Vec<u8>), (Result<Vec<u8>, Failure>,)>;

/// A linked runner.
pub(crate) struct Linked {
    base: Base<Python>,
}

/// An instance and its way in.
pub(crate) struct Live {
    instance: Instance,
    handle: Handle,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.own.wasi.view()
    }
}

impl Abi for Python {
    const IS_KEPT: bool = true;
    const FORM: Form = Form::Component;
    const INTERFACES: &'static [&'static [&'static str]] =
        &[&[HOST, "pollen:python/types"], p2::INTERFACES];

    type Linker = Linker<State>;
    type Linked = Linked;
    type Live = Live;

    /// None: the functions are those of a bundle.
    fn exports(_shape: &Shape) -> Exports {
        Exports::default()
    }

    fn published(mut exports: Exports, settings: &SeedSettings) -> Exports {
        exports.callable.extend(settings.functions.iter().map(|name| (name.clone(), false)));
        exports
    }

    fn check(shape: &Shape) -> Result<(), SandboxError> {
        let world = shape.world()?;
        let has = |name: &&str| {
            world.functions.iter().any(|f| f.interface.is_none() && f.function == **name)
        };
        match EXPORTS.iter().find(|name| !has(name)) {
            None => Ok(()),
            Some(name) => Err(SandboxError::invalid(
                format!("the component imports {HOST} and does not export {name}: it is no runner"),
                "build the runner from runner/ (make runner), or do not import its host",
            )),
        }
    }

    fn linker(engine: &Engine) -> wasmtime::Result<Self::Linker> {
        base::linker(engine, host::define)
    }

    fn link(
        linker: &Self::Linker,
        code: &Code,
        _exports: &Exports,
        _settings: &SeedSettings,
    ) -> Result<Linked, SandboxError> {
        let sharable = code.minimum_memory().saturating_sub(PRIVATE).min(code.image_bytes());
        Ok(Linked { base: Base::link(linker, code, sharable)? })
    }

    fn sharable(linked: &Linked) -> u64 {
        linked.base.sharable
    }

    fn new(_linked: &Linked, birth: &Birth<'_>, logs: &Logs) -> Self {
        Self {
            wasi: Wasi::new(&mut wasi::context(birth.settings, logs)),
            bundle: birth.settings.bundle.clone(),
            begun: Begun::default(),
            written: Written::default(),
            tail_call: None,
            answer: None,
        }
    }

    async fn instantiate(linked: &Linked, store: &mut Store<State>) -> Result<Live, (bool, Error)> {
        let instance = linked.base.instantiate(store).await?;
        let handle = instance.get_typed_func(&mut *store, "handle");
        Ok(Live { instance, handle: handle.map_err(|error| (false, error))? })
    }

    fn ways_in(live: &Live, _linked: &Linked, _store: &mut Store<State>) -> Vec<Func> {
        vec![*live.handle.func()]
    }

    async fn enter(
        live: &mut Live,
        _linked: &Linked,
        store: &mut Store<State>,
        _at: usize,
        call: &Call,
    ) -> Result<Result<i32, Error>, SandboxError> {
        let asked = (call.function.clone(), Vec::from(&call.input[..]));
        match live.handle.call_async(&mut *store, asked).await {
            Ok((answer,)) => {
                store.data_mut().own.answer = Some(answer);
                Ok(Ok(0))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    fn leave(
        _linked: &Linked,
        state: &mut State,
        _at: usize,
        ended: Result<i32, Error>,
    ) -> Verdict {
        // What it began and did not wait for ends now: it holds the call's host.
        state.own.begun.clear(&mut state.meter);
        match ended {
            Ok(_) => {
                let result = outcome::of_answer(state);
                let keep = match &result {
                    Ok(_) => true,
                    Err(error) => outcome::KEEPS.contains(&error.slug()),
                };
                Verdict { result, keep }
            }
            Err(error) => Verdict { result: Err(outcome::of_trap(state, &error)), keep: false },
        }
    }

    fn cut(state: &mut State, error: &Error) -> Result<Output, SandboxError> {
        Err(outcome::of_trap(state, error))
    }

    fn reset(state: &mut State) {
        state.own.begun.clear(&mut state.meter);
        state.own.written.clear(&mut state.meter);
        state.own.tail_call = None;
        state.own.answer = None;
    }
}

/// Whether a component is for this ABI.
pub(super) fn is_runner(shape: &Shape) -> bool {
    shape.world.as_ref().is_some_and(|world| world.imports(HOST))
}
