//! The network side begins, dials peers and takes those who come.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use iroh::{
    Endpoint, RelayMode, SecretKey,
    dns::DnsResolver,
    endpoint::{Connection, Incoming, VarInt, presets},
};
use pollen_mesh::{Mesh, Prefer, Transport};
use pollen_rules::numbers::HANDSHAKE;
use pollen_wire::Id;
use tokio::sync::Semaphore;

use crate::{
    content::BlobStore,
    error::NetError,
    greet,
    net::{Aim, Net},
    transports::{self, Accept, BULK, JOIN, LINK, MESH},
    up::{NetEvent, Upcalls},
};

/// Handshakes under way from strangers before further ones are ignored.
const MAX_HANDSHAKES: usize = 256;

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
        let content =
            Box::new(BlobStore::open(&config.content, *config.secret.public().as_bytes()).await?);
        let (mesh, wanted) = Mesh::new(*config.secret.public().as_bytes(), up.clone());
        let prefer = Prefer::default();
        let mut builder = Endpoint::builder(presets::Minimal)
            .secret_key(config.secret)
            .relay_mode(RelayMode::Disabled)
            // No name is ever looked up; without this a resolver of somebody else's stood ready.
            .dns_resolver(DnsResolver::builder().disable_fallback().build())
            .alpns([LINK, BULK, JOIN, MESH].map(<[u8]>::to_vec).to_vec())
            .transport_config(transports::of_links())
            .add_custom_transport(Arc::new(Transport::new(mesh.clone())))
            .path_selector(Arc::new(prefer.clone()))
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
        let net = Self::new(endpoint, (mesh, prefer), config.boot, content, up);
        tokio::spawn(net.clone().accept());
        tokio::spawn(net.clone().open_wanted(wanted));
        tokio::spawn(net.clone().nudge());
        let warm = net.clone();
        tokio::spawn(async move { warm.keep_warm().await });
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
        let accept = Arc::new(Accept::new(self.endpoint()));
        while let Some(incoming) = self.endpoint().accept().await {
            let Ok(permit) = handshakes.clone().try_acquire_owned() else {
                incoming.ignore();
                continue;
            };
            let (net, accept) = (self.clone(), accept.clone());
            tokio::spawn(async move {
                let shaken = tokio::time::timeout(HANDSHAKE, shake(incoming, accept)).await;
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

async fn shake(incoming: Incoming, accept: Arc<Accept>) -> Result<Connection, NetError> {
    let accepting = match accept.for_whom(&incoming) {
        Some(config) => incoming.accept_with(config),
        None => incoming.accept(),
    };
    let accepting = accepting.map_err(|e| NetError::lost("accepting", e))?;
    accepting.await.map_err(|e| NetError::lost("accepting", e))
}
