//! The handle of the sandbox: load seeds, call them, look at the numbers, close.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::debug;

use crate::abi::{Linkers, PREPARING};
use crate::bundle::Bundle;
use crate::call;
use crate::engine::cache::Place;
use crate::engine::code::{Code, Form};
use crate::engine::compile::Compiler;
use crate::engine::engines::Engines;
use crate::engine::registry::Registry;
use crate::engine::ticker::Ticker;
use crate::envelope::{Call, Host, ModuleInfo, Outcome, SandboxConfig, SeedSettings};
use crate::error::SandboxError;
use crate::future::{BURNS, CallFuture, Guarded, Runs};
use crate::inspect;
use crate::seed::Seed;
use crate::sys;

/// The same by the clock, on a node that is busy. Guess.
const PREPARING_MOST: Duration = Duration::from_secs(60);

/// What all clones of a sandbox share.
struct Core {
    runs: Arc<Runs>,
    engines: Arc<Engines>,
    linkers: Linkers,
    compiler: Compiler,
    registry: Arc<Registry>,
}

/// The sandbox of a node. Clones are handles to the same one.
#[derive(Clone)]
pub struct Sandbox(Arc<Core>);

impl Sandbox {
    /// Builds the engine of core modules on the largest pool that the machine can map, and starts the
    /// ticker and the compile threads.
    ///
    /// # Errors
    /// `internal` when the machine gives no engine or thread at all; nothing is left behind.
    pub fn new(config: SandboxConfig) -> Result<Self, SandboxError> {
        let engines = Arc::new(Engines::new(config.instances)?);
        let linkers = Linkers::new(&engines.core().0).map_err(|e| {
            SandboxError::internal(format!("the imports do not link: {e:#}"), false)
        })?;
        let (key, quota) = (config.cache_key, config.cache_quota_bytes);
        let place = config.cache_dir.map(|folder| Place { folder, key, quota });
        Ok(Self(Arc::new(Core {
            runs: Arc::new(Runs::new(Ticker::start(engines.clone())?, config.guest)),
            compiler: Compiler::start(engines.clone(), place)?,
            engines,
            linkers,
            registry: Arc::new(Registry::new(config.memory_bytes)),
        })))
    }

    /// Checks a module without an engine: format, features, imports by name and type, exports,
    /// limits.
    ///
    /// # Errors
    /// `module-invalid` or `import-unknown`, with everything that is wrong and its remedy.
    pub fn inspect(wasm: &[u8]) -> Result<ModuleInfo, SandboxError> {
        inspect::inspect(wasm)
    }

    /// Loads a seed: checked, compiled (or taken from the cache), linked, and proved by one guest
    /// that went through the entry protocol and waits for the first call.
    ///
    /// # Errors
    /// What [`Sandbox::inspect`] says; `guest-out-of-memory`, `guest-trapped`, `guest-failed` or
    /// `deadline` when initialisation fails; `overloaded` when there is no room. Nothing is left.
    pub async fn load(
        &self,
        wasm: Bytes,
        content: [u8; 32],
        settings: SeedSettings,
    ) -> Result<Arc<Seed>, SandboxError> {
        let info = inspect::inspect(&wasm)?;
        check_memory(info.minimum_memory_bytes, &settings)?;
        self.refuse_when_closed()?;
        let code = self.0.compiler.code(wasm).await?;
        let seed = self.link(&code, content, settings)?;
        self.warm(&seed, true).await?;
        Ok(seed)
    }

    /// The same from the cache of compiled code alone, by the BLAKE3 of the module: none when there
    /// is no entry. Only what passed the checks of [`Sandbox::inspect`] was ever compiled.
    ///
    /// # Errors
    /// Those of [`Sandbox::load`] that come after compiling.
    pub async fn load_compiled(
        &self,
        content: [u8; 32],
        settings: SeedSettings,
    ) -> Result<Option<Arc<Seed>>, SandboxError> {
        self.refuse_when_closed()?;
        let began = Instant::now();
        let Some(code) = self.0.compiler.cached(content).await else { return Ok(None) };
        let read = began.elapsed();
        check_memory(code.minimum_memory(), &settings)?;
        let seed = self.link(&code, content, settings)?;
        // Where the caller is: a guest that is ready in a millisecond moves nowhere.
        let linked = began.elapsed();
        self.warm(&seed, false).await?;
        let warm = began.elapsed().saturating_sub(linked);
        let link = linked.saturating_sub(read);
        debug!(name = %seed.settings.name, ?read, ?link, ?warm, "compiled code is loaded");
        Ok(Some(seed))
    }

