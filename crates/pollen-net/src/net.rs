//! The endpoint: dials, accepts, and the table of links.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use iroh::{
    Endpoint, EndpointAddr, PublicKey, RelayMode, SecretKey, TransportAddr,
    endpoint::{
        ConnectError, ConnectingError, Connection, ConnectionError, Incoming, QuicTransportConfig,
        RecvStream, SendStream, TransportErrorCode, VarInt, presets,
    },
};
use parking_lot::{Mutex, RwLock};
use pollen_rules::numbers::{HANDSHAKE, HEARTBEAT, LINK_IDLE_END};
use pollen_wire::{
    Id,
    control::{Control, SignedRecord},
    fetch::FetchRequest,
    hello::Hello,
};
use tokio::sync::{Notify, Semaphore, futures::Notified, oneshot};

use crate::{
    CLOSE_SHUTTING_DOWN, ContentStore, Link, NetError,
    content::BlobStore,
    link::{self, MAX_CALLS},
};

pub(crate) const LINK: &[u8] = b"pollen/1";
pub(crate) const BULK: &[u8] = b"pollen-bulk/1";
pub(crate) const JOIN: &[u8] = b"pollen-join/1";

/// Handshakes under way from strangers before further ones are ignored.
const MAX_HANDSHAKES: usize = 256;
const CLOSE: Duration = Duration::from_secs(2);

/// How to start the muscles' network side.
pub struct NetConfig {
    /// The node's key.
    pub secret: SecretKey,
    /// Drawn at process start.
    pub boot: [u8; 16],
    /// Where to listen, one address a family; port 0 takes any.
    pub listen: Vec<SocketAddr>,
    /// Folder of the content store.
    pub content: PathBuf,
}

/// What this node says in its Hello, or a peer said in its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloData {
    /// The cluster.
    pub cluster: Id,
    /// Lowest minor version.
    pub minor_min: u16,
    /// Highest minor version.
    pub minor_max: u16,
    /// Opaque to the muscles.
    pub chain: Vec<u8>,
}

impl HelloData {
    pub(crate) fn wire(&self, boot: [u8; 16]) -> Hello<'_> {
        Hello {
            cluster: self.cluster,
            minor_min: self.minor_min,
            minor_max: self.minor_max,
            boot,
            chain: &self.chain,
        }
    }
}

/// A record whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRecord {
    /// Who signed.
    pub owner: Id,
    /// The exact bytes.
    pub body: Vec<u8>,
    /// ed25519.
    pub signature: [u8; 64],
}

/// What the brain is to know; the fields are those of `pollen.core.events`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NetEvent {
    Hello { link: u64, peer: Id, dialled: bool, remote: String, hello: HelloData, boot: [u8; 16] },
    LinkClosed { link: u64, peer: Id, code: u32, reason: String },
    DialFailed { peer: Id, slug: String, reason: String },
    Message { link: u64, peer: Id, body: Vec<u8> },
    Records { link: u64, peer: Id, records: Vec<VerifiedRecord>, rejected: usize },
    Join { request: u64, peer: Id, remote: String, body: Vec<u8> },
}

/// What stands above the network: the call path and the way to the brain.
pub trait Upcalls: Send + Sync + 'static {
    /// Hands an event up; waits while the queue is full, so that the peer feels it.
    fn emit(&self, event: NetEvent) -> BoxFuture<'_, ()>;
    /// Serves one call stream of an admitted peer; must not block.
    fn serve(&self, link: &Arc<Link>, send: SendStream, recv: RecvStream);
    /// Whether the pushed tables let this peer have that content; else the slug to refuse with.
    fn may_fetch(&self, peer: &Id, request: &FetchRequest<'_>) -> Result<(), &'static str>;
    /// Milliseconds since the brain last beat.
    fn brain_age_ms(&self) -> u32;
}

/// The network side of one node; cheap to clone.
#[derive(Clone)]
pub struct Net(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    boot: [u8; 16],
    up: Arc<dyn Upcalls>,
    content: Box<dyn ContentStore>,
    hello: RwLock<Option<Arc<HelloData>>>,
    links: RwLock<HashMap<u64, Arc<Link>>>,
    routes: RwLock<HashMap<Id, Arc<Link>>>,
    bulk: Mutex<HashMap<Id, Arc<tokio::sync::Mutex<Option<Connection>>>>>,
    joins: Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>,
    ids: AtomicU64,
    routed: Notify,
}

