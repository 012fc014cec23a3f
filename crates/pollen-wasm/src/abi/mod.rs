//! The guest ABIs, as a closed list: this file alone names them all.
//!
//! Decides: which ABI a module is for. An ABI is a folder here that implements
//! [`Abi`](contract::Abi), and a name in `abis!` below. CONTRIBUTING.md has the steps.
//!
//! Refused: `dyn` for the operations. A call crosses three of them, and each future would be a box.

mod base;
mod begun;
pub(crate) mod body;
mod command;
mod component;
pub(crate) mod contract;
mod export;
mod extism;
mod http;
mod log;
mod mesh;
mod outbound;
mod outcome;
mod p2;
mod probe;
mod python;
mod run;
pub(crate) mod shape;
mod state;
mod wasi;
pub(crate) mod world;
mod written;

use std::sync::{Arc, OnceLock};

use wasmtime::{Engine, Error};

use body::Body;
use command::Command;
use component::Component;
use contract::{Abi as _, Birth, Verdict};
use extism::Extism;
use http::Http;
use python::Python;
use run::Run;
use shape::{Exports, Group, Shape};

use crate::bundle::Bundle;
use crate::engine::code::{Code, Form};
use crate::engine::meter::Meter;
use crate::envelope::{Call, Host, Reading, SeedSettings};
use crate::error::SandboxError;

pub use extism::kernel::Kernel;
pub(crate) use python::prepare::PREPARING;

/// What each enumeration of ABIs is made of: the one place that lists them.
macro_rules! abis {
    ($($name:ident / $field:ident),+) => {
        /// Which ABI a module is for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Abi { $($name),+ }

        /// The imports of each ABI; those of components are defined with the first component.
        pub(crate) struct Linkers { $($field: OnceLock<<$name as contract::Abi>::Linker>),+ }

        /// A module that is linked for its ABI.
        pub(crate) enum Linked { $($name(Arc<<$name as contract::Abi>::Linked>)),+ }

        /// A living guest of some ABI.
        pub(crate) enum Living { $($name(Body<$name>)),+ }

        impl Abi {
            const ALL: &[Self] = &[$(Self::$name),+];

            /// What a core module of this ABI may import.
            pub(crate) fn imports(self) -> &'static [Group] {
                match self { $(Self::$name => $name::IMPORTS),+ }
            }

            /// The interfaces that a component of this ABI may import.
            pub(crate) fn interfaces(self) -> Vec<&'static str> {
                match self { $(Self::$name => $name::INTERFACES.concat()),+ }
            }

            /// The exports of a seed with these settings.
            pub(crate) fn published(self, exports: Exports, settings: &SeedSettings) -> Exports {
                match self { $(Self::$name => $name::published(exports, settings)),+ }
            }

            /// Which exports a call may name.
            pub(crate) fn exports(self, shape: &Shape) -> Exports {
                match self { $(Self::$name => $name::exports(shape)),+ }
            }

            /// Refuses exports that the ABI would call by another type.
            pub(crate) fn check(self, shape: &Shape) -> Result<(), SandboxError> {
                match self { $(Self::$name => $name::check(shape)),+ }
            }
        }

        impl Linkers {
            /// Those of core modules.
            pub(crate) fn new(engine: &Engine) -> wasmtime::Result<Self> {
                let linkers = Self { $($field: OnceLock::new()),+ };
                $(if $name::FORM == Form::Core {
                    made(&linkers.$field, || $name::linker(engine))?;
                })+
                Ok(linkers)
            }

            /// Links compiled code for its ABI; no guest exists afterwards.
            pub(crate) fn link(
                &self,
                abi: Abi,
                code: &Code,
                exports: &Exports,
                settings: &SeedSettings,
            ) -> Result<Linked, SandboxError> {
                Ok(match abi {
                    $(Abi::$name => {
                        let linker = made(&self.$field, || $name::linker(code.engine()));
                        let linker = linker.map_err(|error| unlinked(&error))?;
                        let linked = $name::link(linker, code, exports, settings)?;
                        Linked::$name(Arc::new(linked))
                    }),+
                })
            }
        }

        impl Linked {
            /// Which engine its guests live in.
            pub(crate) fn form(&self) -> Form {
                match self { $(Self::$name(_) => $name::FORM),+ }
            }

            /// A guest serves more than one call.
            pub(crate) fn is_kept(&self) -> bool {
                match self { $(Self::$name(_) => $name::IS_KEPT),+ }
            }

            /// A fresh guest, initialised.
            pub(crate) async fn make(&self, birth: &Birth<'_>) -> Result<Living, SandboxError> {
                match self {
                    $(Self::$name(linked) => Body::make(linked, birth).await.map(Living::$name)),+
                }
            }
        }

        impl Living {
            /// Binds the guest to a call.
            pub(crate) fn begin(&mut self, call: &Call, host: Arc<dyn Host>) {
                match self { $(Self::$name(body) => body.begin(call, host)),+ }
            }

            /// Runs the function of this number; `Err` is a refusal before it ran.
            pub(crate) async fn enter(
                &mut self,
                at: usize,
                call: &Call,
            ) -> Result<Result<i32, Error>, SandboxError> {
                match self { $(Self::$name(body) => body.enter(at, call).await),+ }
            }

            /// Judges how the function of this number ended.
            pub(crate) fn leave(&mut self, at: usize, ended: Result<i32, Error>) -> Verdict {
                match self { $(Self::$name(body) => body.leave(at, ended)),+ }
            }

            /// Lets go of the call's host, after the last lines of the log.
            pub(crate) fn end(&mut self) {
                match self { $(Self::$name(body) => body.end()),+ }
            }

            /// Prepares for the next call after a good one.
            pub(crate) fn reset(&mut self) {
                match self { $(Self::$name(body) => body.reset()),+ }
            }

            pub(crate) fn meter(&mut self) -> &mut Meter {
                match self { $(Self::$name(body) => body.meter()),+ }
            }
        }
    };
}

