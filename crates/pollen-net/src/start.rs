//! The network side begins, dials peers and takes those who come.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use iroh::{
    Endpoint, RelayMode, SecretKey,
    dns::DnsResolver,
    endpoint::{
        Connection, Incoming, MtuDiscoveryConfig, QuicTransportConfig, ServerConfig, VarInt,
        presets,
    },
};
use pollen_mesh::{Mesh, Prefer, Transport};
use pollen_rules::numbers::{HANDSHAKE, HEARTBEAT, LINK_IDLE_END};
use pollen_wire::Id;
use tokio::sync::Semaphore;

use crate::{
    carriers,
    content::BlobStore,
    error::NetError,
    greet,
    link::MAX_CALLS,
    net::{Aim, BULK, JOIN, LINK, MESH, Net},
    up::{NetEvent, Upcalls},
};

/// Handshakes under way from strangers before further ones are ignored.
const MAX_HANDSHAKES: usize = 256;

/// Datagrams that wait on a connection, bytes. 1,400 of the largest: at 5,000 a second a reader may
/// be 0.2 s late.
const DATAGRAMS: usize = 2 * 1024 * 1024;

/// A path on which nothing came for so long is given up, and another one takes over. Probes and
/// keep-alives go each second, and QUIC repeats a lost one within some round trips: this is no loss
/// of one or two. Measured: packets go through other members 2.6 to 2.7 s after a cut.
const PATH_IDLE: Duration = Duration::from_millis(2_500);
/// How often a path is probed for larger packets. A connection through other members that probed
/// while the carrier beneath it was fresh found none; QUIC's own 10 minutes are long for that.
const MTU_AGAIN: Duration = Duration::from_secs(60);

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

impl Net {
    /// Binds, opens the content store and starts to accept. Must run inside a tokio runtime.
    ///
    /// `PortInUse` or `State`; nothing is left running then.
    pub async fn start(config: NetConfig, up: Arc<dyn Upcalls>) -> Result<Self, NetError> {
        let content = Box::new(BlobStore::open(&config.content).await?);
        let (mesh, wanted) = Mesh::new(*config.secret.public().as_bytes(), up.clone());
        let mut builder = Endpoint::builder(presets::Minimal)
            .secret_key(config.secret)
            .relay_mode(RelayMode::Disabled)
            // No name is ever looked up; without this a resolver of somebody else's stood ready.
            .dns_resolver(DnsResolver::builder().disable_fallback().build())
            .alpns([LINK, BULK, JOIN, MESH].map(<[u8]>::to_vec).to_vec())
            .transport_config(transport())
            .add_custom_transport(Arc::new(Transport::new(mesh.clone())))
            .path_selector(Arc::new(Prefer))
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
        let net = Self::new(endpoint, mesh, config.boot, content, up);
        tokio::spawn(net.clone().accept());
        tokio::spawn(net.clone().open_wanted(wanted));
        tokio::spawn(net.clone().nudge());
        Ok(net)
    }

    /// Tries to reach a peer; ends in `Hello` or `DialFailed`. With `by_mesh` its packets may go
    /// through other members, and without an address they go there alone.
    pub fn dial(&self, peer: Id, addresses: Vec<SocketAddr>, by_mesh: bool) {
        let net = self.clone();
        tokio::spawn(async move {
            match net.connect(peer, Aim { addresses: &addresses, by_mesh }, LINK).await {
                Ok(connection) => greet::run(net, connection, true).await,
                Err(error) => {
                    let (slug, reason) = (error.slug().to_owned(), error.to_string());
                    net.up().emit(NetEvent::DialFailed { peer, slug, reason }).await;
                }
            }
        });
    }

    async fn accept(self) {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        let of_carriers = Arc::new(carriers::server(self.endpoint()));
        while let Some(incoming) = self.endpoint().accept().await {
            let Ok(permit) = handshakes.clone().try_acquire_owned() else {
                incoming.ignore();
                continue;
            };
            let (net, of_carriers) = (self.clone(), of_carriers.clone());
            tokio::spawn(async move {
                let shaken = tokio::time::timeout(HANDSHAKE, shake(incoming, of_carriers)).await;
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
            LINK => greet::run(self, connection, false).await,
            BULK => self.serve_bulk(connection).await,
            JOIN => self.serve_join(connection).await,
            MESH => self.serve_carrier(connection).await,
            _ => connection.close(VarInt::from_u32(0), b""),
        }
    }
}

/// Whether an address to listen on is none of this machine's.
fn is_foreign(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::AddrNotAvailable)
}

async fn shake(incoming: Incoming, carriers: Arc<ServerConfig>) -> Result<Connection, NetError> {
    let accepting = match carriers::is_carrier(&incoming) {
        true => incoming.accept_with(carriers),
        false => incoming.accept(),
    };
    let accepting = accepting.map_err(|e| NetError::lost("accepting", e))?;
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
        .datagram_receive_buffer_size(Some(DATAGRAMS))
        .datagram_send_buffer_size(DATAGRAMS)
        .default_path_keep_alive_interval(HEARTBEAT)
        .default_path_max_idle_timeout(PATH_IDLE)
        .mtu_discovery_config(Some(mtu()))
        .max_idle_timeout(Some(VarInt::from_u32(idle_ms).into()))
        .build()
}

fn mtu() -> MtuDiscoveryConfig {
    let mut config = MtuDiscoveryConfig::default();
    config.interval(MTU_AGAIN);
    config
}
