//! A loaded seed: its module ready to instantiate, its functions, and its idle guests.
//!
//! Invariants: an idle guest is handed to the identity that it served before, or to anybody when
//! the seed is shared; at most [`IDLE_PER_IDENTITY`] wait for one identity, last in first out, and
//! guests kept for reuse together stay under half of the node's memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use wasmtime::{Engine, ExternType, InstancePre, Linker, Module, ModuleExport};

use crate::envelope::{Host, SeedSettings};
use crate::error::SandboxError;
use crate::future::BURNS;
use crate::guest::{Blueprint, Entry, Guest, State};
use crate::known;
use crate::program;
use crate::registry::Registry;
use crate::sharded;

/// Idle guests kept for one seed and identity.
const IDLE_PER_IDENTITY: usize = 4;

/// Each thread looks at a share of the idle guests of its own first.
const SHARES: usize = 2;

/// An idle guest lives this long.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// A guest that grew past this many times its initial size is not kept ...
const GROWN: u64 = 4;

/// ... unless it is still smaller than this, bytes (a guess: reuse saves more than it holds).
const SMALL: u64 = 4 << 20;

/// A callable export.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) export: ModuleExport,
    /// It returns an `i32`.
    pub(crate) returns: bool,
    /// `_start`: the guest is discarded after it.
    pub(crate) once: bool,
    /// Smoothed run time, ns.
    smoothed: AtomicU64,
}

impl Function {
    /// Smoothed run time of this function, ns; 0 before the first call.
    pub(crate) fn smoothed(&self) -> u64 {
        self.smoothed.load(Ordering::Relaxed)
    }
}

struct Idle {
    guest: Box<Guest>,
    since: Instant,
    bytes: u64,
}

type Waiting = HashMap<[u8; 32], Vec<Idle>>;

/// A share of the idle guests, on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Share(Mutex<Waiting>);

/// The key of guests that have served nobody; no public key is all ones.
const UNUSED: [u8; 32] = [0xff; 32];

/// A seed that is loaded and can be called.
pub struct Seed {
    content: [u8; 32],
    pub(crate) engine: Engine,
    pub(crate) registry: Arc<Registry>,
    pub(crate) settings: Arc<SeedSettings>,
    pre: InstancePre<State>,
    entry: Entry,
    /// Of a program.
    arguments: Option<Arc<[String]>>,
    functions: Vec<Function>,
    names: Vec<String>,
    index: HashMap<String, usize>,
    idle: [Share; SHARES],
    high_water: AtomicU64,
    smoothed: AtomicU64,
}

impl Seed {
    /// Links a compiled module; no guest exists afterwards.
    pub(crate) fn link(
        linker: &Linker<State>,
        module: &Module,
        registry: &Arc<Registry>,
        content: [u8; 32],
        settings: SeedSettings,
    ) -> Result<Arc<Self>, SandboxError> {
        let pre = linker.instantiate_pre(module).map_err(|error| {
            SandboxError::invalid(format!("the module cannot be linked: {error:#}"), "")
        })?;
        let mut functions = callable(module);
        let is_program = is_program(module, &functions);
        let arguments = is_program.then(|| program::arguments(&settings)).transpose()?;
        functions.retain(|function| !is_program || function.once);
        let names: Vec<String> = functions.iter().map(|function| function.name.clone()).collect();
        let index = names.iter().cloned().enumerate().map(|(at, name)| (name, at)).collect();
        let seed = Arc::new(Self {
            content,
            engine: linker.engine().clone(),
            registry: registry.clone(),
            settings: Arc::new(settings),
            pre,
            // A program's `_start` does all that is to be done first.
            entry: if is_program { Entry::Start } else { Entry::of(module) },
            arguments,
            functions,
            names,
            index,
            idle: Default::default(),
            high_water: AtomicU64::new(0),
            smoothed: AtomicU64::new(0),
        });
        registry.add(&seed);
        Ok(seed)
    }

