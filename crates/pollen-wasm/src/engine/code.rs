//! Compiled code of a seed, in the form that the engine wants.
//!
//! Decides: how bytes become code, and code bytes again. Does not know: where code is kept
//! (`cache`) and what imports it wants (`abi`).

use std::panic::{AssertUnwindSafe, catch_unwind};

use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use crate::error::SandboxError;

/// A page of linear memory, bytes.
const PAGE: u64 = 64 << 10;

/// What a file of WebAssembly is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A core module.
    Core,
    /// A component.
    Component,
}

impl Form {
    /// By the layer in the header; whatever has none is judged as a core module.
    pub(crate) fn of(wasm: &[u8]) -> Self {
        match wasm.first_chunk::<8>() {
            Some([0, b'a', b's', b'm', _, _, 1, 0]) => Self::Component,
            _ => Self::Core,
        }
    }
}

/// Code that is ready to be linked.
pub(crate) enum Code {
    Core(Module),
    Component(Component),
}

impl Code {
    /// Compiles what passed the checks; takes seconds for a large one. A panic of the compiler is the
    /// fault of what it was given, not the end of its thread.
    pub(crate) fn compile(engine: &Engine, wasm: &[u8]) -> Result<Self, SandboxError> {
        let compiled = catch_unwind(AssertUnwindSafe(|| match Form::of(wasm) {
            Form::Core => Module::from_binary(engine, wasm).map(Self::Core),
            Form::Component => Component::from_binary(engine, wasm).map(Self::Component),
        }));
        match compiled {
            Ok(Ok(code)) => Ok(code),
            Ok(Err(error)) => {
                Err(SandboxError::invalid(format!("the module does not compile: {error:#}"), ""))
            }
            Err(_) => Err(SandboxError::invalid(
                "the module does not compile: the compiler gave up on it",
                "build it with another version of its toolchain",
            )),
        }
    }

    pub(crate) fn form(&self) -> Form {
        match self {
            Self::Core(_) => Form::Core,
            Self::Component(_) => Form::Component,
        }
    }

    /// The core module that it is.
    pub(crate) fn core(&self) -> Result<&Module, SandboxError> {
        match self {
            Self::Core(module) => Ok(module),
            Self::Component(_) => Err(other("a component where a core module was expected")),
        }
    }

    /// The component that it is.
    pub(crate) fn component(&self) -> Result<&Component, SandboxError> {
        match self {
            Self::Component(component) => Ok(component),
            Self::Core(_) => Err(other("a core module where a component was expected")),
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        match self {
            Self::Core(module) => module.engine(),
            Self::Component(component) => component.engine(),
        }
    }

    /// The bytes that [`Code::load`] takes; none when the engine cannot write them.
    pub(crate) fn save(&self) -> Option<Vec<u8>> {
        match self {
            Self::Core(module) => module.serialize().ok(),
            Self::Component(component) => component.serialize().ok(),
        }
    }

    /// Code from bytes that [`Code::save`] gave under an engine of the same settings.
    ///
    /// # Safety
    /// The bytes are executed as they are: the caller has proved that this node's compiler wrote
    /// exactly these for this engine.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn load(form: Form, engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Self> {
        match form {
            // Why unsafe: the promise is the caller's, see above.
            Form::Core => unsafe { Module::deserialize(engine, bytes) }.map(Self::Core),
            Form::Component => {
                // Why unsafe: the same promise.
                unsafe { Component::deserialize(engine, bytes) }.map(Self::Component)
            }
        }
    }

    /// The linear memory that a guest starts with, bytes; of a component, that of its largest module.
    pub(crate) fn minimum_memory(&self) -> u64 {
        let needs = match self {
            Self::Core(module) => Some(module.resources_required()),
            Self::Component(component) => component.resources_required(),
        };
        needs.and_then(|needs| needs.max_initial_memory_size).unwrap_or(0).saturating_mul(PAGE)
    }

    /// What all guests of it share of their first memory until they write to it, bytes at most: the
    /// data of the compiled code is within its image.
    pub(crate) fn image_bytes(&self) -> u64 {
        let image = match self {
            Self::Core(module) => module.image_range(),
            Self::Component(component) => component.image_range(),
        };
        image.end.addr().saturating_sub(image.start.addr()) as u64
    }
}

fn other(what: &str) -> SandboxError {
    SandboxError::internal(what, false)
}
