//! What the muscles do when the brain is silent (docs/design/protocol.md#liveness): probes report
//! its age so that peers drain this node, the tables' lease runs out by itself, and at the end the
//! process makes room for its supervisor. An OS thread, so that no runtime can starve it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The process ends.
const DEAD: Duration = Duration::from_secs(60);
/// `EX_SOFTWARE` of sysexits: the supervisor restarts.
const EXIT: i32 = 70;

/// When the brain last beat.
pub(crate) struct Heart {
    born: Instant,
    /// Milliseconds after `born`.
    beat: AtomicU64,
    stopped: AtomicBool,
}

impl Heart {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            born: Instant::now(),
            beat: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        })
    }

    pub(crate) fn beat(&self) {
        self.beat.store(self.millis(), Relaxed);
    }

    pub(crate) fn age(&self) -> Duration {
        Duration::from_millis(self.millis().saturating_sub(self.beat.load(Relaxed)))
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Watches until stopped; `state` is printed before the process ends.
    pub(crate) fn watch(self: Arc<Self>, state: impl Fn() -> String + Send + 'static) {
        let watch = move || {
            // A machine that slept wakes with an old beat: its brain gets one more turn.
            let mut warned = false;
            while !self.stopped.load(Relaxed) {
                std::thread::sleep(Duration::from_secs(1));
                if self.age() < DEAD {
                    warned = false;
                } else if !std::mem::replace(&mut warned, true) {
                    tracing::error!(age_s = self.age().as_secs(), "the brain is silent");
                } else if !self.stopped.load(Relaxed) {
                    eprintln!(
                        "pollen: the brain was silent for {} s; ending. {}",
                        self.age().as_secs(),
                        state()
                    );
                    std::process::exit(EXIT);
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("pollen-watchdog".into()).spawn(watch)
        {
            tracing::error!(%error, "no watchdog: the system gives no thread");
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
