//! One live instance: its store, its state, and the entry protocol that initialises it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use wasmtime::{
    Engine, Instance, InstancePre, Module, Store, StoreContextMut, TypedFunc, UpdateDeadline,
};
use wasmtime_wasi::p1::WasiP1Ctx;

use crate::envelope::{Host, SeedSettings};
use crate::error::SandboxError;
use crate::future::mark_expired;
use crate::http::LastReply;
use crate::kernel::Kernel;
use crate::log::Logs;
use crate::meter::Meter;
use crate::outcome;
use crate::program::Pipes;
use crate::registry::Registry;

/// Epoch ticks that a guest runs before its callback is asked.
pub(crate) const SLICE: u64 = 2;

/// The state of a guest that its imports work on.
pub(crate) struct State {
    pub(crate) kernel: Kernel,
    pub(crate) meter: Meter,
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) logs: Logs,
    /// Standard input and output, when the module is a program.
    pub(crate) pipes: Option<Pipes>,
    pub(crate) settings: Arc<SeedSettings>,
    /// Values of `var_set`; they live as long as the guest.
    pub(crate) vars: HashMap<Box<[u8]>, Bytes>,
    pub(crate) vars_bytes: u64,
    /// The node as this call sees it; none during initialisation.
    pub(crate) host: Option<Arc<dyn Host>>,
    pub(crate) http: LastReply,
    pub(crate) deadline: Instant,
    /// The deadline passed while the guest ran.
    pub(crate) expired: bool,
    /// Why an import trapped.
    pub(crate) failure: Option<SandboxError>,
}

impl State {
    fn new(
        registry: Arc<Registry>,
        settings: Arc<SeedSettings>,
        arguments: Option<&[String]>,
        nested: bool,
        deadline: Instant,
    ) -> Self {
        let logs = Logs::default();
        let pipes = arguments.map(|_| Pipes::new(registry.clone(), settings.max_output_bytes));
        Self {
            kernel: Kernel::new(),
            meter: Meter::new(registry, settings.memory_bytes, nested),
            wasi: crate::wasi::context(
                &settings,
                &logs,
                pipes.as_ref(),
                arguments.unwrap_or_default(),
            ),
            logs,
            pipes,
            settings,
            vars: HashMap::new(),
            vars_bytes: 0,
            host: None,
            http: LastReply::default(),
            deadline,
            expired: false,
            failure: None,
        }
    }

    /// A new block with a copy of `bytes`; 0 for empty bytes and on failure.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> u64 {
        self.kernel.put(bytes, &mut self.meter)
    }

    /// Ends the guest with this error.
    pub(crate) fn fail(&mut self, error: SandboxError) -> wasmtime::Error {
        let trap = wasmtime::Error::msg(error.reason().to_owned());
        self.failure = Some(error);
        trap
    }
}

/// How a module wants to be initialised; read once from its exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Nothing but the start section, which runs at instantiation.
    Start,
    /// `_initialize` (WASI reactors).
    Initialize,
    /// `__wasm_call_ctors`, when there is no `_initialize`.
    Constructors,
    /// Haskell: `_initialize` if any, then `hs_init(0, 0)`.
    Haskell {
        /// There is an `_initialize`.
        initialize: bool,
    },
}

impl Entry {
    pub(crate) fn of(module: &Module) -> Self {
        let initialize = module.get_export("_initialize").is_some();
        if module.get_export("hs_init").is_some() {
            Self::Haskell { initialize }
        } else if initialize {
            Self::Initialize
        } else if module.get_export("__wasm_call_ctors").is_some() {
            Self::Constructors
        } else {
            Self::Start
        }
    }
}

/// A callable export, resolved in one instance.
pub(crate) enum Handle {
    Unit(TypedFunc<(), ()>),
    Status(TypedFunc<(), i32>),
}

/// A live instance, ready to be called.
pub(crate) struct Guest {
    pub(crate) store: Store<State>,
    pub(crate) instance: Instance,
    /// By function index of the seed; filled after the first use.
    pub(crate) handles: Vec<Option<Handle>>,
    /// Calls served so far, wrapping.
    pub(crate) calls: u32,
    /// Memory charged after initialisation, bytes.
    pub(crate) initial: u64,
}

