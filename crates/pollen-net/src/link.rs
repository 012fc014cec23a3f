//! One `pollen/1` connection: Hello, the control stream, probes, and who is silent.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use iroh::{
    TransportAddr,
    endpoint::{Connection, RecvStream, SendStream, VarInt},
};
use pollen_rules::{
    Heard, Silence,
    numbers::{CONTROL_QUEUE, DUPLICATE_GRACE, DUPLICATE_LOOK, HEARTBEAT, SILENCE},
};
use pollen_wire::{
    Id,
    control::{Control, MAX_RECORDS, SignedRecord},
    frame,
    hello::Hello,
    probe::Probe,
};
use tokio::sync::{Notify, mpsc, watch};

use crate::{
    CLOSE_DUPLICATE, CLOSE_PROTOCOL, Net, NetError, NetEvent, VerifiedRecord,
    net::HelloData,
    streams::{FIRST_FRAME, read_frame, verify_record, write_frame},
};

/// Calls under way on one link before the next is refused; the peer allows as many streams.
pub(crate) const MAX_CALLS: usize = 16_384;

/// A connection to one peer, from Hello to its end.
pub struct Link {
    id: u64,
    peer: Id,
    dialled: bool,
    connection: Connection,
    control: mpsc::Sender<Vec<u8>>,
    admitted_here: AtomicBool,
    admitted_there: AtomicBool,
    /// Given up by this side's brain; a duplicate lives on until its calls end.
    closing: AtomicBool,
    admission: Notify,
    calls: AtomicUsize,
    serving: AtomicUsize,
    busy: Notify,
    ejected: watch::Sender<bool>,
    brain_age_ms: AtomicU32,
    brain_heard: parking_lot::Mutex<Instant>,
    heard: parking_lot::Mutex<Instant>,
    nonce: AtomicU64,
    rtt_us: AtomicU64,
}