impl Net {
    /// Binds, opens the content store and starts to accept. Must run inside a tokio runtime.
    ///
    /// `PortInUse` or `State`; nothing is left running then.
    pub async fn start(config: NetConfig, up: Arc<dyn Upcalls>) -> Result<Self, NetError> {
        let content = Box::new(BlobStore::open(&config.content).await?);
        let mut builder = Endpoint::builder(presets::Minimal)
            .secret_key(config.secret)
            .relay_mode(RelayMode::Disabled)
            .alpns(vec![LINK.to_vec(), BULK.to_vec(), JOIN.to_vec()])
            .transport_config(transport())
            .clear_ip_transports();
        for address in &config.listen {
            builder = builder
                .bind_addr(*address)
                .map_err(|e| NetError::Invalid(format!("cannot listen on {address}: {e}")))?;
        }
        let endpoint = builder.bind().await.map_err(|e| {
            let wanted: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
            let reason = format!("cannot bind {} (udp): {e:#}", wanted.join(", "));
            if is_foreign(&e) { NetError::Invalid(reason) } else { NetError::PortInUse(reason) }
        })?;
        let net = Self(Arc::new(Inner {
            endpoint,
            boot: config.boot,
            up,
            content,
            hello: RwLock::default(),
            links: RwLock::default(),
            routes: RwLock::default(),
            bulk: Mutex::default(),
            joins: Mutex::default(),
            ids: AtomicU64::new(1),
            routed: Notify::new(),
        }));
        tokio::spawn(net.clone().accept());
        Ok(net)
    }

    /// This node's public key.
    pub fn id(&self) -> Id {
        *self.0.endpoint.id().as_bytes()
    }

    /// The addresses bound.
    pub fn bound(&self) -> Vec<SocketAddr> {
        self.0.endpoint.bound_sockets()
    }

    /// What every later Hello says; before it, peers are refused.
    pub fn set_hello(&self, hello: HelloData) {
        *self.0.hello.write() = Some(Arc::new(hello));
    }

    /// Tries to reach a peer; ends in `Hello` or `DialFailed`.
    pub fn dial(&self, peer: Id, addresses: Vec<SocketAddr>) {
        let net = self.clone();
        tokio::spawn(async move {
            match net.connect(peer, &addresses, LINK).await {
                Ok(connection) => link::run(net, connection, true).await,
                Err(error) => {
                    let (slug, reason) = (error.slug().to_owned(), error.to_string());
                    net.up().emit(NetEvent::DialFailed { peer, slug, reason }).await;
                }
            }
        });
    }

    /// The brain admits a link; an unknown link is not an error, it is already gone.
    pub fn admit(&self, link: u64) {
        if let Some(link) = self.by_id(link) {
            let _ = link.admit();
            self.refresh(link.peer());
        }
    }

    /// The brain ends a link, or refuses one.
    pub fn close_link(&self, link: u64, code: u32, reason: &str) {
        if let Some(link) = self.by_id(link) {
            self.0.routes.write().retain(|_, held| held.id() != link.id());
            link.close(code, reason);
            self.refresh_except(link.peer(), Some(link.id()));
        }
    }

    /// Queues a message to an admitted peer.
    pub fn send_message(&self, peer: Id, body: &[u8]) -> Result<(), NetError> {
        self.speaking(peer)?.queue(&Control::Message(body))
    }

    /// Queues records to an admitted peer.
    pub fn send_records(&self, peer: Id, records: &[SignedRecord<'_>]) -> Result<(), NetError> {
        self.speaking(peer)?.queue_records(records)
    }

    /// The link over which calls to a peer go.
    pub fn link(&self, peer: Id) -> Option<Arc<Link>> {
        self.0.routes.read().get(&peer).cloned()
    }

    /// Ends when a link to some peer has become usable.
    pub fn routed(&self) -> Notified<'_> {
        self.0.routed.notified()
    }

    /// All links over which calls may go.
    pub fn linked(&self) -> Vec<Arc<Link>> {
        self.0.routes.read().values().cloned().collect()
    }

    /// The content store.
    pub fn content(&self) -> &dyn ContentStore {
        &*self.0.content
    }

    /// Closes every link with `shutting-down`, the endpoint and the store.
    pub async fn close(&self) {
        let links: Vec<_> = self.0.links.read().values().cloned().collect();
        for link in links {
            link.close(CLOSE_SHUTTING_DOWN, "shutting down");
        }
        let _ = tokio::time::timeout(CLOSE, self.0.endpoint.close()).await;
        let _ = tokio::time::timeout(CLOSE, self.0.content.close()).await;
    }

    async fn accept(self) {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        while let Some(incoming) = self.0.endpoint.accept().await {
            let Ok(permit) = handshakes.clone().try_acquire_owned() else {
                incoming.ignore();
                continue;
            };
            let net = self.clone();
            tokio::spawn(async move {
                let shaken = tokio::time::timeout(HANDSHAKE, shake(incoming)).await;
                drop(permit);
                match shaken {
                    Ok(Ok(connection)) => net.route(connection).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
                    Err(_) => tracing::debug!("a handshake took too long"),
                }
            });
        }
    }

    async fn route(self, connection: Connection) {
        match connection.alpn() {
            LINK => link::run(self, connection, false).await,
            BULK => self.serve_bulk(connection).await,
            JOIN => self.serve_join(connection).await,
            _ => connection.close(VarInt::from_u32(0), b""),
        }
    }

