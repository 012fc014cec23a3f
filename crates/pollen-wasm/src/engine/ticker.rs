//! The epoch ticker: one thread that ticks the engines each millisecond while guests run.
//!
//! Invariant: while any [`Ticker::enter`] guard lives, ticks come. With none for [`IDLE_TICKS`] the
//! thread parks, so an idle node wakes nobody, and sequential calls pay no unpark each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use crate::engine::engines::Engines;
use crate::error::SandboxError;
use crate::sharded::Sharded;
use parking_lot::Mutex;

/// Milliseconds without a running guest after which the ticker parks (a guess).
const IDLE_TICKS: u32 = 50;

/// Length of a tick.
pub(crate) const TICK: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Shared {
    running: Sharded,
    parked: AtomicBool,
    closed: AtomicBool,
    ticks: AtomicU64,
}

/// Handle of the ticker thread.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
    join: Mutex<Option<JoinHandle<()>>>,
}

/// While it lives a guest is running.
pub(crate) struct Running<'a>(&'a Sharded);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

impl Ticker {
    pub(crate) fn start(engines: Arc<Engines>) -> Result<Self, SandboxError> {
        let shared = Arc::new(Shared::default());
        let inner = shared.clone();
        let join = std::thread::Builder::new()
            .name("pollen-epoch".into())
            .spawn(move || run(&inner, &engines))
            .map_err(|e| SandboxError::internal(format!("no thread for the ticker: {e}"), false))?;
        Ok(Self { shared, thread: join.thread().clone(), join: Mutex::new(Some(join)) })
    }

    /// Marks a guest as running and wakes the ticker if it sleeps.
    pub(crate) fn enter(&self) -> Running<'_> {
        // Why SeqCst: this store and the load of `parked` must not pass each other, nor the
        // ticker's mirror pair, or a guest could run without ticks.
        self.shared.running.add(1);
        if self.shared.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(&self.shared.running)
    }

    pub(crate) fn running(&self) -> u64 {
        self.shared.running.sum()
    }

    pub(crate) fn ticks(&self) -> u64 {
        self.shared.ticks.load(Ordering::Relaxed)
    }

    /// Stops the thread and waits for it; idempotent.
    pub(crate) fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.thread.unpark();
        let join = self.join.lock().take();
        if let Some(join) = join {
            // A panic of the ticker has been printed already and leaves nothing to clean up.
            let _ = join.join();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.close();
    }
}

fn run(shared: &Shared, engines: &Engines) {
    let mut idle = 0_u32;
    while !shared.closed.load(Ordering::SeqCst) {
        if shared.running.sum() > 0 {
            idle = 0;
        } else {
            idle = idle.saturating_add(1);
        }
        if idle > IDLE_TICKS {
            shared.parked.store(true, Ordering::SeqCst);
            if shared.running.sum() == 0 && !shared.closed.load(Ordering::SeqCst) {
                std::thread::park();
            }
            shared.parked.store(false, Ordering::SeqCst);
            idle = 0;
            continue;
        }
        std::thread::sleep(TICK);
        engines.tick();
        shared.ticks.fetch_add(1, Ordering::Relaxed);
    }
}
