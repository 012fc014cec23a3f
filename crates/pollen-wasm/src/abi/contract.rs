//! What a guest ABI has to say: five operations, and nothing else of it is known outside its folder.
//!
//! | operation | functions |
//! |---|---|
//! | inspect: what may it import and export | [`Abi::IMPORTS`], [`Abi::exports`], [`Abi::check`] |
//! | link: its imports, once for each seed | [`Abi::linker`], [`Abi::link`] |
//! | make: a guest, ready to be called | [`Abi::new`], [`Abi::instantiate`] |
//! | enter: run a function with an input | [`Abi::enter`] |
//! | leave: what the end means, and what the next call may see | [`Abi::leave`], [`Abi::cut`], [`Abi::reset`] |

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use wasmtime::component::Func;
use wasmtime::{Engine, Error, Store};

use crate::abi::log::Logs;
use crate::abi::shape::{Exports, Group, Shape};
use crate::abi::state::State;
use crate::engine::code::{Code, Form};
use crate::engine::meter::Purpose;
use crate::engine::registry::Registry;
use crate::envelope::{Call, Host, Output, SeedSettings};
use crate::error::SandboxError;

/// What a new guest needs to know beside its linked module.
pub(crate) struct Birth<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) registry: &'a Arc<Registry>,
    pub(crate) settings: &'a Arc<SeedSettings>,
    /// Takes what the guest says while it is initialised.
    pub(crate) host: Option<&'a Arc<dyn Host>>,
    pub(crate) purpose: Purpose,
    pub(crate) deadline: Instant,
}

/// The judgement over one call.
pub(crate) struct Verdict {
    pub(crate) result: Result<Output, SandboxError>,
    /// The guest may serve another call.
    pub(crate) keep: bool,
}

/// A guest ABI. The implementing type is what a living guest of it has in its store.
pub(crate) trait Abi: Sized + Send + 'static {
    /// A guest serves more than one call.
    const IS_KEPT: bool;

    /// Whether its modules are core modules or components.
    const FORM: Form = Form::Core;

    /// What core modules of this ABI may import.
    const IMPORTS: &'static [Group] = &[];

    /// The interfaces that components of this ABI may import, without versions.
    const INTERFACES: &'static [&'static [&'static str]] = &[];

    /// The imports, ready to be linked.
    type Linker: Send + Sync;

    /// A module with its imports, and what was read from its exports.
    type Linked: Send + Sync;

    /// An instance, and what was looked up in it.
    type Live: Send;

    /// Which exports a call may name, and why not the others.
    fn exports(shape: &Shape) -> Exports;

    /// The exports of a seed, where its settings say more than the module does.
    fn published(exports: Exports, _settings: &SeedSettings) -> Exports {
        exports
    }

    /// What of a guest's first memory all guests of the module share until they write to it, bytes.
    fn sharable(_linked: &Self::Linked) -> u64 {
        0
    }

    /// Exports of a component: the memory that the first of them works on is the one that is shared.
    fn ways_in(
        _live: &Self::Live,
        _linked: &Self::Linked,
        _store: &mut Store<State<Self>>,
    ) -> Vec<Func> {
        Vec::new()
    }

    /// Refuses exports that this ABI would call by another type.
    fn check(shape: &Shape) -> Result<(), SandboxError>;

    /// Defines all imports; once for each engine.
    fn linker(engine: &Engine) -> wasmtime::Result<Self::Linker>;

    /// Links the code of a seed; no guest exists afterwards.
    fn link(
        linker: &Self::Linker,
        code: &Code,
        exports: &Exports,
        settings: &SeedSettings,
    ) -> Result<Self::Linked, SandboxError>;

    /// The state of a guest that is about to be instantiated.
    fn new(linked: &Self::Linked, birth: &Birth<'_>, logs: &Logs) -> Self;

    /// Instantiates and initialises. The bool says that the error came from the instantiation.
    fn instantiate(
        linked: &Self::Linked,
        store: &mut Store<State<Self>>,
    ) -> impl Future<Output = Result<Self::Live, (bool, Error)>> + Send;

    /// Runs the function of this number; `Err` is a refusal before it ran, `Ok` how it ended.
    fn enter(
        live: &mut Self::Live,
        linked: &Self::Linked,
        store: &mut Store<State<Self>>,
        at: usize,
        call: &Call,
    ) -> impl Future<Output = Result<Result<i32, Error>, SandboxError>> + Send;

    /// Judges how the function of this number ended, by what it left in its state.
    fn leave(
        linked: &Self::Linked,
        state: &mut State<Self>,
        at: usize,
        ended: Result<i32, Error>,
    ) -> Verdict;

    /// What a trap means; an output when the guest ended itself well.
    fn cut(state: &mut State<Self>, error: &Error) -> Result<Output, SandboxError>;

    /// Forgets a call before the next one.
    fn reset(state: &mut State<Self>);
}

/// An output without more to say.
pub(crate) fn plain(bytes: Bytes, status: i32) -> Output {
    Output { bytes, status, tail_call: None }
}
