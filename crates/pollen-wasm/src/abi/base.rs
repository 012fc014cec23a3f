//! What is the same in each ABI of components: the imports that all of them have, and a component that
//! is linked with them.
//!
//! Does not know: how a call enters a component and what its end means (the ABI's folder).

use wasmtime::component::{Component, Instance, InstancePre, Linker};
use wasmtime::{Engine, Error, PoolingAllocationConfig, Store};
use wasmtime_wasi::WasiView;

use crate::abi::state::State;
use crate::abi::{mesh, p2};
use crate::engine::code::Code;
use crate::error::SandboxError;

/// The interface of the mesh for components.
pub(crate) const MESH: &str = "pollen:guest/mesh";

/// The same with the version that is served; any 0.1 is.
const MESH_VERSION: &str = "pollen:guest/mesh@0.1.0";

/// A component with its imports.
pub(crate) struct Base<O: 'static> {
    pre: InstancePre<State<O>>,
    /// What of their first memory all guests share until they write to it, bytes.
    pub(crate) sharable: u64,
}

/// WASI 0.2, and what else an ABI defines.
pub(crate) fn linker<O: Send + 'static>(
    engine: &Engine,
    own: impl FnOnce(&mut Linker<State<O>>) -> wasmtime::Result<()>,
) -> wasmtime::Result<Linker<State<O>>>
where
    State<O>: WasiView,
{
    let mut linker = Linker::new(engine);
    p2::define(&mut linker)?;
    own(&mut linker)?;
    Ok(linker)
}

/// Defines the mesh.
pub(crate) fn with_mesh<O: Send + 'static>(linker: &mut Linker<State<O>>) -> wasmtime::Result<()> {
    mesh::define(&mut linker.instance(MESH_VERSION)?)
}

impl<O: Send + 'static> Base<O> {
    /// Links the code of a seed; no guest exists afterwards. `sharable` is what of their first memory
    /// all guests of it share until they write to it.
    pub(crate) fn link(
        linker: &Linker<State<O>>,
        code: &Code,
        sharable: u64,
    ) -> Result<Self, SandboxError> {
        let pre = linker.instantiate_pre(code.component()?).map_err(|error| {
            SandboxError::invalid(
                format!("the component cannot be linked: {error:#}"),
                "build it for the version of the interface that is named",
            )
        })?;
        let shares = can_share(code.engine());
        Ok(Self { pre, sharable: if shares { sharable } else { 0 } })
    }

    /// The component.
    pub(crate) fn component(&self) -> &Component {
        self.pre.component()
    }

    /// A guest of it.
    pub(crate) async fn instantiate(
        &self,
        store: &mut Store<State<O>>,
    ) -> Result<Instance, (bool, Error)> {
        self.pre.instantiate_async(store).await.map_err(|error| (true, error))
    }
}

/// Whether this machine says which pages a guest wrote to. A memory outside of a pool moves when it
/// grows.
fn can_share(engine: &Engine) -> bool {
    engine.pooling_allocator_metrics().is_some()
        && PoolingAllocationConfig::is_pagemap_scan_available()
}

/// What of its first memory all guests of a component share until they write to it: what they write
/// in any case, its toolchain's stack and heap, is within the memory that its data does not fill.
pub(crate) fn sharable(code: &Code) -> u64 {
    code.minimum_memory().min(code.image_bytes()) / 2
}
