//! Functions of core modules that take nothing and return nothing or an i32.

use wasmtime::{AsContextMut, Error, Instance, Module, ModuleExport, Store, TypedFunc};

use crate::abi::shape::Exports;
use crate::error::SandboxError;

/// A callable export of a module.
pub(crate) struct Export {
    pub(crate) name: String,
    index: ModuleExport,
    /// It returns an `i32`.
    returns: bool,
}

/// A callable export, resolved in one instance.
pub(crate) enum Handle {
    Unit(TypedFunc<(), ()>),
    Status(TypedFunc<(), i32>),
}

/// The callable exports in the order of `exports`.
pub(crate) fn find(module: &Module, exports: &Exports) -> Result<Vec<Export>, SandboxError> {
    let found = exports.callable.iter().map(|(name, returns)| {
        let index = module.get_export_index(name).ok_or_else(|| lost(name))?;
        Ok(Export { name: name.clone(), index, returns: *returns })
    });
    found.collect()
}

fn lost(name: &str) -> SandboxError {
    SandboxError::internal(format!("the export {name} was lost"), false)
}

impl Export {
    /// The function in this instance.
    pub(crate) fn resolve(
        &self,
        instance: &Instance,
        mut store: impl AsContextMut,
    ) -> Result<Handle, SandboxError> {
        let export = instance.get_module_export(&mut store, &self.index);
        let func = export.and_then(wasmtime::Extern::into_func).ok_or_else(|| lost(&self.name))?;
        if self.returns {
            Ok(Handle::Status(func.typed(&store).map_err(|_| lost(&self.name))?))
        } else {
            Ok(Handle::Unit(func.typed(&store).map_err(|_| lost(&self.name))?))
        }
    }
}

impl Handle {
    /// Runs it; 0 where it returns nothing.
    #[inline]
    pub(crate) async fn run<T: Send + 'static>(&self, store: &mut Store<T>) -> Result<i32, Error> {
        match self {
            Self::Unit(run) => run.call_async(store, ()).await.map(|()| 0),
            Self::Status(run) => run.call_async(store, ()).await,
        }
    }
}
