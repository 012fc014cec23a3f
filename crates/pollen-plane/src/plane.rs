//! The composition of the muscles: network, sandbox, tables, slots, doors, counters, two runtimes.

use std::{
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use pollen_net::{
    Link, Net, NetConfig, NetError, NetEvent, RecvStream, SecretKey, SendStream, Upcalls,
};
use pollen_wasm::{Sandbox, SandboxConfig, SandboxError};
use pollen_wire::{Id, fetch::FetchRequest};
use tokio::runtime::Runtime;

use crate::{
    events::{Event, EventQueue, raw},
    inbound,
    load::Loads,
    metrics::{NodeCounters, micros},
    queue::Size,
    seen::SeenIds,
    slots::Slots,
    tables::{Held, Push, SeedEntry, StaleGeneration},
    trace::Spans,
    trees::Memory,
    watchdog::Heart,
};

/// What to do when the content store fails: nothing needs a restart.
pub(crate) const STORE_REMEDY: &str = "make room on the disk, then ask again; see: pln doctor";
/// Size of the instance pool that is asked for.
const INSTANCES: u32 = 10_000;
const TELEMETRY: Duration = Duration::from_millis(500);
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

/// The muscles of one node; cheap to clone, closed once.
#[derive(Clone)]
pub struct Plane(Arc<Inner>);

struct Inner {
    id: Id,
    tables: Held,
    slots: Arc<Slots>,
    seen: SeenIds,
    counters: NodeCounters,
    spans: Spans,
    events: EventQueue,
    heart: Arc<Heart>,
    loads: Loads,
    sandbox: Sandbox,
    memory_bytes: u64,
    net: std::sync::OnceLock<Net>,
    closing: AtomicBool,
    closed: AtomicBool,
    runtimes: Mutex<Option<Runtimes>>,
    handle: tokio::runtime::Handle,
}

struct Runtimes {
    net: Runtime,
    guest: Runtime,
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
        let plane = Self(Arc::new(Inner {
            id: *config.secret.public().as_bytes(),
            tables: Held::default(),
            slots: Slots::new(Size::of(cores as u64), {
                let (sandbox, total) = (sandbox.clone(), config.memory_bytes);
                move || memory(&sandbox, total)
            }),
            seen: SeenIds::default(),
            counters: NodeCounters::default(),
            spans: Spans::default(),
            events: EventQueue::new(config.event_capacity, wake),
            heart: Heart::new(),
            loads: Loads::default(),
            sandbox,
            memory_bytes: config.memory_bytes,
            net: std::sync::OnceLock::new(),
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

    /// This node's public key.
    pub fn id(&self) -> Id {
        self.0.id
    }

    /// The network side.
    pub fn net(&self) -> &Net {
        // Set before `start` returns, and nothing is served before that.
        self.0.net.get_or_init(|| unreachable!("the network is up before anything is served"))
    }

    /// The runtime that serves network and doors.
    pub fn handle(&self) -> &tokio::runtime::Handle {
        &self.0.handle
    }

    /// The queue towards the brain.
    pub fn events(&self) -> &EventQueue {
        &self.0.events
    }

    /// The pushed tables.
    pub fn tables(&self) -> &Held {
        &self.0.tables
    }

    pub(crate) fn slots(&self) -> &Arc<Slots> {
        &self.0.slots
    }

    pub(crate) fn seen(&self) -> &SeenIds {
        &self.0.seen
    }

    /// The loads made from here.
    pub fn loads(&self) -> &Loads {
        &self.0.loads
    }

    pub(crate) fn counters(&self) -> &NodeCounters {
        &self.0.counters
    }

    /// The finished spans of sampled calls.
    pub fn spans(&self) -> &Spans {
        &self.0.spans
    }

    /// Milliseconds since the brain's last beat.
    pub(crate) fn brain_age(&self) -> u32 {
        u32::try_from(self.0.heart.age().as_millis()).unwrap_or(u32::MAX)
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.0.sandbox
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.0.closing.load(Relaxed)
    }

    pub(crate) fn memory(&self) -> Memory {
        memory(&self.0.sandbox, self.0.memory_bytes)
    }

    /// What a guest counts at least, so that instances do not run out before memory does; bytes.
    pub(crate) fn least_guest(&self) -> u64 {
        self.0.memory_bytes / self.0.sandbox.instances_limit()
    }

    /// The brain lives.
    pub fn beat(&self) {
        self.0.heart.beat();
    }

    /// Applies a push; members that left lose their links at once.
    pub fn push(&self, push: Push) -> Result<(), StaleGeneration> {
        for peer in self.0.tables.push(push)? {
            if let Some(link) = self.net().link(peer) {
                self.net().close_link(link.id(), 4, "no member any more");
            }
        }
        Ok(())
    }

    /// Checks held content for being a module; ends in `Event::Inspected`.
    pub fn inspect(&self, request: u64, content: Id) {
        let plane = self.clone();
        self.0.handle.spawn(async move {
            let read = plane.net().content().read(content).await;
            let mut event = (0, Vec::new(), String::new(), String::new(), String::new());
            let mut memory_bytes = 0;
            match read {
                Err(error) => {
                    (event.2, event.3) = (error.slug().to_owned(), error.to_string());
                    event.4 = STORE_REMEDY.to_owned();
                }
                Ok(bytes) => {
                    event.0 = bytes.len() as u64;
                    // Parsing a large module takes milliseconds: not on a network thread.
                    let inspected =
                        tokio::task::spawn_blocking(move || Sandbox::inspect(&bytes)).await;
                    match inspected {
                        Ok(Ok(info)) => {
                            (event.1, memory_bytes) = (info.functions, info.minimum_memory_bytes);
                        }
                        Ok(Err(error)) => {
                            event.2 = error.slug().to_owned();
                            event.3 = error.reason().to_owned();
                            event.4 = error.remedy().to_owned();
                        }
                        Err(error) => {
                            (event.2, event.3) = ("internal".to_owned(), error.to_string());
                        }
                    }
                }
            }
            let (size, functions, slug, reason, remedy) = event;
            let event = Event::Inspected {
                request,
                content,
                size,
                functions,
                memory_bytes,
                slug,
                reason,
                remedy,
            };
            plane.events().emit(event).await;
        });
    }

    /// Refuses new calls from now on; those under way go on.
    pub fn refuse_calls(&self) {
        self.0.closing.store(true, Relaxed);
        self.0.loads.end(None);
    }

    /// Refuses new calls, waits for those under way up to `grace`, then stops everything.
    /// Idempotent; must not be called from one of the runtimes' threads.
    pub fn close(&self, grace: Duration) {
        self.refuse_calls();
        if self.0.closed.swap(true, Relaxed) {
            return;
        }
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

    /// Whether `close` began.
    pub fn is_closed(&self) -> bool {
        self.is_closing()
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

    async fn report(self) {
        let mut tick = tokio::time::interval(TELEMETRY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut turns = 0u32;
        loop {
            tick.tick().await;
            self.0.events.telemetry(self.telemetry());
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(30) {
                self.0.sandbox.reap();
            }
        }
    }

    fn telemetry(&self) -> Event {
        let peers = self.net().linked();
        let peers = peers.iter().map(|link| {
            let (sent, received) = link.bytes();
            let rtt = micros(link.rtt());
            let (silent, brain) = (link.silent_ms(), link.brain_age_ms());
            (raw(&link.peer()), rtt, sent, received, link.is_direct(), silent, brain)
        });
        let tables = self.0.tables.load();
        let seeds = tables.seeds().map(|entry| {
            let counters = &entry.local.counters;
            let (good, bad) = counters.executed.good_and_bad();
            (
                raw(&entry.row.seed),
                counters.demand.sum(),
                bad,
                counters.in_flight.sum(),
                self.0.slots.queued(),
                counters.run_us.load(),
                good,
                counters.faults.load(Relaxed),
            )
        });
        let (events_dropped, control_stalls) = self.0.events.losses();
        Event::Telemetry {
            peers: peers.collect(),
            seeds: seeds.collect(),
            memory_bytes: self.0.memory_bytes.saturating_sub(self.0.sandbox.memory_available()),
            events_dropped,
            control_stalls,
        }
    }

    fn state_text(&self) -> String {
        format!(
            "running {}, queued {}, events waiting {}, links {}, generation {}",
            self.0.slots.running(),
            self.0.slots.queued(),
            self.0.events.len(),
            self.0.net.get().map_or(0, |net| net.linked().len()),
            self.0.tables.load().generation,
        )
    }
}

impl Upcalls for Plane {
    fn emit(&self, event: NetEvent) -> BoxFuture<'_, ()> {
        Box::pin(self.0.events.emit(event.into()))
    }

    fn serve(&self, link: &Arc<Link>, send: SendStream, recv: RecvStream) {
        tokio::spawn(inbound::serve(self.clone(), link.clone(), send, recv));
    }

    fn may_fetch(&self, peer: &Id, request: &FetchRequest<'_>) -> Result<(), &'static str> {
        let tables = self.0.tables.load();
        if !self.0.tables.is_leased() || !tables.peers.contains_key(peer) {
            return Err("denied");
        }
        let lists = |entry: &Arc<SeedEntry>| {
            entry.row.content == request.content && request.path == "module"
        };
        if tables.seed(&request.seed).is_some_and(lists) { Ok(()) } else { Err("blob-not-found") }
    }

    fn brain_age_ms(&self) -> u32 {
        self.brain_age()
    }
}

impl From<NetEvent> for Event {
    fn from(event: NetEvent) -> Self {
        match event {
            NetEvent::Hello { link, peer, dialled, remote, hello, boot } => Self::Hello {
                link,
                peer,
                dialled,
                remote,
                cluster: hello.cluster,
                minor_min: hello.minor_min,
                minor_max: hello.minor_max,
                boot: raw(&boot),
                chain: raw(&hello.chain),
            },
            NetEvent::LinkClosed { link, peer, code, reason } => {
                Self::LinkClosed { link, peer, code, reason }
            }
            NetEvent::DialFailed { peer, slug, reason } => Self::DialFailed { peer, slug, reason },
            NetEvent::Message { link, peer, body } => {
                Self::Message { link, peer, body: body.into() }
            }
            NetEvent::Records { link, peer, records, rejected } => Self::Records {
                link,
                peer,
                records: records
                    .into_iter()
                    .map(|r| (raw(&r.owner), r.body.into(), raw(&r.signature)))
                    .collect(),
                rejected: rejected as u64,
            },
            NetEvent::Join { request, peer, remote, body } => {
                Self::Join { request, peer, remote, body: body.into() }
            }
        }
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

/// A fresh call id: 128 random bits.
pub(crate) fn call_id() -> [u8; 16] {
    let mut id = [0; 16];
    let (low, high) = id.split_at_mut(8);
    low.copy_from_slice(&draw().to_le_bytes());
    high.copy_from_slice(&draw().to_le_bytes());
    id
}

/// 64 random bits: a per-thread wyrand seeded by the system, since a syscall a call costs too much.
pub(crate) fn draw() -> u64 {
    use std::cell::Cell;
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0) });
    STATE.with(|state| {
        if state.get() == 0 {
            let mut seed = [0; 8];
            // Without system entropy the address of a thread's own cell still differs by thread.
            if getrandom::fill(&mut seed).is_err() {
                seed = (std::ptr::from_ref(state) as u64).to_le_bytes();
            }
            state.set(u64::from_le_bytes(seed) | 1);
        }
        let next = state.get().wrapping_add(0xa076_1d64_78bd_642f);
        state.set(next);
        let wide = u128::from(next) * u128::from(next ^ 0xe703_7ed1_a0b4_28db);
        (wide >> 64) as u64 ^ wide as u64
    })
}

fn memory(sandbox: &Sandbox, total: u64) -> Memory {
    Memory { free: sandbox.memory_available(), reserve: total / 4, total }
}
