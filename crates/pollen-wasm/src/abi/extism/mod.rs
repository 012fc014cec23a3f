//! The ABI of Extism: functions without parameters that work on a heap of the host.
//!
//! Decides: the entry protocol, how input and output pass, and which end of a function means what.
//! Does not know: who calls, and how long a guest is kept.
//! Invariant: a guest is kept after a return, with or without an error, and discarded after
//! anything else. Source: docs/design/guest-abi.md.

mod classes;
mod http;
mod imports;
pub(crate) mod kernel;
mod names;
mod outcome;
mod user;
mod written;

pub(crate) use outcome::is_seed_uri;

use std::collections::HashMap;

use bytes::Bytes;
use wasmtime::{Engine, Error, Instance, InstancePre, Linker, Store};
use wasmtime_wasi::p1::WasiP1Ctx;

use crate::abi::contract::{Abi, Birth, Verdict};
use crate::abi::export::{self, Export, Handle};
use crate::abi::log::Logs;
use crate::abi::shape::{Exports, Group, Shape, signature_text};
use crate::abi::written::Written;
use crate::abi::{state, wasi};
use crate::engine::code::Code;
use crate::envelope::{Call, Output, SeedSettings};
use crate::error::SandboxError;
use http::LastReply;
use kernel::Kernel;

/// May be called by its name, but its guest is discarded afterwards.
const START: &str = "_start";

/// The state that these imports work on.
type State = state::State<Extism>;

/// What a guest of this ABI has of its own.
pub(crate) struct Extism {
    kernel: Kernel,
    /// Values of `var_set`; they live as long as the guest.
    vars: HashMap<Box<[u8]>, Bytes>,
    vars_bytes: u64,
    http: LastReply,
    written: Written,
    wasi: WasiP1Ctx,
}

/// How a module wants to be initialised; read once from its exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// Nothing but the start section, which runs at instantiation.
    Start,
    /// `_initialize` (WASI reactors).
    Initialize,
    /// `__wasm_call_ctors`, when there is no `_initialize`.
    Constructors,
    /// Haskell: `_initialize` if any, then `hs_init(0, 0)`.
    Haskell {
        /// There is an `_initialize`.
        initialize: bool,
    },
}

impl Entry {
    fn of(shape: &Shape) -> Self {
        let initialize = shape.exports("_initialize");
        if shape.exports("hs_init") {
            Self::Haskell { initialize }
        } else if initialize {
            Self::Initialize
        } else if shape.exports("__wasm_call_ctors") {
            Self::Constructors
        } else {
            Self::Start
        }
    }
}

/// A linked module.
pub(crate) struct Linked {
    pre: InstancePre<State>,
    entry: Entry,
    functions: Vec<Export>,
    /// The number of `_start`, if it may be called.
    start: Option<usize>,
}

/// An instance and its functions, each looked up at its first use.
pub(crate) struct Live {
    instance: Instance,
    handles: Vec<Option<Handle>>,
}

impl state::State<Extism> {
    /// A new block with a copy of `bytes`; 0 for empty bytes and on failure.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        self.own.kernel.put(bytes, &mut self.meter)
    }
}

impl Abi for Extism {
    const IS_KEPT: bool = true;
    const IMPORTS: &'static [Group] = &[names::EXTISM, names::POLLEN, wasi::GROUP];

    type Linker = Linker<State>;
    type Linked = Linked;
    type Live = Live;

    fn exports(shape: &Shape) -> Exports {
        shape.sorted()
    }

    /// The exports of the entry protocol have the types that it calls them with.
    fn check(shape: &Shape) -> Result<(), SandboxError> {
        let entries =
            [("_initialize", ("", "")), ("__wasm_call_ctors", ("", "")), ("hs_init", ("ii", ""))];
        for (name, wanted) in entries {
            let wanted = signature_text(wanted);
            let found = shape.functions.iter().find(|(export, _)| export == name);
            if let Some((_, found)) = found.filter(|(_, found)| *found != wanted) {
                return Err(SandboxError::invalid(
                    format!(
                        "the export {name} has the type {found}; initialisation calls {wanted}"
                    ),
                    "rename the export",
                ));
            }
        }
        Ok(())
    }

    fn linker(engine: &Engine) -> wasmtime::Result<Self::Linker> {
        let mut linker = Linker::new(engine);
        imports::define(&mut linker)?;
        user::define(&mut linker)?;
        wasi::define(&mut linker, |state: &mut State| &mut state.own.wasi)?;
        Ok(linker)
    }

