//! The guest ABIs, as a closed list: this file alone names them all.
//!
//! Decides: which ABI a module is for. An ABI is a folder here that implements
//! [`Abi`](contract::Abi), and a name in `abis!` below. CONTRIBUTING.md has the steps.
//!
//! Refused: `dyn` for the operations. A call crosses three of them, and each future would be a box.

pub(crate) mod body;
mod command;
pub(crate) mod contract;
mod export;
mod extism;
mod log;
mod outcome;
pub(crate) mod shape;
mod state;
mod wasi;

use std::sync::Arc;

use wasmtime::{Engine, Error};

use body::Body;
use command::Command;
use contract::{Abi as _, Birth, Verdict};
use extism::Extism;
use shape::{Exports, Group, Shape};

use crate::engine::code::Code;
use crate::engine::meter::Meter;
use crate::envelope::{Call, Host, Reading, SeedSettings};
use crate::error::SandboxError;

pub use extism::kernel::Kernel;

/// What each enumeration of ABIs is made of: the one place that lists them.
macro_rules! abis {
    ($($name:ident / $field:ident),+) => {
        /// Which ABI a module is for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Abi { $($name),+ }

        /// The imports of each ABI.
        pub(crate) struct Linkers { $($field: <$name as contract::Abi>::Linker),+ }

        /// A module that is linked for its ABI.
        pub(crate) enum Linked { $($name(Arc<<$name as contract::Abi>::Linked>)),+ }

        /// A living guest of some ABI.
        pub(crate) enum Living { $($name(Body<$name>)),+ }

        impl Abi {
            const ALL: &[Self] = &[$(Self::$name),+];

            /// What a module of this ABI may import.
            pub(crate) fn imports(self) -> &'static [Group] {
                match self { $(Self::$name => $name::IMPORTS),+ }
            }

            /// Which exports a call may name.
            pub(crate) fn exports(self, shape: &Shape<'_>) -> Exports {
                match self { $(Self::$name => $name::exports(shape)),+ }
            }

            /// Refuses exports that the ABI would call by another type.
            pub(crate) fn check(self, shape: &Shape<'_>) -> Result<(), SandboxError> {
                match self { $(Self::$name => $name::check(shape)),+ }
            }
        }

        impl Linkers {
            pub(crate) fn new(engine: &Engine) -> wasmtime::Result<Self> {
                Ok(Self { $($field: $name::linker(engine)?),+ })
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
                        let linked = $name::link(&self.$field, code, exports, settings)?;
                        Linked::$name(Arc::new(linked))
                    }),+
                })
            }
        }

        impl Linked {
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

abis!(Extism / extism, Command / command);

impl Abi {
    /// The ABI that a module is for. What is not an ordinary program is a module for Extism: that
    /// ABI's checks say what is wrong with any other.
    pub(crate) fn of(shape: &Shape<'_>) -> Self {
        if command::is_program(shape) { Self::Command } else { Self::Extism }
    }

    /// Whether a module may be read as an ordinary program.
    pub(crate) fn may_be_program(shape: &Shape<'_>) -> bool {
        command::may_be_program(shape)
    }

    /// The ABI of compiled code, and which exports a call may name.
    pub(crate) fn read(code: &Code, reading: Reading) -> (Self, Exports) {
        let shape = Shape::of(code.core());
        let abi = match reading {
            Reading::Program if command::may_be_program(&shape) => Self::Command,
            Reading::Library => Self::Extism,
            Reading::AsItLooks | Reading::Program => Self::of(&shape),
        };
        (abi, abi.exports(&shape))
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
