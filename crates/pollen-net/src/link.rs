//! One `pollen/1` connection as others hold it: what it is, what goes out on it, how it ends.
//! `greet.rs` begins it; `control_stream.rs` and `silence.rs` run on it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use iroh::{
    TransportAddr,
    endpoint::{Connection, ConnectionError, RecvStream, SendStream, VarInt},
};
use pollen_mesh::in_use;
use pollen_rules::numbers::{DUPLICATE_GRACE, DUPLICATE_LOOK};
use pollen_wire::{
    Id, close,
    control::{Control, MAX_RECORDS, SignedRecord},
    frame,
};
use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::error::NetError;

/// Calls under way on one link before the next is refused; the peer allows as many streams.
pub(crate) const MAX_CALLS: usize = 16_384;
/// Calls of one link whose replies come in chunks, before the next waits. If nobody reads them they hold a
/// stream's window of 256 KiB each: 32 MiB of the connection's 64, so that all else has room.
pub(crate) const MAX_STREAMING: usize = 128;
/// So long it waits for its turn, and then is refused. Guess: a thousand small answers go in less.
const STREAMING_WAIT: Duration = Duration::from_secs(1);

/// A connection to one peer, from Hello to its end.
pub struct Link {
    id: u64,
    peer: Id,
    boot: [u8; 16],
    dialled: bool,
    pub(crate) connection: Connection,
    control: mpsc::Sender<Vec<u8>>,
    pub(crate) admitted_here: AtomicBool,
    pub(crate) admitted_there: AtomicBool,
    /// Given up by this side's brain; a duplicate lives on until its calls end.
    closing: AtomicBool,
    admission: Notify,
    calls: AtomicUsize,
    serving: AtomicUsize,
    streaming: Arc<Semaphore>,
    /// The part of these that calls of strangers may have.
    strange: Arc<Semaphore>,
    pub(crate) busy: Notify,
    pub(crate) ejected: watch::Sender<bool>,
    pub(crate) brain_age_ms: AtomicU32,
    pub(crate) brain_heard: parking_lot::Mutex<Instant>,
    heard: parking_lot::Mutex<Instant>,
    /// Bytes that had come when somebody looked last.
    counted: AtomicU64,
    pub(crate) nonce: AtomicU64,
    /// An answer to a probe came since somebody looked last.
    pub(crate) answered: AtomicBool,
    rtt_us: AtomicU64,
    path: parking_lot::Mutex<OnPath>,
}

/// The way that the packets of a link go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnPath {
    /// Where the peer is; `None` through other members.
    pub(crate) address: Option<SocketAddr>,
    /// Since when.
    pub(crate) since: Instant,
}

/// A call of the peer that runs here; counts as under way until dropped.
pub struct Serving(Arc<Link>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Relaxed);
    }
}

/// A call to the peer whose reply comes in chunks; counts as one until dropped.
pub struct Streaming {
    _turn: OwnedSemaphorePermit,
    _strange: Option<OwnedSemaphorePermit>,
}

/// Something that waits for the peer beside calls: it is probed and ejected as while one is under way.
pub(crate) struct Watched(Arc<Link>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Relaxed);
    }
}

/// A call's stream to a peer; counts as under way until dropped.
pub struct CallStream {
    /// Towards the callee.
    pub send: SendStream,
    /// From the callee.
    pub recv: RecvStream,
    link: Arc<Link>,
    complete: bool,
}

impl CallStream {
    /// The reply was read to its end: dropping the stream resets nothing.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// The link it runs on.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

impl Drop for CallStream {
    fn drop(&mut self) {
        if !self.complete {
            // Left to itself a dropped stream finishes: a truncated input would look whole.
            let _ = self.send.reset(VarInt::from_u32(0));
            let _ = self.recv.stop(VarInt::from_u32(0));
        }
        self.link.calls.fetch_sub(1, Relaxed);
    }
}

impl Link {
    /// Of a connection that said its Hello. `control` takes the frames of the control stream;
    /// `boot` is of its Hello.
    pub(crate) fn new(
        id: u64,
        connection: Connection,
        (dialled, boot): (bool, [u8; 16]),
        control: mpsc::Sender<Vec<u8>>,
    ) -> Self {
        Self {
            id,
            peer: *connection.remote_id().as_bytes(),
            boot,
            dialled,
            connection,
            control,
            admitted_here: AtomicBool::new(false),
            admitted_there: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            admission: Notify::new(),
            calls: AtomicUsize::new(0),
            serving: AtomicUsize::new(0),
            streaming: Arc::new(Semaphore::new(MAX_STREAMING)),
            strange: Arc::new(Semaphore::new(MAX_STREAMING / 2)),
            busy: Notify::new(),
            ejected: watch::Sender::new(false),
            brain_age_ms: AtomicU32::new(0),
            brain_heard: parking_lot::Mutex::new(Instant::now()),
            heard: parking_lot::Mutex::new(Instant::now()),
            counted: AtomicU64::new(0),
            nonce: AtomicU64::new(1),
            answered: AtomicBool::new(false),
            rtt_us: AtomicU64::new(0),
            path: parking_lot::Mutex::new(OnPath { address: None, since: Instant::now() }),
        }
    }