/// What a new guest needs to know about its seed.
pub(crate) struct Blueprint<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) registry: &'a Arc<Registry>,
    pub(crate) pre: &'a InstancePre<State>,
    pub(crate) settings: &'a Arc<SeedSettings>,
    /// Of a program.
    pub(crate) arguments: Option<&'a [String]>,
    pub(crate) entry: Entry,
    pub(crate) functions: usize,
}

impl Guest {
    /// Instantiates and initialises.
    ///
    /// Errors: `overloaded` when the pool or the node's memory is full, `deadline`, and what the
    /// initialisation did; none of them ran the called function. Nothing is left behind.
    pub(crate) async fn make(
        blueprint: Blueprint<'_>,
        host: Option<&Arc<dyn Host>>,
        nested: bool,
        deadline: Instant,
    ) -> Result<Box<Self>, SandboxError> {
        // The pool is full: a few idle guests of other seeds make room, then all of them. Others may
        // take that room first.
        for count in [8, 64, usize::MAX] {
            match Self::attempt(&blueprint, host, nested, deadline).await {
                Err(error)
                    if error.slug() == "overloaded" && blueprint.registry.evict_guests(count) => {}
                made => return made,
            }
        }
        Self::attempt(&blueprint, host, nested, deadline).await
    }

    async fn attempt(
        blueprint: &Blueprint<'_>,
        host: Option<&Arc<dyn Host>>,
        nested: bool,
        deadline: Instant,
    ) -> Result<Box<Self>, SandboxError> {
        let settings = blueprint.settings;
        let limit = Instant::now().checked_add(settings.init_timeout).unwrap_or(deadline);
        let state = State::new(
            blueprint.registry.clone(),
            settings.clone(),
            blueprint.arguments,
            nested,
            deadline.min(limit),
        );
        state.logs.begin(host.cloned(), settings.log_bytes);
        let mut store = Store::new(blueprint.engine, state);
        store.limiter(|state| &mut state.meter);
        store.epoch_deadline_callback(on_epoch);
        store.set_epoch_deadline(SLICE);
        let instance = match blueprint.pre.instantiate_async(&mut store).await {
            Ok(instance) => instance,
            Err(error) => return Err(outcome::of_instantiation(error, store.data_mut())),
        };
        initialise(&mut store, &instance, blueprint.entry)
            .await
            .map_err(|error| outcome::of_initialisation(error, store.data_mut()))?;
        let state = store.data_mut();
        state.logs.end();
        state.kernel.recycle(&mut state.meter);
        let initial = state.meter.charged();
        let handles = (0..blueprint.functions).map(|_| None).collect();
        Ok(Box::new(Self { store, instance, handles, calls: 0, initial }))
    }
}

async fn initialise(
    store: &mut Store<State>,
    instance: &Instance,
    entry: Entry,
) -> wasmtime::Result<()> {
    let first = match entry {
        Entry::Start => None,
        Entry::Initialize | Entry::Haskell { initialize: true } => Some("_initialize"),
        Entry::Constructors => Some("__wasm_call_ctors"),
        Entry::Haskell { initialize: false } => None,
    };
    if let Some(name) = first {
        instance.get_typed_func::<(), ()>(&mut *store, name)?.call_async(&mut *store, ()).await?;
    }
    if matches!(entry, Entry::Haskell { .. }) {
        let hs_init = instance.get_typed_func::<(i32, i32), ()>(&mut *store, "hs_init")?;
        hs_init.call_async(&mut *store, (0, 0)).await?;
    }
    Ok(())
}

/// The epoch callback: the deadline first, else give way to others.
fn on_epoch(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let state = store.data_mut();
    if Instant::now() >= state.deadline {
        state.expired = true;
        return Ok(UpdateDeadline::Interrupt);
    }
    mark_expired();
    Ok(UpdateDeadline::Yield(SLICE))
}