    /// Names of the callable functions, in the module's order.
    #[must_use]
    pub fn functions(&self) -> &[String] {
        &self.names
    }

    /// The content id that the seed was loaded under.
    #[must_use]
    pub fn content(&self) -> [u8; 32] {
        self.content
    }

    /// The settings that the seed was loaded with.
    #[must_use]
    pub fn settings(&self) -> &SeedSettings {
        &self.settings
    }

    /// Memory to reserve for one call: the highest use seen so far, bytes.
    #[must_use]
    pub fn reserve_bytes(&self) -> u64 {
        self.high_water.load(Ordering::Relaxed)
    }

    /// Smoothed run time over all functions of the seed; zero before the first call.
    #[must_use]
    pub fn smoothed_run(&self) -> Duration {
        Duration::from_nanos(self.smoothed.load(Ordering::Relaxed))
    }

    /// Smoothed run time of one function; none when it does not exist.
    #[must_use]
    pub fn smoothed_run_of(&self, function: &str) -> Option<Duration> {
        self.function(function).map(|(_, function)| Duration::from_nanos(function.smoothed()))
    }

    /// Number of idle guests.
    #[must_use]
    pub fn idle_guests(&self) -> usize {
        self.idle_totals().0
    }

    pub(crate) fn function(&self, name: &str) -> Option<(usize, &Function)> {
        // Comparing a few names is quicker than hashing one.
        let at = if self.functions.len() <= 8 {
            self.functions.iter().position(|function| function.name == name)?
        } else {
            *self.index.get(name)?
        };
        self.function_at(at)
    }

    pub(crate) fn function_at(&self, at: usize) -> Option<(usize, &Function)> {
        self.functions.get(at).map(|function| (at, function))
    }

    /// A fresh guest, initialised.
    pub(crate) async fn make(
        &self,
        host: Option<&Arc<dyn Host>>,
        nested: bool,
        deadline: Instant,
    ) -> Result<Box<Guest>, SandboxError> {
        let blueprint = Blueprint {
            engine: &self.engine,
            registry: &self.registry,
            pre: &self.pre,
            settings: &self.settings,
            arguments: self.arguments.as_deref(),
            entry: self.entry,
            functions: self.functions.len(),
        };
        let guest = Guest::make(blueprint, host, nested, deadline).await?;
        self.note_memory(guest.initial);
        Ok(guest)
    }