    fn link(
        linker: &Self::Linker,
        code: &Code,
        exports: &Exports,
        _settings: &SeedSettings,
    ) -> Result<Linked, SandboxError> {
        let module = code.core()?;
        let pre = linker.instantiate_pre(module).map_err(|error| {
            SandboxError::invalid(format!("the module cannot be linked: {error:#}"), "")
        })?;
        let entry = Entry::of(&Shape::of(code));
        let start = exports.callable.iter().position(|(name, _)| name == START);
        Ok(Linked { pre, entry, functions: export::find(module, exports)?, start })
    }

    fn new(_linked: &Linked, birth: &Birth<'_>, logs: &Logs) -> Self {
        Self {
            kernel: Kernel::new(),
            vars: HashMap::new(),
            vars_bytes: 0,
            http: LastReply::default(),
            written: Written::default(),
            wasi: wasi::preview1(&mut wasi::context(birth.settings, logs)),
        }
    }

    async fn instantiate(linked: &Linked, store: &mut Store<State>) -> Result<Live, (bool, Error)> {
        let instance =
            linked.pre.instantiate_async(&mut *store).await.map_err(|error| (true, error))?;
        initialise(store, &instance, linked.entry).await.map_err(|error| (false, error))?;
        let handles = linked.functions.iter().map(|_| None).collect();
        Ok(Live { instance, handles })
    }

    async fn enter(
        live: &mut Live,
        linked: &Linked,
        store: &mut Store<State>,
        at: usize,
        call: &Call,
    ) -> Result<Result<i32, Error>, SandboxError> {
        let handle = resolve(live, linked, store, at)?;
        give_input(store.data_mut(), &call.input)?;
        // Not `Handle::run`: a future within a future is copied once more.
        let ended = match &handle {
            Handle::Unit(run) => run.call_async(store, ()).await.map(|()| 0),
            Handle::Status(run) => run.call_async(store, ()).await,
        };
        if let Some(slot) = live.handles.get_mut(at) {
            *slot = Some(handle);
        }
        Ok(ended)
    }

    fn leave(linked: &Linked, state: &mut State, at: usize, ended: Result<i32, Error>) -> Verdict {
        let mut verdict = outcome::of_call(ended, state);
        verdict.keep &= linked.start != Some(at);
        verdict
    }

    fn cut(state: &mut State, error: &Error) -> Result<Output, SandboxError> {
        outcome::of_trap(error, state)
    }

    fn reset(state: &mut State) {
        state.own.kernel.recycle(&mut state.meter);
        state.own.http.clear();
        state.own.written.clear(&mut state.meter);
    }
}

async fn initialise(
    store: &mut Store<State>,
    instance: &Instance,
    entry: Entry,
) -> wasmtime::Result<()> {
    let first = match entry {
        Entry::Start => None,
        Entry::Initialize | Entry::Haskell { initialize: true } => Some("_initialize"),
        Entry::Constructors => Some("__wasm_call_ctors"),
        Entry::Haskell { initialize: false } => None,
    };
    if let Some(name) = first {
        instance.get_typed_func::<(), ()>(&mut *store, name)?.call_async(&mut *store, ()).await?;
    }
    if matches!(entry, Entry::Haskell { .. }) {
        let hs_init = instance.get_typed_func::<(i32, i32), ()>(&mut *store, "hs_init")?;
        hs_init.call_async(&mut *store, (0, 0)).await?;
    }
    Ok(())
}

/// The function in this instance. It is taken out, not cloned: a clone would count on a line that
/// all threads share.
fn resolve(
    live: &mut Live,
    linked: &Linked,
    store: &mut Store<State>,
    at: usize,
) -> Result<Handle, SandboxError> {
    if let Some(handle) = live.handles.get_mut(at).and_then(Option::take) {
        return Ok(handle);
    }
    match linked.functions.get(at) {
        Some(function) => function.resolve(&live.instance, store),
        None => Err(SandboxError::internal(format!("there is no function {at}"), false)),
    }
}

fn give_input(state: &mut State, input: &Bytes) -> Result<(), SandboxError> {
    if input.is_empty() {
        return Ok(());
    }
    let offset = state.put(input);
    if offset == 0 {
        return Err(SandboxError::refused(
            "input-too-large",
            format!(
                "an input of {} bytes does not fit into the memory limit of {} bytes",
                input.len(),
                state.settings.guest.memory_bytes
            ),
            "send less, or raise the limit: pln seed --memory SIZE",
        ));
    }
    state.own.kernel.input_set(offset, input.len() as u64);
    Ok(())
}
