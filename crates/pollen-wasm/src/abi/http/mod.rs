//! The ABI of components that answer HTTP: they export `wasi:http/incoming-handler`.
//!
//! Decides: which components answer HTTP, that a call's request head and input are the request, and
//! that the output is the answer: its head, then its body, streamed to a caller that takes it so.
//! Does not know: who asks, what a path means.
//! Invariant: a guest answers one request, as in other hosts of WASI 0.2.
//! Source: docs/design/protocol.md#http-through-a-call, docs/design/guest-abi.md#http.

mod answer;
mod outgoing;
mod request;

use bytes::Bytes;
use pollen_wire::http::HANDLE;
use wasmtime::component::{ComponentExportIndex, Func, Instance, Linker, Resource, TypedFunc};
use wasmtime::{Engine, Error, Store};
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostResponseOutparam};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::abi::base::{self, Base, MESH};
use crate::abi::command::pipes::Pipes;
use crate::abi::contract::{Abi, Birth, Verdict, plain};
use crate::abi::log::Logs;
use crate::abi::p2::{self, Wasi};
use crate::abi::shape::{Exports, Shape};
use crate::abi::world::{World, unversioned};
use crate::abi::{outcome, state, wasi};
use crate::engine::code::{Code, Form};
use crate::envelope::{Call, Output, SeedSettings};
use crate::error::SandboxError;
use answer::Answering;
use outgoing::Outgoing;

/// The only function of the interface.
const FUNCTION: &str = "handle";

/// What such components import beside WASI's other interfaces.
const OWN: &[&str] = &[MESH, "wasi:http/outgoing-handler", "wasi:http/types"];

type State = state::State<Http>;
type Handle = TypedFunc<(Resource<HostIncomingRequest>, Resource<HostResponseOutparam>), ()>;

/// What a guest of this ABI has of its own.
pub(crate) struct Http {
    wasi: Wasi,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    pipes: Pipes,
    /// The last bytes of the answer, or why there is none.
    rest: Option<Result<Bytes, SandboxError>>,
}

/// A linked component.
pub(crate) struct Linked {
    base: Base<Http>,
    handle: ComponentExportIndex,
}

/// Whether a component answers HTTP.
pub(super) fn answers(shape: &Shape) -> bool {
    shape.world.as_ref().is_some_and(|world| world.exports(HANDLE, FUNCTION))
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.own.wasi.view()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let Http { wasi, http, outgoing, .. } = &mut self.own;
        WasiHttpCtxView { hooks: outgoing, table: wasi.view().table, ctx: http }
    }
}

impl Abi for Http {
    const IS_KEPT: bool = false;
    const FORM: Form = Form::Component;
    const INTERFACES: &'static [&'static [&'static str]] = &[OWN, p2::INTERFACES];

    type Linker = Linker<State>;
    type Linked = Linked;
    type Live = Instance;

    fn exports(shape: &Shape) -> Exports {
        let mut exports = Exports::default();
        for (name, exposed) in shape.world.iter().flat_map(World::named) {
            let interface = exposed.interface.as_deref().map(unversioned);
            if interface == Some(HANDLE) && exposed.function == FUNCTION {
                exports.callable.push((HANDLE.to_owned(), true));
            } else {
                exports.others.push((name, "the component answers HTTP alone".to_owned()));
            }
        }
        exports
    }

    /// Nothing: the type of `handle` is found when it is linked.
    fn check(_shape: &Shape) -> Result<(), SandboxError> {
        Ok(())
    }

    fn linker(engine: &Engine) -> wasmtime::Result<Self::Linker> {
        base::linker(engine, |linker| {
            base::with_mesh(linker)?;
            wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)
        })
    }

