//! Compiled code of a seed, in the form that the engine wants.
//!
//! Decides: how bytes become code, and code bytes again. Does not know: where code is kept
//! (`cache`) and what imports it wants (`abi`). An ABI of another form than core modules, such as
//! components, adds its form of code here. CONTRIBUTING.md names the three other files that it
//! touches.

use wasmtime::{Engine, Module};

use crate::error::SandboxError;

/// A page of linear memory, bytes.
const PAGE: u64 = 64 << 10;

/// Code that is ready to be linked.
pub(crate) struct Code(Module);

impl Code {
    /// Compiles a module that passed the checks; takes seconds for a large one.
    pub(crate) fn compile(engine: &Engine, wasm: &[u8]) -> Result<Self, SandboxError> {
        Module::from_binary(engine, wasm).map(Self).map_err(|error| {
            SandboxError::invalid(format!("the module does not compile: {error:#}"), "")
        })
    }

    /// The core module that it is.
    pub(crate) fn core(&self) -> &Module {
        &self.0
    }

    /// The bytes that [`Code::load`] takes; none when the engine cannot write them.
    pub(crate) fn save(&self) -> Option<Vec<u8>> {
        self.0.serialize().ok()
    }

    /// Code from bytes that [`Code::save`] gave under an engine of the same settings.
    ///
    /// # Safety
    /// The bytes are executed as they are: the caller has proved that this node's compiler wrote
    /// exactly these for this engine.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn load(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Self> {
        // Why unsafe: the promise is the caller's, see above.
        unsafe { Module::deserialize(engine, bytes) }.map(Self)
    }

    /// The linear memory that a guest starts with, bytes.
    pub(crate) fn minimum_memory(&self) -> u64 {
        let pages = self.0.resources_required().max_initial_memory_size.unwrap_or(0);
        pages.saturating_mul(PAGE)
    }
}