    /// The seed-time work on a bundle, by the runner that it is for: its sources are compiled and its
    /// code is imported once, with no way to the mesh. The prepared bundle; the same as that of
    /// [`Bundle::open`] on what it returns has a [description](Bundle::description).
    ///
    /// # Errors
    /// `bundle-invalid` with the text of the runner (a traceback) or what is wrong with the archive;
    /// `module-invalid` when the module runs no bundles; `deadline`, `guest-out-of-memory` and
    /// `guest-trapped` when the bundle's own code met a limit. Nothing is left.
    pub async fn prepare(
        &self,
        wasm: Bytes,
        content: [u8; 32],
        bundle: Bytes,
    ) -> Result<Vec<u8>, SandboxError> {
        self.refuse_when_closed()?;
        let opened = tokio::task::spawn_blocking(move || Bundle::open(&bundle)).await;
        let lost =
            |error| SandboxError::internal(format!("the bundle was not read: {error}"), false);
        let bundle = Arc::new(opened.map_err(lost)??);
        let code = match self.0.compiler.cached(content).await {
            Some(code) => code,
            None => self.0.compiler.code(wasm).await?,
        };
        let settings = SeedSettings {
            run_limit: Some(PREPARING),
            bundle: Some(bundle.clone()),
            ..SeedSettings::new("seed")
        };
        let seed = self.link(&code, content, settings)?;
        let deadline = Instant::now() + PREPARING_MOST;
        let inner = Box::pin(call::prepare(seed, bundle, deadline));
        let guarded = Guarded::new(self.0.runs.clone(), deadline, None, inner);
        CallFuture::new(guarded, true).await.result.map(|output| output.bytes.into())
    }

    /// Calls a function. The future is polled inline by its caller and moves to the guest runtime
    /// when the guest burns; it must be polled within a runtime with a time driver. Dropping it
    /// cancels the guest.
    pub fn call(
        &self,
        seed: Arc<Seed>,
        call: Call,
        host: Arc<dyn Host>,
    ) -> impl Future<Output = Outcome> + Send + use<> {
        let function = seed.function(&call.function);
        let burns = function.is_some_and(|(_, function)| function.smoothed() > BURNS);
        let at = function.map(|(at, _)| at);
        let deadline = call.deadline;
        let refused = self.refuse_when_closed();
        let inner = Box::pin(call::run(refused, seed, at, call, host.clone()));
        CallFuture::new(Guarded::new(self.0.runs.clone(), deadline, Some(host), inner), burns)
    }

    /// The current numbers. Reads /proc and looks at every seed, so not for each call.
    #[must_use]
    pub fn metrics(&self) -> SandboxMetrics {
        let core = &self.0;
        let (idle, idle_bytes) = core.registry.idle();
        let (engine, rung) = core.engines.core();
        let pool = engine.pooling_allocator_metrics();
        SandboxMetrics {
            running: usize::try_from(core.runs.ticker.running()).unwrap_or(usize::MAX),
            instances: core.registry.instances(),
            idle,
            idle_bytes,
            memory_bytes: core.registry.budget.used(),
            pool: rung.to_string(),
            pool_memories: pool.as_ref().map_or(0, wasmtime::PoolingAllocatorMetrics::memories),
            pool_stacks: pool.as_ref().map_or(0, wasmtime::PoolingAllocatorMetrics::stacks),
            mappings: sys::mapping_count().unwrap_or(0),
            page_table_bytes: sys::page_table_bytes().unwrap_or(0),
            compiles: core.compiler.compiles(),
            cache_hits: core.compiler.hits(),
            epoch_ticks: core.runs.ticker.ticks(),
        }
    }