    fn link(
        linker: &Self::Linker,
        code: &Code,
        _exports: &Exports,
        _settings: &SeedSettings,
    ) -> Result<Linked, SandboxError> {
        let base = Base::link(linker, code, base::sharable(code))?;
        let found = base.component();
        let lost = || SandboxError::internal("the export handle was lost", false);
        let world = World::of(found);
        let exposed = world.find(HANDLE, FUNCTION).ok_or_else(lost)?;
        let interface = exposed.interface.as_deref().unwrap_or_default();
        let interface = found.get_export_index(None, interface).ok_or_else(lost)?;
        let handle = found.get_export_index(Some(&interface), FUNCTION).ok_or_else(lost)?;
        Ok(Linked { base, handle })
    }

    fn sharable(linked: &Linked) -> u64 {
        linked.base.sharable
    }

    fn new(_linked: &Linked, birth: &Birth<'_>, logs: &Logs) -> Self {
        Self {
            wasi: Wasi::new(&mut wasi::context(birth.settings, logs)),
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(birth.settings, logs),
            pipes: Pipes::new(birth.registry.clone(), birth.settings.max_output_bytes),
            rest: None,
        }
    }

    async fn instantiate(
        linked: &Linked,
        store: &mut Store<State>,
    ) -> Result<Instance, (bool, Error)> {
        linked.base.instantiate(store).await
    }

    fn ways_in(instance: &Instance, linked: &Linked, store: &mut Store<State>) -> Vec<Func> {
        instance.get_func(store, linked.handle).into_iter().collect()
    }

    async fn enter(
        instance: &mut Instance,
        linked: &Linked,
        store: &mut Store<State>,
        _at: usize,
        call: &Call,
    ) -> Result<Result<i32, Error>, SandboxError> {
        let another = |error: Error| {
            SandboxError::invalid(format!("{HANDLE} has another type: {error:#}"), "")
        };
        let handle: Handle =
            instance.get_typed_func(&mut *store, linked.handle).map_err(another)?;
        // Boxed: the future of every call would grow by it.
        Box::pin(handled(handle, store, call)).await
    }

    fn leave(
        _linked: &Linked,
        state: &mut State,
        _at: usize,
        ended: Result<i32, Error>,
    ) -> Verdict {
        // In either case: a spent guest lies about for a while, and the way to its caller holds a slot.
        let kept = state.own.pipes.finish();
        let result = match ended {
            Ok(_) => delivered(state, kept),
            Err(error) => Err(outcome::of_cut(state, &error)),
        };
        Verdict { result, keep: false }
    }

    fn cut(state: &mut State, error: &Error) -> Result<Output, SandboxError> {
        Err(outcome::of_cut(state, error))
    }

    fn reset(_state: &mut State) {}
}

/// Has the guest answer the request of a call; `Err` is a refusal before it ran.
async fn handled(
    handle: Handle,
    store: &mut Store<State>,
    call: &Call,
) -> Result<Result<i32, Error>, SandboxError> {
    let state = store.data_mut();
    let head = state.host.as_ref().map_or_else(Bytes::new, |host| host.head());
    let request = request::of(&head, call.input.clone())?;
    state.own.pipes.begin(Bytes::new(), call.nested, state.host.as_ref());
    let is_head = request.method() == hyper::Method::HEAD;
    let (answering, sender) = Answering::new(state.own.pipes.clone(), is_head);
    let mut view = state.http();
    let given = view.new_incoming_request(Scheme::Http, request).and_then(|request| {
        let out = view.new_response_outparam(sender)?;
        Ok((request, out))
    });
    let given = match given {
        Ok(given) => given,
        Err(error) => return Ok(Err(error)),
    };
    let (ended, rest) = answering.beside(handle.call_async(&mut *store, given)).await;
    store.data_mut().own.rest = rest;
    Ok(ended.map(|()| 0))
}

/// What of the answer was not streamed.
fn delivered(state: &mut State, kept: Result<Bytes, SandboxError>) -> Result<Output, SandboxError> {
    let kept = kept?;
    let lost = || Err(SandboxError::internal("the answer was lost", true));
    let rest = state.own.rest.take().unwrap_or_else(lost)?;
    Ok(plain(if kept.is_empty() { rest } else { kept }, 0))
}
