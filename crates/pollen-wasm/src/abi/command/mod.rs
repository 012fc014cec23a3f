//! The ABI of WASI commands: ordinary programs, which know nothing of the host's own ABI.
//!
//! Decides: which modules are programs, their arguments, and that the call's input is the standard
//! input, the standard output the call's output (streamed to a caller that takes it so), the exit
//! code its status.
//! Does not know: who calls.
//! Invariant: a guest serves one call.
//! Refused: one program run for many calls (a command's memory is not made for a second `main`).
//! Refused: `guest-failed` for another code than 0, which would drop the output. Programs say half
//! of what they mean by their code (`grep` found nothing, `diff` found something).
//! Refused: tail-call markers. A program does not know of them, and what it prints may be others'.

pub(crate) mod pipes;

use std::sync::Arc;

use wasmtime::{Engine, Error, Instance, InstancePre, Linker, Store};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::WasiP1Ctx;

use crate::abi::contract::{Abi, Birth, Verdict, plain};
use crate::abi::export::{self, Export};
use crate::abi::log::Logs;
use crate::abi::shape::{Exports, Group, Shape};
use crate::abi::{outcome, state, wasi};
use crate::engine::code::Code;
use crate::envelope::{Call, Output, SeedSettings};
use crate::error::SandboxError;
use pipes::Pipes;

/// The function of a program.
const START: &str = "_start";

/// Also exported by the programs of newer toolchains: `main` without `_start`'s preparations.
const MAIN: &str = "__main_void";

type State = state::State<Command>;

/// What a guest of this ABI has of its own.
pub(crate) struct Command {
    pipes: Pipes,
    wasi: WasiP1Ctx,
}

/// A linked program.
pub(crate) struct Linked {
    pre: InstancePre<State>,
    /// `_start` alone.
    functions: Vec<Export>,
    arguments: Arc<[String]>,
}

/// Whether a module is a program: it imports nothing but WASI, and no call could name anything but
/// its `_start`. One that has other functions is a library, unless its publisher says otherwise:
/// TinyGo exports `_start` beside the functions of a library.
pub(super) fn is_program(shape: &Shape) -> bool {
    let is_start = |(name, _): &(String, bool)| [START, MAIN].contains(&name.as_str());
    begins_at_start(shape) && shape.sorted().callable.iter().all(is_start)
}

/// Whether a module can be run as a program, whatever functions it has beside `_start`. One that
/// imports nothing at all can read no input and write no output: it has to be nothing but a program.
pub(super) fn may_be_program(shape: &Shape) -> bool {
    is_program(shape) || (begins_at_start(shape) && !shape.imports.is_empty())
}

fn begins_at_start(shape: &Shape) -> bool {
    shape.world.is_none()
        && !shape.exports("_initialize")
        && shape.sorted().callable.iter().any(|(name, _)| name == START)
        && shape.imports.iter().all(|module| *module == wasi::MODULE)
}

/// The arguments after the program's name: the configuration value `args`, split as a shell does.
pub(super) fn arguments(settings: &SeedSettings) -> Result<Arc<[String]>, SandboxError> {
    let Some(text) = settings.guest.config.get("args") else { return Ok(Arc::default()) };
    shlex::split(text).map(Arc::from).ok_or_else(|| {
        SandboxError::invalid(
            "the configuration value args ends within a quote or after a backslash",
            "seed it again with --config args='...', quoted as in a shell",
        )
    })
}

impl Abi for Command {
    const IS_KEPT: bool = false;
    const IMPORTS: &'static [Group] = &[wasi::GROUP];

    type Linker = Linker<State>;
    type Linked = Linked;
    type Live = Instance;

    fn exports(shape: &Shape) -> Exports {
        let mut exports = shape.sorted();
        let others = exports.callable.extract_if(.., |(name, _)| name != START);
        let reason = "the module is a program, which begins at _start";
        exports.others.extend(others.map(|(name, _)| (name, reason.to_owned())));
        exports
    }

    /// Nothing: `_start` does all that is to be done first.
    fn check(_shape: &Shape) -> Result<(), SandboxError> {
        Ok(())
    }

    fn linker(engine: &Engine) -> wasmtime::Result<Self::Linker> {
        let mut linker = Linker::new(engine);
        wasi::define(&mut linker, |state: &mut State| &mut state.own.wasi)?;
        Ok(linker)
    }

    fn link(
        linker: &Self::Linker,
        code: &Code,
        exports: &Exports,
        settings: &SeedSettings,
    ) -> Result<Linked, SandboxError> {
        let module = code.core()?;
        let pre = linker.instantiate_pre(module).map_err(|error| {
            SandboxError::invalid(format!("the program cannot be linked: {error:#}"), "")
        })?;
        let functions = export::find(module, exports)?;
        Ok(Linked { pre, functions, arguments: arguments(settings)? })
    }

    fn new(linked: &Linked, birth: &Birth<'_>, logs: &Logs) -> Self {
        let pipes = Pipes::new(birth.registry.clone(), birth.settings.max_output_bytes);
        let mut context = wasi::context(birth.settings, logs);
        context.stdin(pipes.clone()).stdout(pipes.clone()).args(&linked.arguments);
        Self { pipes, wasi: wasi::preview1(&mut context) }
    }

    async fn instantiate(
        linked: &Linked,
        store: &mut Store<State>,
    ) -> Result<Instance, (bool, Error)> {
        linked.pre.instantiate_async(store).await.map_err(|error| (true, error))
    }

    async fn enter(
        instance: &mut Instance,
        linked: &Linked,
        store: &mut Store<State>,
        at: usize,
        call: &Call,
    ) -> Result<Result<i32, Error>, SandboxError> {
        let Some(function) = linked.functions.get(at) else {
            return Err(SandboxError::internal(format!("there is no function {at}"), false));
        };
        let start = function.resolve(instance, &mut *store)?;
        let state = store.data();
        state.own.pipes.begin(call.input.clone(), call.nested, state.host.as_ref());
        let ended = start.run(store).await;
        // What it wrote without waiting, as a program may that asked for that. Boxed: it is rare, and
        // the future of every call would grow by it.
        if store.data().own.pipes.is_sending() {
            Box::pin(store.data().own.pipes.clone().taken()).await;
        }
        Ok(ended)
    }

    fn leave(
        _linked: &Linked,
        state: &mut State,
        _at: usize,
        ended: Result<i32, Error>,
    ) -> Verdict {
        // Whatever `_start` returns.
        let ended = ended.map(|_| 0);
        Verdict { result: delivered(state, |own| &own.pipes, ended), keep: false }
    }

    fn cut(state: &mut State, error: &Error) -> Result<Output, SandboxError> {
        Err(outcome::of_cut(state, error))
    }

    fn reset(_state: &mut State) {}
}

/// The exit code is the return code, whatever it wrote is the output.
pub(super) fn delivered<O>(
    state: &mut state::State<O>,
    pipes: impl FnOnce(&O) -> &Pipes,
    ended: Result<i32, Error>,
) -> Result<Output, SandboxError> {
    let bytes = pipes(&state.own).finish()?;
    let status = match ended {
        Ok(status) => status,
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) if !state.expired => exit.0,
            _ => return Err(outcome::of_cut(state, &error)),
        },
    };
    Ok(plain(bytes, status))
}
