//! The ABI of components that export plain functions: values of WIT types, which are JSON outside.
//!
//! Decides: which functions a call may name, how input and output pass, and what an error means.
//! Does not know: who calls.
//! Invariant: a guest is kept after a return, with or without an error, and discarded after anything
//! else. Source: docs/design/guest-abi.md#components.

mod arguments;
mod values;

use bytes::Bytes;
use wasmtime::component::types::Type;
use wasmtime::component::{ComponentExportIndex, Func, Instance, Linker, TypedFunc, Val};
use wasmtime::{Engine, Error, Store};
use wasmtime_wasi::{WasiCtxView, WasiView};

use crate::abi::base::{self, Base, MESH};
use crate::abi::contract::{Abi, Birth, Verdict, plain};
use crate::abi::log::Logs;
use crate::abi::p2::{self, Wasi};
use crate::abi::shape::{Exports, Shape};
use crate::abi::world::World;
use crate::abi::{outcome, state, wasi};
use crate::engine::budget::Quota;
use crate::engine::code::{Code, Form};
use crate::envelope::{Call, Output, SeedSettings};
use crate::error::SandboxError;
use arguments::Parameters;

type State = state::State<Component>;

/// What a guest of this ABI has of its own.
pub(crate) struct Component {
    wasi: Wasi,
    /// What the function returned, as the output.
    answer: Option<Result<Bytes, SandboxError>>,
}

/// So many functions are asked for the memory that they work on. One of numbers alone has none.
const PROBED: usize = 8;

/// A function that a call may name.
struct Function {
    index: ComponentExportIndex,
    passing: Passing,
}

/// How its input and output pass.
enum Passing {
    /// Bytes as they are.
    Bytes,
    /// The same, and text where there are none.
    BytesOrText,
    /// JSON for values of these types.
    Values { parameters: Parameters, result: Option<Type> },
}

/// A linked component.
pub(crate) struct Linked {
    base: Base<Component>,
    functions: Vec<Function>,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.own.wasi.view()
    }
}

