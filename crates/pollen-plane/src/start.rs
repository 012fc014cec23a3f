//! How the muscles begin and end: two runtimes, what runs on them, and the order of both.

use std::{
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use pollen_net::{Net, NetConfig, NetError, SecretKey};
use pollen_seal::Opener;
use pollen_wasm::{Sandbox, SandboxConfig, SandboxError};
use tokio::runtime::Runtime;

use crate::{
    counters::NodeCounters,
    events::EventQueue,
    plane::{Inner, Plane, Runtimes, memory},
    queue::Size,
    seen::SeenIds,
    slots::Slots,
    spans::Spans,
    tables::Held,
    watchdog::Heart,
};

/// Size of the instance pool that is asked for.
const INSTANCES: u32 = 11_500;
const GUEST_NICE: i32 = 10;

/// What a node's muscles are built from.
pub struct PlaneConfig {
    /// The node's key.
    pub secret: SecretKey,
    /// Drawn at process start.
    pub boot: [u8; 16],
    /// The node's folder: `content/`, `code/` and the sockets live in it.
    pub directory: PathBuf,
    /// Budget for guests, bytes.
    pub memory_bytes: u64,
    /// Disk that compiled code may take, bytes; at 0 nothing is kept.
    pub code_cache_bytes: u64,
    /// Room for events.
    pub event_capacity: usize,
    /// Where to listen for links.
    pub listen: Vec<SocketAddr>,
}

/// Why the muscles could not start or do as told.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// From the network side.
    #[error(transparent)]
    Net(#[from] NetError),
    /// From the sandbox.
    #[error("{}", .0.reason())]
    Sandbox(SandboxError),
    /// The operating system gave no thread or socket.
    #[error("{0}")]
    System(String),
}

impl PlaneError {
    /// The stable name in the error table.
    pub fn slug(&self) -> &str {
        match self {
            Self::Net(error) => error.slug(),
            Self::Sandbox(error) => error.slug(),
            Self::System(_) => "state-unusable",
        }
    }
}

impl Plane {
    /// Builds everything and binds; nothing is served from a door yet. `wake` is the writing end
    /// that rings for the brain. On an error nothing is left running.
    pub fn start(config: PlaneConfig, wake: UnixStream) -> Result<Self, PlaneError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (net, guest) =
            runtimes(cores).map_err(|e| PlaneError::System(format!("no runtime: {e}")))?;
        let sandbox = Sandbox::new(SandboxConfig {
            memory_bytes: config.memory_bytes,
            instances: INSTANCES,
            cache_dir: Some(config.directory.join("code")),
            cache_key: blake3::derive_key("pollen 2026 code cache", &config.secret.to_bytes()),
            cache_quota_bytes: config.code_cache_bytes,
            guest: guest.handle().clone(),
        })
        .map_err(PlaneError::Sandbox)?;
        let opener = Opener::of(&config.secret.to_bytes());
        let opener = opener.map_err(|e| PlaneError::System(format!("no key to open with: {e}")))?;
        let plane = Self(Arc::new(Inner {
            id: *config.secret.public().as_bytes(),
            tables: Held::default(),
            slots: Slots::new(Size::of(cores as u64), {
                let (sandbox, total) = (sandbox.clone(), config.memory_bytes);
                move || memory(&sandbox, total)
            }),
            seen: SeenIds::default(),
            counters: NodeCounters::default(),
            spans: Arc::new(Spans::default()),
            events: EventQueue::new(config.event_capacity, wake),
            heart: Heart::new(),
            sandbox,
            opener,
            memory_bytes: config.memory_bytes,
            net: OnceLock::new(),
            tunnels: Mutex::new(None),
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            handle: net.handle().clone(),
            runtimes: Mutex::new(Some(Runtimes { net, guest })),
        }));
        let started = plane.0.handle.block_on(Net::start(
            NetConfig {
                secret: config.secret,
                boot: config.boot,
                listen: config.listen,
                content: config.directory.join("content"),
            },
            Arc::new(plane.clone()),
        ));
        match started {
            Ok(net) => {
                let _ = plane.0.net.set(net);
            }
            Err(error) => {
                plane.stop_threads(Duration::ZERO);
                return Err(error.into());
            }
        }
        plane.0.handle.spawn(plane.clone().report());
        plane.0.heart.clone().watch({
            let plane = plane.clone();
            move || plane.state_text()
        });
        Ok(plane)
    }

    /// Refuses new calls, waits for those under way up to `grace`, then stops everything.
    /// Idempotent; must not be called from one of the runtimes' threads.
    pub fn close(&self, grace: Duration) {
        self.refuse_calls();
        if self.0.closed.swap(true, Relaxed) {
            return;
        }
        // Who takes them holds this plane.
        drop(self.0.tunnels.lock().take());
        let end = Instant::now() + grace;
        while self.is_busy() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(net) = self.0.net.get() {
            self.0.handle.block_on(net.close());
        }
        self.stop_threads(Duration::from_secs(2));
    }

    /// Whether a call is under way: running or queued here, suspended on a nested one (it holds no
    /// slot then), or sent to a peer from a door of ours.
    fn is_busy(&self) -> bool {
        let tables = self.0.tables.load();
        self.0.slots.running() + self.0.slots.queued() > 0
            || tables.seeds().any(|entry| entry.local.counters.in_flight.sum() > 0)
            || self.0.net.get().is_some_and(|net| net.linked().iter().any(|l| l.calls() > 0))
    }

    fn stop_threads(&self, timeout: Duration) {
        self.0.heart.stop();
        let runtimes = self.0.runtimes.lock().take();
        if let Some(runtimes) = runtimes {
            // Guests end first, while the ticker still interrupts them.
            runtimes.guest.shutdown_timeout(timeout);
            runtimes.net.shutdown_timeout(timeout);
        }
        self.0.sandbox.close();
        self.0.events.close();
    }
}

/// Two runtimes, so that a burning guest never looks like a dead node
/// (docs/design/sandbox.md#two-runtimes).
fn runtimes(cores: usize) -> std::io::Result<(Runtime, Runtime)> {
    let net = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores)
        .event_interval(13)
        .thread_name("pollen-net")
        .enable_all()
        .build()?;
    let guest = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores)
        .thread_name("pollen-guest")
        .on_thread_start(lower_priority)
        .enable_all()
        .build()?;
    Ok((net, guest))
}

/// Guests yield to the network where the two compete for a core.
#[allow(unsafe_code)]
fn lower_priority() {
    // SAFETY: setpriority has no memory effects; on Linux, who = 0 is the calling thread.
    let refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, GUEST_NICE) } != 0;
    if refused {
        tracing::debug!("the guest threads keep their priority");
    }
}
