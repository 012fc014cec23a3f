//! The ABI of components that are programs: they export `wasi:cli/run`.
//!
//! Decides: the same as that of [commands](super::command), whose rules hold here too: input is standard
//! input, standard output is the output, the exit code is the status.
//! Invariant: a guest serves one call.

use std::sync::Arc;

use wasmtime::component::{ComponentExportIndex, Func, Instance, Linker, TypedFunc};
use wasmtime::{Engine, Error, Store};
use wasmtime_wasi::{WasiCtxView, WasiView};

use crate::abi::base::{self, Base, MESH};
use crate::abi::command::{self, pipes::Pipes};
use crate::abi::contract::{Abi, Birth, Verdict};
use crate::abi::log::Logs;
use crate::abi::p2::{self, Wasi};
use crate::abi::shape::{Exports, Shape};
use crate::abi::world::{World, unversioned};
use crate::abi::{outcome, state, wasi};
use crate::engine::code::{Code, Form};
use crate::envelope::{Call, Output, SeedSettings};
use crate::error::SandboxError;

/// The interface of a program and its only function.
const INTERFACE: &str = "wasi:cli/run";
const RUN: &str = "run";

/// How a call names it: as it names the beginning of any program.
const START: &str = "_start";

type State = state::State<Run>;

/// What a guest of this ABI has of its own.
pub(crate) struct Run {
    pipes: Pipes,
    wasi: Wasi,
}

/// A linked program.
pub(crate) struct Linked {
    base: Base<Run>,
    run: ComponentExportIndex,
    arguments: Arc<[String]>,
}

/// Whether a component is a program.
pub(super) fn is_program(shape: &Shape) -> bool {
    shape.world.as_ref().is_some_and(|world| world.exports(INTERFACE, RUN))
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.own.wasi.view()
    }
}

impl Abi for Run {
    const IS_KEPT: bool = false;
    const FORM: Form = Form::Component;
    const INTERFACES: &'static [&'static [&'static str]] = &[&[MESH], p2::INTERFACES];

    type Linker = Linker<State>;
    type Linked = Linked;
    type Live = Instance;

    fn exports(shape: &Shape) -> Exports {
        let mut exports = Exports::default();
        for (name, exposed) in shape.world.iter().flat_map(World::named) {
            let interface = exposed.interface.as_deref().map(unversioned);
            if interface == Some(INTERFACE) && exposed.function == RUN {
                exports.callable.push((START.to_owned(), true));
            } else {
                let reason = "the component is a program, which begins at run";
                exports.others.push((name, reason.to_owned()));
            }
        }
        exports
    }

    fn check(_shape: &Shape) -> Result<(), SandboxError> {
        Ok(())
    }

    fn linker(engine: &Engine) -> wasmtime::Result<Self::Linker> {
        base::linker(engine, base::with_mesh)
    }

    fn link(
        linker: &Self::Linker,
        code: &Code,
        _exports: &Exports,
        settings: &SeedSettings,
    ) -> Result<Linked, SandboxError> {
        let base = Base::link(linker, code, base::sharable(code))?;
        let found = base.component();
        let lost = || SandboxError::internal("the export run was lost", false);
        let world = World::of(found);
        let exposed = world.find(INTERFACE, RUN).ok_or_else(lost)?;
        let interface = exposed.interface.as_deref().unwrap_or_default();
        let interface = found.get_export_index(None, interface).ok_or_else(lost)?;
        let run = found.get_export_index(Some(&interface), RUN).ok_or_else(lost)?;
        let arguments = command::arguments(settings)?;
        Ok(Linked { base, run, arguments })
    }

    fn sharable(linked: &Linked) -> u64 {
        linked.base.sharable
    }

    fn new(linked: &Linked, birth: &Birth<'_>, logs: &Logs) -> Self {
        let pipes = Pipes::new(birth.registry.clone(), birth.settings.max_output_bytes);
        let mut context = wasi::context(birth.settings, logs);
        context.stdin(pipes.clone()).stdout(pipes.clone()).args(&linked.arguments);
        Self { pipes, wasi: Wasi::new(&mut context) }
    }

    async fn instantiate(
        linked: &Linked,
        store: &mut Store<State>,
    ) -> Result<Instance, (bool, Error)> {
        linked.base.instantiate(store).await
    }

    fn ways_in(instance: &Instance, linked: &Linked, store: &mut Store<State>) -> Vec<Func> {
        instance.get_func(store, linked.run).into_iter().collect()
    }

    async fn enter(
        instance: &mut Instance,
        linked: &Linked,
        store: &mut Store<State>,
        _at: usize,
        call: &Call,
    ) -> Result<Result<i32, Error>, SandboxError> {
        let another = |error: Error| {
            SandboxError::invalid(format!("{INTERFACE} has another type: {error:#}"), "")
        };
        let run: TypedFunc<(), (Result<(), ()>,)> =
            instance.get_typed_func(&mut *store, linked.run).map_err(another)?;
        let state = store.data();
        state.own.pipes.begin(call.input.clone(), call.nested, state.host.as_ref());
        let ended = run.call_async(&mut *store, ()).await;
        if store.data().own.pipes.is_sending() {
            Box::pin(store.data().own.pipes.clone().taken()).await;
        }
        Ok(ended.map(|(result,)| i32::from(result.is_err())))
    }

    fn leave(
        _linked: &Linked,
        state: &mut State,
        _at: usize,
        ended: Result<i32, Error>,
    ) -> Verdict {
        Verdict { result: command::delivered(state, |own| &own.pipes, ended), keep: false }
    }

    fn cut(state: &mut State, error: &Error) -> Result<Output, SandboxError> {
        Err(outcome::of_cut(state, error))
    }

    fn reset(_state: &mut State) {}
}