    /// Bytes that guests may still be given, counting what idle guests would give back. Cheap: it
    /// is read on each call.
    #[must_use]
    pub fn memory_available(&self) -> u64 {
        self.0.registry.available()
    }

    /// How many guests of core modules may live at once; at least 1.
    #[must_use]
    pub fn instances_limit(&self) -> u64 {
        self.0.engines.instances(Form::Core)
    }

    /// Drops guests that were idle for a minute; the number dropped. Happens by itself only while
    /// calls end, so an idle node should call this now and then.
    pub fn reap(&self) -> usize {
        self.0.registry.reap(Instant::now())
    }

    /// Drops all idle guests; the number dropped.
    pub fn evict_idle(&self) -> usize {
        self.0.registry.evict(u64::MAX)
    }

    /// Stops the ticker and the compile thread; idempotent. New calls and loads are refused. Calls
    /// that still run lose their deadline checks, so they must have ended or been dropped before.
    pub fn close(&self) {
        self.0.runs.close();
        self.0.registry.evict(u64::MAX);
        self.0.compiler.close();
    }

    fn link(
        &self,
        code: &Arc<Code>,
        content: [u8; 32],
        settings: SeedSettings,
    ) -> Result<Arc<Seed>, SandboxError> {
        let core = &self.0;
        // The plane knows how many core guests the memory is for; of components there are fewer.
        let least = match code.form() {
            Form::Core => 0,
            Form::Component => {
                core.registry.budget.total() / core.engines.instances(Form::Component).max(1)
            }
        };
        Seed::link(&core.linkers, code, least, &core.registry, &core.runs, content, settings)
    }

    fn refuse_when_closed(&self) -> Result<(), SandboxError> {
        if self.0.runs.is_closed() {
            return Err(SandboxError::overloaded("the sandbox is shutting down"));
        }
        Ok(())
    }

    /// Makes the first guest and keeps it for whoever calls first; on the guest runtime when it
    /// `burns`, else there from its first yield on.
    async fn warm(&self, seed: &Arc<Seed>, burns: bool) -> Result<(), SandboxError> {
        let limit = seed.settings.init_timeout;
        let deadline = Instant::now().checked_add(limit).unwrap_or_else(Instant::now);
        let inner = Box::pin(call::warm(seed.clone(), deadline));
        let guarded = Guarded::new(self.0.runs.clone(), deadline, None, inner);
        CallFuture::new(guarded, burns).await.result.map(|_| ())
    }
}

fn check_memory(minimum: u64, settings: &SeedSettings) -> Result<(), SandboxError> {
    let limit = settings.guest.memory_bytes;
    if minimum <= limit {
        return Ok(());
    }
    let reason = format!("the module starts with {minimum} bytes of memory; its limit is {limit}");
    Err(SandboxError::invalid(reason, "raise the memory limit of the spec"))
}

/// Numbers of a sandbox at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxMetrics {
    /// Guests on a cpu right now.
    pub running: usize,
    /// Living guests, idle ones included.
    pub instances: usize,
    /// Idle guests.
    pub idle: usize,
    /// Memory of the idle guests, bytes.
    pub idle_bytes: u64,
    /// Memory charged to the node's budget, bytes.
    pub memory_bytes: u64,
    /// The rung of the pool ladder, for people.
    pub pool: String,
    /// Linear memories taken from the pool.
    pub pool_memories: usize,
    /// Stacks taken from the pool.
    pub pool_stacks: usize,
    /// Memory mappings of the process; 0 where unknown.
    pub mappings: u64,
    /// Page tables of the process, bytes; 0 where unknown.
    pub page_table_bytes: u64,
    /// Modules compiled.
    pub compiles: u64,
    /// Modules taken from the cache of compiled code.
    pub cache_hits: u64,
    /// Ticks of the epoch so far.
    pub epoch_ticks: u64,
}
