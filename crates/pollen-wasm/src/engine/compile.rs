//! The compile thread: one, of low priority, because compiling a big module takes seconds of
//! every core that it is given. The disk cache is asked first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::oneshot;
use wasmtime::Engine;

use crate::engine::cache::Cache;
use crate::engine::code::Code;
use crate::error::SandboxError;
use crate::sys;

/// Counters of compiling.
#[derive(Default)]
struct Counters {
    compiles: AtomicU64,
    hits: AtomicU64,
}

/// The compile thread and the cache in front of it.
pub(crate) struct Compiler {
    /// A pool of one thread: wasmtime's parallel compilation then stays on it.
    pool: Mutex<Option<ThreadPool>>,
    engine: Engine,
    cache: Option<Arc<Cache>>,
    counters: Arc<Counters>,
}

impl Compiler {
    pub(crate) fn start(engine: Engine, cache: Option<Cache>) -> Result<Self, SandboxError> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(1)
            .thread_name(|_| "pollen-compile".into())
            .start_handler(|_| sys::lower_thread_priority())
            .build()
            .map_err(|e| SandboxError::internal(format!("no thread to compile on: {e}"), false))?;
        let pool = Mutex::new(Some(pool));
        Ok(Self { pool, engine, cache: cache.map(Arc::new), counters: Arc::default() })
    }

    /// The compiled module, from the cache or compiled now. Waits its turn.
    pub(crate) async fn code(&self, wasm: Bytes) -> Result<Code, SandboxError> {
        let (send, receive) = oneshot::channel();
        let (engine, cache) = (self.engine.clone(), self.cache.clone());
        let counters = self.counters.clone();
        {
            let pool = self.pool.lock();
            let Some(pool) = pool.as_ref() else { return Err(closed()) };
            pool.spawn_fifo(move || {
                if !send.is_closed() {
                    let _ = send.send(obtain(&engine, cache.as_deref(), &counters, &wasm));
                }
            });
        }
        receive.await.map_err(|_| closed())?
    }

    /// The module compiled before from this content, if there is an entry. On a thread for files,
    /// not on that for compiling: it takes milliseconds and does not wait its turn behind seconds.
    pub(crate) async fn cached(&self, content: [u8; 32]) -> Option<Code> {
        let (engine, cache) = (self.engine.clone(), self.cache.clone()?);
        let counters = self.counters.clone();
        let loading = tokio::task::spawn_blocking(move || {
            let code = cache.load(&engine, &blake3::Hash::from_bytes(content))?;
            counters.hits.fetch_add(1, Ordering::Relaxed);
            Some(code)
        });
        loading.await.ok()?
    }

    pub(crate) fn compiles(&self) -> u64 {
        self.counters.compiles.load(Ordering::Relaxed)
    }

    pub(crate) fn hits(&self) -> u64 {
        self.counters.hits.load(Ordering::Relaxed)
    }

    /// Ends the thread after the job that it is at; idempotent.
    pub(crate) fn close(&self) {
        drop(self.pool.lock().take());
    }
}

fn closed() -> SandboxError {
    SandboxError::overloaded("the sandbox is shutting down")
}

fn obtain(
    engine: &Engine,
    cache: Option<&Cache>,
    counters: &Counters,
    wasm: &[u8],
) -> Result<Code, SandboxError> {
    if let Some(code) = cache.and_then(|cache| cache.load(engine, &blake3::hash(wasm))) {
        counters.hits.fetch_add(1, Ordering::Relaxed);
        return Ok(code);
    }
    counters.compiles.fetch_add(1, Ordering::Relaxed);
    let code = Code::compile(engine, wasm)?;
    if let Some(cache) = cache
        && let Some(bytes) = code.save()
    {
        cache.store(wasm, &bytes);
    }
    Ok(code)
}
