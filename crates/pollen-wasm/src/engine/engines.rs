//! The two engines of a sandbox: one for core modules, and one for components, which is built with the
//! first component.
//!
//! Invariant: a node that never sees a component maps nothing for them.

use std::sync::OnceLock;

use wasmtime::Engine;

use crate::engine::code::Form;
use crate::engine::pool::{self, MAX_COMPONENTS, Rung};
use crate::error::SandboxError;

type Built = (Engine, Rung);

/// Both engines and the rung that each stands on.
pub(crate) struct Engines {
    core: Built,
    components: OnceLock<Result<Built, SandboxError>>,
    /// Components that may live at once, at most.
    most: u32,
}

impl Engines {
    /// Builds that of core modules.
    pub(crate) fn new(instances: u32) -> Result<Self, SandboxError> {
        let core = pool::build(Form::Core, instances)?;
        let most = instances.min(MAX_COMPONENTS);
        Ok(Self { core, components: OnceLock::new(), most })
    }

    /// The engine of a form; that of components is built at its first use.
    pub(crate) fn get(&self, form: Form) -> Result<&Built, SandboxError> {
        match form {
            Form::Core => Ok(&self.core),
            Form::Component => {
                let build = || pool::build(Form::Component, self.most);
                self.components.get_or_init(build).as_ref().map_err(Clone::clone)
            }
        }
    }

    /// The engine of core modules.
    pub(crate) fn core(&self) -> &Built {
        &self.core
    }

    /// How many guests of a form may live at once.
    pub(crate) fn instances(&self, form: Form) -> u64 {
        match (form, self.components.get()) {
            (Form::Core, _) => self.core.1.instances(),
            (Form::Component, Some(Ok((_, rung)))) => rung.instances(),
            (Form::Component, _) => u64::from(self.most),
        }
    }

    /// One tick of the clock that interrupts guests.
    pub(crate) fn tick(&self) {
        self.core.0.increment_epoch();
        if let Some(Ok((engine, _))) = self.components.get() {
            engine.increment_epoch();
        }
    }
}