    pub(crate) async fn connect(
        &self,
        peer: Id,
        addresses: &[SocketAddr],
        alpn: &[u8],
    ) -> Result<Connection, NetError> {
        let id = PublicKey::from_bytes(&peer)
            .map_err(|e| NetError::Invalid(format!("that is not a node's key: {e}")))?;
        let to = EndpointAddr::new(id).with_addrs(addresses.iter().map(|a| TransportAddr::Ip(*a)));
        let dialled = tokio::time::timeout(HANDSHAKE, self.0.endpoint.connect(to, alpn)).await;
        match dialled {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(if is_other_protocol(&error) {
                NetError::VersionMismatch("the peer speaks another protocol version".into())
            } else {
                NetError::Unreachable(format!("no link to the peer: {error:#}"))
            }),
            Err(_) => Err(NetError::Unreachable(format!(
                "no answer within {} s from {}",
                HANDSHAKE.as_secs(),
                addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    pub(crate) fn up(&self) -> &dyn Upcalls {
        &*self.0.up
    }

    pub(crate) fn boot(&self) -> [u8; 16] {
        self.0.boot
    }

    pub(crate) fn hello(&self) -> Option<Arc<HelloData>> {
        self.0.hello.read().clone()
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.0.ids.fetch_add(1, Relaxed)
    }

    pub(crate) fn joins(&self) -> &Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>> {
        &self.0.joins
    }

    pub(crate) fn bulk_slot(&self, peer: Id) -> Arc<tokio::sync::Mutex<Option<Connection>>> {
        self.0.bulk.lock().entry(peer).or_default().clone()
    }

    pub(crate) fn insert(&self, link: &Arc<Link>) {
        self.0.links.write().insert(link.id(), link.clone());
    }

    pub(crate) fn remove(&self, link: &Arc<Link>) {
        self.0.links.write().remove(&link.id());
        self.refresh(link.peer());
        if self.link(link.peer()).is_none() {
            self.0.bulk.lock().remove(&link.peer());
        }
    }

    pub(crate) fn refresh(&self, peer: Id) {
        self.refresh_except(peer, None);
    }

    /// Points the peer's route at an admitted link, keeping the present one while it is good.
    fn refresh_except(&self, peer: Id, closing: Option<u64>) {
        let links = self.0.links.read();
        let mut routes = self.0.routes.write();
        let good = |link: &Arc<Link>| link.is_admitted() && Some(link.id()) != closing;
        if routes.get(&peer).is_some_and(good) {
            return;
        }
        let next =
            links.values().filter(|link| link.peer() == peer && good(link)).min_by_key(|l| l.id());
        match next {
            Some(link) => {
                routes.insert(peer, link.clone());
                self.0.routed.notify_waiters();
            }
            None => drop(routes.remove(&peer)),
        }
    }

    /// The link that this brain admitted last: what it sends waits there until the peer's brain
    /// agrees. Not one that it gave up: a link that ends takes with it what was said on it.
    fn speaking(&self, peer: Id) -> Result<Arc<Link>, NetError> {
        let links = self.0.links.read();
        let link = links
            .values()
            .filter(|link| link.peer() == peer && link.is_speaking())
            .max_by_key(|link| link.id());
        link.cloned().ok_or_else(|| NetError::Unreachable("no link to that peer".into()))
    }

    fn by_id(&self, link: u64) -> Option<Arc<Link>> {
        self.0.links.read().get(&link).cloned()
    }
}

/// Whether an address to listen on is none of this machine's.
fn is_foreign(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::AddrNotAvailable)
}

/// Whether the peer offers none of our protocols: TLS alert 120, `no_application_protocol`.
fn is_other_protocol(error: &ConnectError) -> bool {
    let ended = match error {
        ConnectError::Connecting {
            source: ConnectingError::ConnectionError { source, .. },
            ..
        }
        | ConnectError::Connection { source, .. } => source,
        _ => return false,
    };
    matches!(ended, ConnectionError::ConnectionClosed(close)
        if close.error_code == TransportErrorCode::crypto(120))
}

async fn shake(incoming: Incoming) -> Result<Connection, NetError> {
    let accepting = incoming.accept().map_err(|e| NetError::lost("accepting", e))?;
    accepting.await.map_err(|e| NetError::lost("accepting", e))
}

/// The transport's settings and why: docs/design/protocol.md#transport.
fn transport() -> QuicTransportConfig {
    const KIB: u32 = 1024;
    let streams = u32::try_from(MAX_CALLS + 64).unwrap_or(u32::MAX);
    let idle_ms = u32::try_from(LINK_IDLE_END.as_millis()).unwrap_or(u32::MAX);
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(256 * KIB))
        .receive_window(VarInt::from_u32(64 * 1024 * KIB))
        .send_window(64 * 1024 * 1024)
        .datagram_receive_buffer_size(Some(64 * 1024))
        .default_path_keep_alive_interval(HEARTBEAT)
        .default_path_max_idle_timeout(Duration::from_secs(4))
        .max_idle_timeout(Some(VarInt::from_u32(idle_ms).into()))
        .build()
}

/// The address a connection came from, for people.
pub(crate) fn remote_text(connection: &Connection) -> String {
    let paths = connection.paths();
    let address =
        paths.iter().find(|path| path.is_selected()).map(|path| match path.remote_addr() {
            TransportAddr::Ip(address) => address.to_string(),
            other => format!("{other:?}"),
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
