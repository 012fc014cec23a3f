//! The network side begins, dials peers and takes those who come.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use iroh::{
    Endpoint, RelayMode, SecretKey,
    endpoint::{Connection, Incoming, QuicTransportConfig, VarInt, presets},
};
use pollen_rules::numbers::{HANDSHAKE, HEARTBEAT, LINK_IDLE_END};
use pollen_wire::Id;
use tokio::sync::Semaphore;

use crate::{
    content::BlobStore,
    error::NetError,
    greet,
    link::MAX_CALLS,
    net::{BULK, JOIN, LINK, Net},
    up::{NetEvent, Upcalls},
};

/// Handshakes under way from strangers before further ones are ignored.
const MAX_HANDSHAKES: usize = 256;

/// Datagrams that wait on a connection, bytes. 1,400 of the largest: at 5,000 a second a reader may
/// be 0.2 s late.
const DATAGRAMS: usize = 2 * 1024 * 1024;

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
        let net = Self::new(endpoint, config.boot, content, up);
        tokio::spawn(net.clone().accept());
        Ok(net)
    }

    /// Tries to reach a peer; ends in `Hello` or `DialFailed`.
    pub fn dial(&self, peer: Id, addresses: Vec<SocketAddr>) {
        let net = self.clone();
        tokio::spawn(async move {
            match net.connect(peer, &addresses, LINK).await {
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
        while let Some(incoming) = self.endpoint().accept().await {
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
            LINK => greet::run(self, connection, false).await,
            BULK => self.serve_bulk(connection).await,
            JOIN => self.serve_join(connection).await,
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
        .datagram_receive_buffer_size(Some(DATAGRAMS))
        .datagram_send_buffer_size(DATAGRAMS)
        .default_path_keep_alive_interval(HEARTBEAT)
        .default_path_max_idle_timeout(Duration::from_secs(4))
        .max_idle_timeout(Some(VarInt::from_u32(idle_ms).into()))
        .build()
}