impl Abi for Component {
    const IS_KEPT: bool = true;
    const FORM: Form = Form::Component;
    const INTERFACES: &'static [&'static [&'static str]] = &[&[MESH], p2::INTERFACES];

    type Linker = Linker<State>;
    type Linked = Linked;
    type Live = Instance;

    fn exports(shape: &Shape) -> Exports {
        let mut exports = Exports::default();
        for (name, exposed) in shape.world.iter().flat_map(World::named) {
            match exposed.problem {
                None => exports.callable.push((name, true)),
                Some(problem) => exports.others.push((name, problem.to_owned())),
            }
        }
        exports
    }

    /// A function is called by the type that it has; there has to be one.
    fn check(shape: &Shape) -> Result<(), SandboxError> {
        let exports = Self::exports(shape);
        if !exports.callable.is_empty() {
            return Ok(());
        }
        let others = exports.others.iter().map(|(name, why)| format!("; {name}: {why}"));
        let reason = "the component exports no function that can be called";
        Err(SandboxError::invalid(
            format!("{reason}{}", others.collect::<String>()),
            "export a function of values, or wasi:cli/run",
        ))
    }

    fn linker(engine: &Engine) -> wasmtime::Result<Self::Linker> {
        base::linker(engine, base::with_mesh)
    }

    fn link(
        linker: &Self::Linker,
        code: &Code,
        exports: &Exports,
        _settings: &SeedSettings,
    ) -> Result<Linked, SandboxError> {
        let base = Base::link(linker, code, base::sharable(code))?;
        let component = base.component();
        let world = World::of(component);
        let named = world.named();
        let functions = exports.callable.iter().map(|(name, _)| {
            let lost = || SandboxError::internal(format!("the export {name} was lost"), false);
            let (_, exposed) = named.iter().find(|(known, _)| known == name).ok_or_else(lost)?;
            let interface = match &exposed.interface {
                Some(name) => Some(component.get_export_index(None, name).ok_or_else(lost)?),
                None => None,
            };
            let index = component.get_export_index(interface.as_ref(), &exposed.function);
            let ty = World::function(component, exposed).ok_or_else(lost)?;
            Ok(Function { index: index.ok_or_else(lost)?, passing: Passing::of(&ty) })
        });
        let functions = functions.collect::<Result<_, SandboxError>>()?;
        Ok(Linked { base, functions })
    }

    fn sharable(linked: &Linked) -> u64 {
        linked.base.sharable
    }

    fn new(_linked: &Linked, birth: &Birth<'_>, logs: &Logs) -> Self {
        Self { wasi: Wasi::new(&mut wasi::context(birth.settings, logs)), answer: None }
    }

    async fn instantiate(
        linked: &Linked,
        store: &mut Store<State>,
    ) -> Result<Instance, (bool, Error)> {
        linked.base.instantiate(store).await
    }

    fn ways_in(instance: &Instance, linked: &Linked, store: &mut Store<State>) -> Vec<Func> {
        let some = linked.functions.iter().take(PROBED);
        some.filter_map(|function| instance.get_func(&mut *store, function.index)).collect()
    }

    async fn enter(
        instance: &mut Instance,
        linked: &Linked,
        store: &mut Store<State>,
        at: usize,
        call: &Call,
    ) -> Result<Result<i32, Error>, SandboxError> {
        let lost = || SandboxError::internal(format!("there is no function {at}"), false);
        let function = linked.functions.get(at).ok_or_else(lost)?;
        let exported = instance.get_func(&mut *store, function.index).ok_or_else(lost)?;
        let ran = match &function.passing {
            Passing::Bytes => bytes(exported, store, call).await,
            Passing::BytesOrText => bytes_or_text(exported, store, call).await,
            Passing::Values { parameters, result } => {
                Box::pin(values(exported, store, call, parameters, result.as_ref())).await?
            }
        };
        Ok(ran.map(|answer| {
            store.data_mut().own.answer = Some(answer);
            0
        }))
    }

    fn leave(
        _linked: &Linked,
        state: &mut State,
        _at: usize,
        ended: Result<i32, Error>,
    ) -> Verdict {
        match ended {
            Ok(_) => {
                let lost = || Err(SandboxError::internal("the function gave no answer", true));
                let answer = state.own.answer.take().unwrap_or_else(lost);
                let keep = answer.as_ref().err().is_none_or(|e| e.slug() == "guest-failed");
                Verdict { result: answer.map(|bytes| plain(bytes, 0)), keep }
            }
            Err(error) => Verdict { result: Err(outcome::of_cut(state, &error)), keep: false },
        }
    }

    fn cut(state: &mut State, error: &Error) -> Result<Output, SandboxError> {
        Err(outcome::of_cut(state, error))
    }

    fn reset(state: &mut State) {
        state.own.answer = None;
    }
}

impl Passing {
    fn of(ty: &wasmtime::component::types::ComponentFunc) -> Self {
        let parameters: Parameters = ty.params().map(|(name, ty)| (name.to_owned(), ty)).collect();
        let result = ty.results().next();
        let takes_bytes = matches!(parameters.as_slice(), [(_, ty)] if is_bytes(ty));
        match &result {
            Some(ty) if takes_bytes && is_bytes(ty) => Self::Bytes,
            Some(Type::Result(ty))
                if takes_bytes
                    && ty.ok().is_some_and(|ty| is_bytes(&ty))
                    && matches!(ty.err(), Some(Type::String)) =>
            {
                Self::BytesOrText
            }
            _ => Self::Values { parameters, result },
        }
    }
}

fn is_bytes(ty: &Type) -> bool {
    matches!(ty, Type::List(list) if matches!(list.ty(), Type::U8))
}

/// How a function ended: a trap, or its answer.
type Ran = Result<Result<Bytes, SandboxError>, Error>;

async fn bytes(function: Func, store: &mut Store<State>, call: &Call) -> Ran {
    let typed: TypedFunc<(Vec<u8>,), (Vec<u8>,)> = function.typed(&*store)?;
    let (output,) = typed.call_async(&mut *store, (call.input.to_vec(),)).await?;
    Ok(within_limit(store, output))
}

async fn bytes_or_text(function: Func, store: &mut Store<State>, call: &Call) -> Ran {
    type Answer = (Result<Vec<u8>, String>,);
    let typed: TypedFunc<(Vec<u8>,), Answer> = function.typed(&*store)?;
    let (output,) = typed.call_async(&mut *store, (call.input.to_vec(),)).await?;
    Ok(match output {
        Ok(output) => within_limit(store, output),
        Err(text) => Err(SandboxError::ran("guest-failed", text, "")),
    })
}

fn within_limit(store: &Store<State>, output: Vec<u8>) -> Result<Bytes, SandboxError> {
    let limit = store.data().settings.max_output_bytes;
    match output.len() {
        length if length > limit => Err(SandboxError::output_too_large(length, limit)),
        _ => Ok(Bytes::from(output)),
    }
}

/// `Err`: the arguments are refused, and nothing ran.
async fn values(
    function: Func,
    store: &mut Store<State>,
    call: &Call,
    parameters: &Parameters,
    result: Option<&Type>,
) -> Result<Ran, SandboxError> {
    let cost = arguments::cost(&call.input);
    if !store.data_mut().meter.charge(cost) {
        let text = format!("there is no memory for the {cost} bytes that the arguments take");
        return Err(SandboxError::out_of_memory(text).not_executed());
    }
    let read = arguments::read(&call.input, parameters);
    let ran = match &read {
        Err(_) => Ok(None),
        Ok(given) => {
            let mut returned = vec![Val::Bool(false); usize::from(result.is_some())];
            let called = function.call_async(&mut *store, given, &mut returned).await;
            called.map(|()| returned.into_iter().next())
        }
    };
    store.data_mut().meter.release(cost);
    read?;
    let limit = store.data().settings.max_output_bytes;
    Ok(ran.map(|returned| arguments::write(returned.as_ref().zip(result), limit)))
}
