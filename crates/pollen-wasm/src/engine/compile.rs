//! Compiling: two threads of low priority, because a big module takes seconds of every core that it is
//! given. The disk cache is asked first, and before it what is in use already.
//!
//! Decides: which thread compiles what: a big module must not hold up the small ones.
//! Invariant: all seeds of one module share one piece of code.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::oneshot;

use crate::engine::cache::{Cache, Place};
use crate::engine::code::{Code, Form};
use crate::engine::engines::Engines;
use crate::error::SandboxError;
use crate::sys;

/// A module of this size or more is compiled on the thread of the big ones, bytes. Measured: 4 MiB take
/// about 2 s, the Python runner (29 MB) takes 9. Guess for the boundary.
const BIG: usize = 4 << 20;

/// Counters of compiling.
#[derive(Default)]
struct Counters {
    compiles: AtomicU64,
    hits: AtomicU64,
}

/// The compile threads and the caches in front of them.
pub(crate) struct Compiler {
    /// Pools of one thread each: wasmtime's parallel compilation then stays on it.
    pools: Mutex<Option<Pools>>,
    shop: Arc<Shop>,
}

struct Pools {
    small: ThreadPool,
    big: ThreadPool,
}

/// What the threads work with.
struct Shop {
    engines: Arc<Engines>,
    place: Option<Place>,
    core: OnceLock<Option<Cache>>,
    components: OnceLock<Option<Cache>>,
    /// The code in use, by the BLAKE3 of its module.
    held: Mutex<HashMap<[u8; 32], Weak<Code>>>,
    counters: Counters,
}

impl Compiler {
    pub(crate) fn start(engines: Arc<Engines>, place: Option<Place>) -> Result<Self, SandboxError> {
        let pools = Pools { small: pool("pollen-compile")?, big: pool("pollen-compile-b")? };
        let shop = Arc::new(Shop {
            engines,
            place,
            core: OnceLock::new(),
            components: OnceLock::new(),
            held: Mutex::default(),
            counters: Counters::default(),
        });
        shop.cache(Form::Core)?;
        Ok(Self { pools: Mutex::new(Some(pools)), shop })
    }

    /// The compiled module: in use, from the cache or compiled now. Waits its turn.
    pub(crate) async fn code(&self, wasm: Bytes) -> Result<Arc<Code>, SandboxError> {
        let (send, receive) = oneshot::channel();
        let shop = self.shop.clone();
        {
            let pools = self.pools.lock();
            let Some(pools) = pools.as_ref() else { return Err(closed()) };
            let pool = if wasm.len() < BIG { &pools.small } else { &pools.big };
            pool.spawn_fifo(move || {
                if !send.is_closed() {
                    let _ = send.send(shop.obtain(&wasm));
                    if wasm.len() >= BIG {
                        // The Python runner left 200 MiB of free memory in this thread's arena.
                        sys::trim();
                    }
                }
            });
        }
        receive.await.map_err(|_| closed())?
    }

    /// The module compiled before from this content, if it is in use or there is an entry. On a thread
    /// for files, not on those for compiling: it takes milliseconds and does not wait its turn behind
    /// seconds.
    pub(crate) async fn cached(&self, content: [u8; 32]) -> Option<Arc<Code>> {
        if let Some(code) = self.shop.in_use(&content) {
            return Some(code);
        }
        let shop = self.shop.clone();
        tokio::task::spawn_blocking(move || shop.load(&blake3::Hash::from_bytes(content)))
            .await
            .ok()?
    }

    pub(crate) fn compiles(&self) -> u64 {
        self.shop.counters.compiles.load(Ordering::Relaxed)
    }

    pub(crate) fn hits(&self) -> u64 {
        self.shop.counters.hits.load(Ordering::Relaxed)
    }

    /// Ends the threads after the jobs that they are at; idempotent.
    pub(crate) fn close(&self) {
        drop(self.pools.lock().take());
    }
}

fn pool(name: &'static str) -> Result<ThreadPool, SandboxError> {
    ThreadPoolBuilder::new()
        .num_threads(1)
        .thread_name(move |_| name.into())
        .start_handler(|_| sys::lower_thread_priority())
        .build()
        .map_err(|e| SandboxError::internal(format!("no thread to compile on: {e}"), false))
}

fn closed() -> SandboxError {
    SandboxError::overloaded("the sandbox is shutting down")
}

impl Shop {
    /// The cache of a form, if there is a folder for it.
    fn cache(&self, form: Form) -> Result<Option<&Cache>, SandboxError> {
        let Some(place) = &self.place else { return Ok(None) };
        let (engine, rung) = self.engines.get(form)?;
        let slot = match form {
            Form::Core => &self.core,
            Form::Component => &self.components,
        };
        let open = || Cache::open(place.clone(), form, engine, &rung.to_string());
        Ok(slot.get_or_init(open).as_ref())
    }

    fn in_use(&self, id: &[u8; 32]) -> Option<Arc<Code>> {
        self.held.lock().get(id)?.upgrade()
    }

    /// Remembers code while it is in use; another thread may have been quicker.
    fn hold(&self, id: &blake3::Hash, code: Code) -> Arc<Code> {
        let mut held = self.held.lock();
        if let Some(code) = held.get(id.as_bytes()).and_then(Weak::upgrade) {
            return code;
        }
        held.retain(|_, code| code.strong_count() > 0);
        let code = Arc::new(code);
        held.insert(*id.as_bytes(), Arc::downgrade(&code));
        code
    }

    fn load(&self, id: &blake3::Hash) -> Option<Arc<Code>> {
        let found = self.load_as(Form::Core, id).or_else(|| {
            let may_be = self.place.as_ref().is_some_and(|place| place.may_hold_component(id));
            may_be.then(|| self.load_as(Form::Component, id)).flatten()
        })?;
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
        Some(self.hold(id, found))
    }

    fn load_as(&self, form: Form, id: &blake3::Hash) -> Option<Code> {
        self.cache(form).ok()??.load(id)
    }

    fn obtain(&self, wasm: &[u8]) -> Result<Arc<Code>, SandboxError> {
        let (form, id) = (Form::of(wasm), blake3::hash(wasm));
        if let Some(code) = self.in_use(id.as_bytes()) {
            return Ok(code);
        }
        if let Some(code) = self.load_as(form, &id) {
            self.counters.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(self.hold(&id, code));
        }
        self.counters.compiles.fetch_add(1, Ordering::Relaxed);
        let (engine, _) = self.engines.get(form)?;
        let code = Code::compile(engine, wasm)?;
        if let Some(cache) = self.cache(form)?
            && let Some(bytes) = code.save()
        {
            cache.store(wasm, &bytes);
        }
        Ok(self.hold(&id, code))
    }
}