/// A call of the peer that runs here; counts as under way until dropped.
pub struct Serving(Arc<Link>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Relaxed);
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
    /// Its number on this node, never used twice by one process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The peer's key, proved by the handshake.
    pub fn peer(&self) -> Id {
        self.peer
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

    /// Milliseconds since anything came from the peer; told to within a heartbeat.
    pub fn silent_ms(&self) -> u64 {
        let probe = *self.brain_heard.lock();
        let packet = *self.heard.lock();
        u64::try_from(probe.max(packet).elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Smoothed round trip of the selected path, at most a second old: it is read on each call,
    /// and asking the connection takes its lock.
    pub fn rtt(&self) -> Duration {
        Duration::from_micros(self.rtt_us.load(Relaxed))
    }

    fn sample_rtt(&self) {
        let paths = self.connection.paths();
        if let Some(path) = paths.iter().find(|path| path.is_selected()) {
            let micros = u64::try_from(path.rtt().as_micros()).unwrap_or(u64::MAX);
            self.rtt_us.store(micros, Relaxed);
        }
    }

    /// Whether the selected path is direct, not relayed.
    pub fn is_direct(&self) -> bool {
        self.connection.paths().iter().any(|path| path.is_selected() && path.is_ip())
    }

    /// The peer's address on the selected path, when it is direct.
    pub fn address(&self) -> Option<SocketAddr> {
        self.connection.paths().iter().find(|path| path.is_selected()).and_then(|path| {
            match path.remote_addr() {
                TransportAddr::Ip(address) => Some(*address),
                _ => None,
            }
        })
    }

    /// UDP bytes (sent, received) since the link began.
    pub fn bytes(&self) -> (u64, u64) {
        let stats = self.connection.stats();
        (stats.udp_tx.bytes, stats.udp_rx.bytes)
    }

    /// Calls under way from this side.
    pub fn calls(&self) -> usize {
        self.calls.load(Relaxed)
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
        if code != CLOSE_DUPLICATE {
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

    async fn until_admitted_here(&self) {
        loop {
            let told = self.admission.notified();
            if self.admitted_here.load(Relaxed) {
                return;
            }
            told.await;
        }
    }

    fn probe(&self, answer: bool, nonce: u64, age_ms: u32) {
        let datagram = Probe { answer, nonce, age_ms }.encode();
        // A full buffer or a link without datagrams: the next probe tries again.
        let _ = self.connection.send_datagram(Bytes::copy_from_slice(&datagram));
    }
}

/// Brings a fresh connection up to its Hello and then runs it to its end.
pub(crate) async fn run(net: Net, connection: Connection, dialled: bool) {
    let peer = *connection.remote_id().as_bytes();
    let greeted = tokio::time::timeout(FIRST_FRAME, greet(&net, &connection, dialled)).await;
    let (send, recv, hello) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => return refuse(&net, &connection, dialled, &error).await,
        Err(_) => {
            let error = NetError::Unreachable("no Hello came within 5 s".into());
            return refuse(&net, &connection, dialled, &error).await;
        }
    };
    let (control, frames) = mpsc::channel(CONTROL_QUEUE);
    let link = Arc::new(Link {
        id: net.next_id(),
        peer,
        dialled,
        connection: connection.clone(),
        control,
        admitted_here: AtomicBool::new(false),
        admitted_there: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        admission: Notify::new(),
        calls: AtomicUsize::new(0),
        serving: AtomicUsize::new(0),
        busy: Notify::new(),
        ejected: watch::Sender::new(false),
        brain_age_ms: AtomicU32::new(0),
        brain_heard: parking_lot::Mutex::new(Instant::now()),
        heard: parking_lot::Mutex::new(Instant::now()),
        nonce: AtomicU64::new(1),
        rtt_us: AtomicU64::new(0),
    });
    link.sample_rtt();
    net.insert(&link);
    let remote = crate::net::remote_text(&connection);
    net.up().emit(hello.event(&link, remote)).await;

    // Whichever task ends first ends the link; the others end with it.
    let reason = tokio::select! {
        error = read_control(&net, &link, recv) => error.to_string(),
        error = write_control(send, frames) => error.to_string(),
        () = read_datagrams(&net, &link) => "closed".to_owned(),
        () = accept_calls(&net, &link) => "closed".to_owned(),
        () = watch_silence(&net, &link) => "closed".to_owned(),
        error = connection.closed() => error.to_string(),
    };
    if connection.close_reason().is_none() {
        tracing::warn!(%reason, "closing a link");
        connection.close(VarInt::from_u32(CLOSE_PROTOCOL), reason.as_bytes());
    }
    net.remove(&link);
    let (code, reason) = crate::net::close_code(&connection).unwrap_or((0, reason));
    net.up().emit(NetEvent::LinkClosed { link: link.id, peer, code, reason }).await;
}

async fn refuse(net: &Net, connection: &Connection, dialled: bool, error: &NetError) {
    // Before it is closed from here: what the peer closed it with would be overwritten.
    let told = crate::net::close_code(connection);
    connection.close(VarInt::from_u32(CLOSE_PROTOCOL), error.to_string().as_bytes());
    tracing::debug!(%error, "a link ended before its Hello");
    if dialled {
        let (slug, reason) = match told {
            Some((2, reason)) => ("version-mismatch", reason),
            Some((_, reason)) => ("unreachable", reason),
            None => ("unreachable", error.to_string()),
        };
        let peer = *connection.remote_id().as_bytes();
        net.up().emit(NetEvent::DialFailed { peer, slug: slug.into(), reason }).await;
    }
}

async fn greet(
    net: &Net,
    connection: &Connection,
    dialled: bool,
) -> Result<(SendStream, RecvStream, OwnedHello), NetError> {
    let mine = net.hello().ok_or_else(|| NetError::Unreachable("this node is not ready".into()))?;
    let opened = if dialled { connection.open_bi().await } else { connection.accept_bi().await };
    let (mut send, mut recv) = opened.map_err(|e| NetError::lost("the control stream", e))?;
    let _ = send.set_priority(10);
    write_frame(&mut send, |out| mine.wire(net.boot()).encode(out)).await?;
    let body = read_frame(&mut recv, frame::MAX_HELLO).await?;
    let hello = Hello::decode(&body)
        .map_err(|e| NetError::Invalid(format!("the peer's Hello was refused: {e}")))?;
    Ok((send, recv, OwnedHello::of(&hello)))
}

struct OwnedHello {
    data: HelloData,
    boot: [u8; 16],
}

impl OwnedHello {
    fn of(hello: &Hello<'_>) -> Self {
        let data = HelloData {
            cluster: hello.cluster,
            minor_min: hello.minor_min,
            minor_max: hello.minor_max,
            chain: hello.chain.to_vec(),
        };
        Self { data, boot: hello.boot }
    }

    fn event(self, link: &Link, remote: String) -> NetEvent {
        NetEvent::Hello {
            link: link.id,
            peer: link.peer,
            dialled: link.dialled,
            remote,
            hello: self.data,
            boot: self.boot,
        }
    }
}

async fn read_control(net: &Net, link: &Arc<Link>, mut recv: RecvStream) -> NetError {
    loop {
        let body = match read_frame(&mut recv, frame::MAX_CONTROL).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        let control = match Control::decode(&body) {
            Ok(control) => control,
            Err(error) => {
                return NetError::Invalid(format!("a control frame was refused: {error}"));
            }
        };
        match control {
            Control::Admitted => {
                link.admitted_there.store(true, Relaxed);
                net.refresh(link.peer);
            }
            // Before this side admitted the peer, nothing it says reaches the brain.
            _ if !link.admitted_here.load(Relaxed) => link.until_admitted_here().await,
            _ => {}
        }
        match control {
            Control::Message(body) => {
                let (id, peer, body) = (link.id, link.peer, body.to_vec());
                net.up().emit(NetEvent::Message { link: id, peer, body }).await;
            }
            Control::Records(records) => {
                let event = verified(link, &records).await;
                net.up().emit(event).await;
            }
            Control::Admitted | Control::Unknown(_) => {}
        }
    }
}

/// Verifies a batch; large ones leave the network's threads alone.
async fn verified(link: &Link, records: &[SignedRecord<'_>]) -> NetEvent {
    const INLINE: usize = 8;
    let owned: Vec<VerifiedRecord> = records
        .iter()
        .map(|r| VerifiedRecord { owner: r.owner, body: r.body.to_vec(), signature: r.signature })
        .collect();
    let count = owned.len();
    let check = move || {
        let genuine = |r: &VerifiedRecord| {
            verify_record(&SignedRecord { owner: r.owner, body: &r.body, signature: r.signature })
        };
        owned.into_iter().filter(genuine).collect::<Vec<_>>()
    };
    let records = if count <= INLINE {
        check()
    } else {
        tokio::task::spawn_blocking(check).await.unwrap_or_default()
    };
    let rejected = count - records.len();
    NetEvent::Records { link: link.id, peer: link.peer, records, rejected }
}

async fn write_control(mut send: SendStream, mut frames: mpsc::Receiver<Vec<u8>>) -> NetError {
    while let Some(frame) = frames.recv().await {
        if let Err(error) = send.write_all(&frame).await {
            return NetError::lost("the control stream", error);
        }
    }
    NetError::Unreachable("the link was dropped".into())
}

async fn read_datagrams(net: &Net, link: &Link) {
    while let Ok(datagram) = link.connection.read_datagram().await {
        let Some(probe) = Probe::decode(&datagram) else { continue };
        link.brain_age_ms.store(probe.age_ms, Relaxed);
        *link.brain_heard.lock() = Instant::now();
        if !probe.answer {
            link.probe(true, probe.nonce, net.up().brain_age_ms());
        }
    }
}

async fn accept_calls(net: &Net, link: &Arc<Link>) {
    link.until_admitted_here().await;
    while let Ok((send, recv)) = link.connection.accept_bi().await {
        net.up().serve(link, send, recv);
    }
}

/// Probes while calls are under way and the link is silent; ejects it and takes it back.
async fn watch_silence(net: &Net, link: &Link) {
    let mut received = 0;
    let mut counted = 0;
    let mut silence = Silence::default();
    let began = Instant::now();
    let mut heartbeat = began;
    loop {
        if link.calls() == 0 && !link.is_ejected() {
            tokio::select! {
                () = link.busy.notified() => {}
                () = tokio::time::sleep_until((heartbeat + HEARTBEAT).into()) => {}
            }
        }
        let now = Instant::now();
        if now >= heartbeat + HEARTBEAT {
            heartbeat = now;
            link.sample_rtt();
            let bytes = link.connection.stats().udp_rx.bytes;
            if std::mem::replace(&mut counted, bytes) != bytes {
                *link.heard.lock() = now;
            }
            link.probe(false, link.nonce.fetch_add(1, Relaxed), net.up().brain_age_ms());
        }
        if link.calls() == 0 && !link.is_ejected() {
            continue;
        }
        tokio::time::sleep(SILENCE).await;
        let bytes = link.connection.stats().udp_rx.bytes;
        let heard = std::mem::replace(&mut received, bytes) != bytes;
        let judged = silence.poll(heard, link.rtt(), began.elapsed());
        if judged != Heard::Again {
            link.probe(false, link.nonce.fetch_add(1, Relaxed), net.up().brain_age_ms());
        }
        match judged {
            Heard::Again => {
                link.ejected.send_if_modified(|ejected| std::mem::replace(ejected, false));
            }
            Heard::Nothing => {}
            Heard::Ejected => {
                link.ejected.send_if_modified(|ejected| !std::mem::replace(ejected, true));
            }
        }
    }
}