abis!(
    Extism / extism,
    Command / command,
    Python / python,
    Http / http,
    Run / run,
    Component / component
);

/// What is made once, at its first use.
fn made<T>(slot: &OnceLock<T>, make: impl FnOnce() -> wasmtime::Result<T>) -> wasmtime::Result<&T> {
    match slot.get() {
        Some(made) => Ok(made),
        None => make().map(|made| slot.get_or_init(|| made)),
    }
}

fn unlinked(error: &Error) -> SandboxError {
    SandboxError::internal(format!("the imports do not link: {error:#}"), false)
}

impl Living {
    /// What the seed-time work on a bundle gives: the bundle with all that was made from it.
    pub(crate) async fn prepare(&mut self, bundle: &Bundle) -> Result<Vec<u8>, SandboxError> {
        match self {
            Self::Python(body) => python::prepare::prepare(body, bundle).await,
            _ => Err(takes_no_bundle()),
        }
    }
}

fn takes_no_bundle() -> SandboxError {
    SandboxError::invalid(
        "a bundle is for the Python runner, and this module is another one",
        "seed the module without a bundle",
    )
}

impl Abi {
    /// The ABI that a module is for. What is not an ordinary program is a module for Extism: that
    /// ABI's checks say what is wrong with any other.
    pub(crate) fn of(shape: &Shape) -> Self {
        match &shape.world {
            Some(_) if python::is_runner(shape) => Self::Python,
            Some(_) if http::answers(shape) => Self::Http,
            Some(_) if run::is_program(shape) => Self::Run,
            Some(_) => Self::Component,
            None if command::is_program(shape) => Self::Command,
            None => Self::Extism,
        }
    }

    /// Whether it runs bundles.
    pub(crate) fn takes_bundle(self) -> bool {
        self == Self::Python
    }

    /// Whether a module may be read as an ordinary program.
    pub(crate) fn may_be_program(shape: &Shape) -> bool {
        command::may_be_program(shape) || run::is_program(shape)
    }

    /// The ABI of compiled code, and which exports a call may name.
    pub(crate) fn read(code: &Code, settings: &SeedSettings) -> (Self, Exports) {
        let (shape, reading) = (Shape::of(code), settings.reading());
        let abi = match reading {
            Reading::Program if command::may_be_program(&shape) => Self::Command,
            Reading::Library if shape.world.is_none() => Self::Extism,
            _ => Self::of(&shape),
        };
        (abi, abi.published(abi.exports(&shape), settings))
    }

    /// The modules of imports of all ABIs, each once.
    pub(crate) fn all_imports() -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for group in Self::ALL.iter().flat_map(|abi| abi.imports()) {
            if !groups.iter().any(|(name, _)| *name == group.0) {
                groups.push(*group);
            }
        }
        groups
    }
}