    /// The way that its packets go, as far as it was told.
    pub(crate) fn on_path(&self) -> OnPath {
        *self.path.lock()
    }

    /// Its packets go another way from now on.
    pub(crate) fn move_to(&self, address: Option<SocketAddr>) {
        *self.path.lock() = OnPath { address, since: Instant::now() };
    }

    /// Its number on this node, never used twice by one process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The peer's key, proved by the handshake.
    pub fn peer(&self) -> Id {
        self.peer
    }

    /// What the peer drew when its process began.
    pub(crate) fn boot(&self) -> [u8; 16] {
        self.boot
    }

    /// Whether this side dialled.
    pub fn dialled(&self) -> bool {
        self.dialled
    }

    /// Both brains admitted it and it is open.
    pub fn is_admitted(&self) -> bool {
        self.admitted_here.load(Relaxed)
            && self.admitted_there.load(Relaxed)
            && self.connection.close_reason().is_none()
    }

    /// Calls are to be routed around it: silent although asked (docs/design/protocol.md#liveness).
    pub fn is_ejected(&self) -> bool {
        *self.ejected.borrow()
    }

    /// Resolves when the link is ejected. A link that closes ends its streams by itself.
    pub async fn ejected(&self) {
        // Err: the sender is a field of this link, so it is still there.
        let _ = self.ejected.subscribe().wait_for(|ejected| *ejected).await;
    }

    /// How long ago the peer's brain beat, as far as probes told, in milliseconds.
    pub fn brain_age_ms(&self) -> u64 {
        let heard =
            u64::try_from(self.brain_heard.lock().elapsed().as_millis()).unwrap_or(u64::MAX);
        u64::from(self.brain_age_ms.load(Relaxed)).saturating_add(heard)
    }