    pub(crate) fn note_memory(&self, bytes: u64) {
        if bytes > self.high_water.load(Ordering::Relaxed) {
            self.high_water.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    /// Takes a run time into the averages. Concurrent updates may lose one; that is harmless.
    ///
    /// `sample` is the guest's count of calls: short runs are taken every eighth time, because the
    /// averages are shared by all threads.
    pub(crate) fn note_run(&self, function: usize, run: Duration, sample: u32) {
        let run = u64::try_from(run.as_nanos()).unwrap_or(u64::MAX);
        let known = self.functions.get(function).is_some_and(|function| function.smoothed() > 0);
        if known && run < BURNS / 8 && !sample.is_multiple_of(8) {
            return;
        }
        for average in
            self.functions.get(function).map(|f| &f.smoothed).into_iter().chain([&self.smoothed])
        {
            let old = average.load(Ordering::Relaxed);
            let new = if old == 0 { run } else { old - old / 8 + run / 8 };
            average.store(new.max(1), Ordering::Relaxed);
        }
    }

    fn key(&self, identity: [u8; 32]) -> [u8; 32] {
        if self.settings.shared { [0; 32] } else { identity }
    }

    /// An idle guest that this identity used, the last one first, or one that nobody used, if any.
    pub(crate) fn take(&self, identity: [u8; 32]) -> Option<Box<Guest>> {
        let of = |key: &[u8; 32]| self.shares().find_map(|share| share.lock().get_mut(key)?.pop());
        of(&self.key(identity)).or_else(|| of(&UNUSED)).map(|idle| self.taken(idle))
    }

    /// The shares, that of the calling thread first.
    fn shares(&self) -> impl Iterator<Item = &Mutex<Waiting>> {
        let (before, after) = self.idle.split_at(sharded::place(SHARES));
        after.iter().chain(before).map(|share| &share.0)
    }

    /// Keeps a guest that has not served anybody yet.
    pub(crate) fn keep_unused(&self, guest: Box<Guest>) {
        self.keep(UNUSED, guest, Instant::now());
    }

    pub(crate) fn take_any(&self) -> Option<Box<Guest>> {
        let idle = self.shares().find_map(|share| {
            let mut waiting = share.lock();
            waiting.values_mut().find_map(|idle| (!idle.is_empty()).then(|| idle.remove(0)))
        })?;
        Some(self.taken(idle))
    }

    fn taken(&self, idle: Idle) -> Box<Guest> {
        self.registry.idle_bytes.add(-signed(idle.bytes));
        idle.guest
    }

    pub(crate) fn idle_totals(&self) -> (usize, u64) {
        self.shares().fold((0, 0), |sum, share| {
            let waiting = share.lock();
            let idle = waiting.values().flatten();
            idle.fold(sum, |sum, idle| (sum.0 + 1, sum.1.saturating_add(idle.bytes)))
        })
    }

    /// Keeps a guest for the next call of this identity, or drops it.
    pub(crate) fn keep(&self, identity: [u8; 32], mut guest: Box<Guest>, now: Instant) {
        let bytes = guest.store.data().meter.charged();
        let registry = &self.registry;
        let grown = bytes > SMALL && bytes > guest.initial.saturating_mul(GROWN);
        if self.settings.isolate || grown || !guest.store.data_mut().meter.pool() {
            return;
        }
        let mut waiting = Some(Idle { guest, since: now, bytes });
        for share in self.shares() {
            let mut idle = share.lock();
            let idle = idle.entry(self.key(identity)).or_default();
            // Each share takes its part, so that together they keep the limit.
            if idle.len() < IDLE_PER_IDENTITY / SHARES {
                registry.idle_bytes.add(signed(bytes));
                idle.extend(waiting.take());
                break;
            }
        }
        // One too many is dropped here, outside of the locks.
        drop(waiting);
        if registry.is_reaping_due(now) {
            registry.reap(now);
        }
    }

    pub(crate) fn reap(&self, now: Instant) -> usize {
        let mut old = Vec::new();
        for share in self.shares() {
            share.lock().retain(|_, idle| {
                // The longest idle ones stand first.
                let late = idle.partition_point(|idle| now.duration_since(idle.since) >= IDLE_TIME);
                old.extend(idle.drain(..late));
                !idle.is_empty()
            });
        }
        let count = old.len();
        for idle in old {
            drop(self.taken(idle));
        }
        count
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        while let Some(guest) = self.take_any() {
            drop(guest);
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn is_program(module: &Module, functions: &[Function]) -> bool {
    let imports = module.imports();
    let modules: Vec<&str> = imports.map(|import| import.module()).collect();
    let names: Vec<&str> = functions.iter().map(|function| function.name.as_str()).collect();
    let is_reactor = module.get_export("_initialize").is_some();
    program::is_program(modules.into_iter(), &names, is_reactor)
}

fn callable(module: &Module) -> Vec<Function> {
    module
        .exports()
        .filter_map(|export| {
            let ExternType::Func(ty) = export.ty() else { return None };
            let name = export.name();
            let results: Vec<_> = ty.results().collect();
            let returns = match results.as_slice() {
                [] => false,
                [wasmtime::ValType::I32] => true,
                _ => return None,
            };
            if ty.params().len() > 0 || known::is_entry(name) {
                return None;
            }
            Some(Function {
                name: name.to_owned(),
                export: module.get_export_index(name)?,
                returns,
                once: name == program::START,
                smoothed: AtomicU64::new(0),
            })
        })
        .collect()
}