    /// Milliseconds since anything came from the peer, as far as anybody looked: telemetry does,
    /// twice a second.
    pub fn silent_ms(&self) -> u64 {
        u64::try_from(self.heard_at().elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When something came last, as far as anybody looked.
    pub(crate) fn heard_at(&self) -> Instant {
        let probe = *self.brain_heard.lock();
        let packet = *self.heard.lock();
        probe.max(packet)
    }

    /// UDP bytes that came since the link began; whether any did since the last look is noted.
    pub(crate) fn received(&self) -> u64 {
        let (_, received) = self.bytes();
        received
    }

    /// Smoothed round trip of the selected path, at most a second old: it is read on each call,
    /// and asking the connection takes its lock.
    pub fn rtt(&self) -> Duration {
        Duration::from_micros(self.rtt_us.load(Relaxed))
    }

    pub(crate) fn sample_rtt(&self) {
        if let Some(path) = in_use(&self.connection.paths()) {
            let micros = u64::try_from(path.rtt().as_micros()).unwrap_or(u64::MAX);
            self.rtt_us.store(micros, Relaxed);
        }
    }

    /// Whether the selected path is direct, not relayed.
    pub fn is_direct(&self) -> bool {
        in_use(&self.connection.paths()).is_some_and(|path| path.is_ip())
    }

    /// The peer's address on the selected path, when it is direct.
    pub fn address(&self) -> Option<SocketAddr> {
        in_use(&self.connection.paths()).and_then(|path| match path.remote_addr() {
            TransportAddr::Ip(address) => Some(*address),
            _ => None,
        })
    }

    /// UDP bytes (sent, received) since the link began. This is a look.
    pub fn bytes(&self) -> (u64, u64) {
        let stats = self.connection.stats();
        let received = stats.udp_rx.bytes;
        if self.counted.swap(received, Relaxed) != received {
            *self.heard.lock() = Instant::now();
        }
        (stats.udp_tx.bytes, received)
    }

    /// Calls under way from this side.
    pub fn calls(&self) -> usize {
        self.calls.load(Relaxed)
    }

    /// Counts a call whose reply comes in chunks, when its turn comes. `Overloaded` when it does not come
    /// within a second, before anything was sent. Half of the turns are never a stranger's.
    pub async fn begin_streaming(&self, is_stranger: bool) -> Result<Streaming, NetError> {
        let turns = async {
            let strange = match is_stranger {
                true => Some(self.strange.clone().acquire_owned().await?),
                false => None,
            };
            Ok::<_, AcquireError>(Streaming {
                _turn: self.streaming.clone().acquire_owned().await?,
                _strange: strange,
            })
        };
        match tokio::time::timeout(STREAMING_WAIT, turns).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => {
                let reason = format!("{MAX_STREAMING} streamed calls are under way to that peer");
                Err(NetError::Overloaded(reason))
            }
        }
    }

    /// Watches the peer as while a call is under way.
    pub(crate) fn watch(self: &Arc<Self>) -> Watched {
        if self.calls.fetch_add(1, Relaxed) == 0 {
            self.busy.notify_one();
        }
        Watched(self.clone())
    }

    /// Opens a stream for one call. `Overloaded` at the limit, before anything was sent.
    pub async fn open_call(self: &Arc<Self>) -> Result<CallStream, NetError> {
        let before = self.calls.fetch_add(1, Relaxed);
        if before >= MAX_CALLS {
            self.calls.fetch_sub(1, Relaxed);
            return Err(NetError::Overloaded(format!(
                "{MAX_CALLS} calls are under way to that peer"
            )));
        }
        if before == 0 {
            self.busy.notify_one();
        }
        match self.connection.open_bi().await {
            Ok((send, recv)) => Ok(CallStream { send, recv, link: self.clone(), complete: false }),
            Err(error) => {
                self.calls.fetch_sub(1, Relaxed);
                Err(NetError::lost("opening a call", error))
            }
        }
    }

    /// Queues one control frame; `Overloaded` when the peer does not keep up.
    pub(crate) fn queue(&self, control: &Control<'_>) -> Result<(), NetError> {
        let mut out = Vec::new();
        frame::append(&mut out, 0, |out| control.encode(out));
        if out.len() > frame::MAX_CONTROL {
            return Err(NetError::Invalid("a message is over 1 MiB".into()));
        }
        self.control.try_send(out).map_err(|_| {
            NetError::Overloaded(
                "the control queue of that link is full or the link is gone".into(),
            )
        })
    }

    /// Queues records in as many frames as their size asks for.
    pub(crate) fn queue_records(&self, records: &[SignedRecord<'_>]) -> Result<(), NetError> {
        let mut batch = Vec::new();
        let mut size = 0;
        for record in records {
            let cost = record.body.len() + 128;
            if !batch.is_empty()
                && (size + cost > frame::MAX_CONTROL - 1024 || batch.len() >= MAX_RECORDS as usize)
            {
                self.queue(&Control::Records(std::mem::take(&mut batch)))?;
                size = 0;
            }
            size += cost;
            batch.push(*record);
        }
        if batch.is_empty() { Ok(()) } else { self.queue(&Control::Records(batch)) }
    }

    /// This side's brain admitted it and has not given it up: what is said on it is heard.
    pub(crate) fn is_speaking(&self) -> bool {
        self.admitted_here.load(Relaxed)
            && !self.closing.load(Relaxed)
            && self.connection.close_reason().is_none()
    }

    /// This side's brain said yes; tells the peer.
    pub(crate) fn admit(&self) -> Result<(), NetError> {
        self.admitted_here.store(true, Relaxed);
        self.admission.notify_waiters();
        self.queue(&Control::Admitted)
    }

    /// Closes with a code the peer sees; a duplicate may finish its calls first.
    pub(crate) fn close(self: &Arc<Self>, code: u32, reason: &str) {
        self.closing.store(true, Relaxed);
        let reason = reason.as_bytes().to_vec();
        let link = self.clone();
        if code != close::DUPLICATE_LINK {
            self.connection.close(VarInt::from_u32(code), &reason);
            return;
        }
        tokio::spawn(async move {
            let end = Instant::now() + DUPLICATE_GRACE;
            let mut idle = 0;
            while idle < 2 && Instant::now() < end {
                tokio::time::sleep(DUPLICATE_LOOK).await;
                let is_idle = link.calls() + link.serving.load(Relaxed) == 0;
                idle = if is_idle { idle + 1 } else { 0 };
            }
            link.connection.close(VarInt::from_u32(code), &reason);
        });
    }

    /// A call of the peer runs here as long as the guard lives.
    pub fn begin_serving(self: &Arc<Self>) -> Serving {
        self.serving.fetch_add(1, Relaxed);
        Serving(self.clone())
    }

    pub(crate) async fn until_admitted_here(&self) {
        loop {
            let told = self.admission.notified();
            if self.admitted_here.load(Relaxed) {
                return;
            }
            told.await;
        }
    }
}

/// The address that the packets of a connection come from; empty when they come through others.
pub(crate) fn remote_text(connection: &Connection) -> String {
    let address = in_use(&connection.paths()).and_then(|path| match path.remote_addr() {
        TransportAddr::Ip(address) => Some(address.to_string()),
        _ => None,
    });
    address.unwrap_or_default()
}

/// The code and reason with which the peer closed, if it did.
pub(crate) fn close_code(connection: &Connection) -> Option<(u32, String)> {
    match connection.close_reason()? {
        ConnectionError::ApplicationClosed(close) => {
            let code = u32::try_from(close.error_code.into_inner()).unwrap_or(0);
            Some((code, String::from_utf8_lossy(&close.reason).into_owned()))
        }
        _ => None,
    }
}
