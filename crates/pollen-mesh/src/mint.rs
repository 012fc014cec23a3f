//! A selection of the path through the mesh to a peer that has none yet.
//!
//! iroh opens the selected path on all connections to a peer, and lets a selector choose only among
//! paths that are open: a connection that began over IP never gets another one
//! (docs/decisions/the-mesh-is-the-relay.md, trap 3). A selection outlives the paths that it was
//! made of. So two endpoints of this process that nobody else sees meet over a wire of their own, on
//! which the one is at the peer's address; what its selector sees there is kept.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use iroh::{
    Endpoint, EndpointAddr, RelayMode, SecretKey, TransportAddr,
    dns::DnsResolver,
    endpoint::{
        presets,
        transports::{
            CustomEndpoint, CustomSender, CustomTransport, PathSelection, PathSelectionContext,
            PathSelector, RecvInfo, Transmit,
        },
    },
};
use iroh_base::CustomAddr;
use n0_watcher::Watchable;
use noq_udp::RecvMeta;
use parking_lot::Mutex;
use pollen_wire::packet::Short;

use crate::{
    inbox::Inbox,
    transport::{of_short, receive},
};

type Error = Box<dyn std::error::Error + Send + Sync>;

const ALPN: &[u8] = b"pollen-mint/1";
/// Both ends are in this process; a machine that is busy for longer tries again. Guess.
const WITHIN: Duration = Duration::from_secs(5);

/// The selection of the path through the mesh to that peer. `None` when the machine was too busy.
pub(crate) async fn mint(peer: Short) -> Option<PathSelection> {
    match tokio::time::timeout(WITHIN, meet(peer)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no path to choose was made");
            None
        }
        Err(_) => None,
    }
}

async fn meet(peer: Short) -> Result<Option<PathSelection>, Error> {
    let (here, there) = (Arc::new(Inbox::default()), Arc::new(Inbox::default()));
    let kept = Arc::new(Keep::default());
    // Who dials is at no peer's address: it is asked by nobody.
    let dialler = Wire::new(!peer, here.clone(), there.clone());
    let acceptor = Wire::new(peer, there, here);
    let dialler = end(dialler, kept.clone()).await?;
    let acceptor = end(acceptor, Arc::new(Keep::default())).await?;
    let at = TransportAddr::Custom(of_short(peer));
    let to = EndpointAddr::new(acceptor.id()).with_addrs([at]);
    let accept = async {
        match acceptor.accept().await {
            Some(incoming) => Ok(Some(incoming.await?)),
            None => Ok::<_, Error>(None),
        }
    };
    let dial = async { Ok(dialler.connect(to, ALPN).await?) };
    let held = tokio::try_join!(dial, accept);
    tokio::join!(dialler.close(), acceptor.close());
    held?;
    Ok(kept.0.lock().take())
}

async fn end(wire: Wire, selector: Arc<Keep>) -> Result<Endpoint, Error> {
    let builder = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::generate())
        .relay_mode(RelayMode::Disabled)
        .dns_resolver(DnsResolver::builder().disable_fallback().build())
        .alpns(vec![ALPN.to_vec()])
        .clear_ip_transports()
        .add_custom_transport(Arc::new(wire))
        .path_selector(selector);
    Ok(builder.bind().await?)
}

/// Keeps the first path that it sees, selected.
#[derive(Debug, Default)]
struct Keep(Mutex<Option<PathSelection>>);

impl PathSelector for Keep {
    fn select(&self, context: &PathSelectionContext<'_>) -> PathSelection {
        let mut selection = PathSelection::none();
        if let Some(path) = context.paths().next() {
            selection.set(&path);
            self.0.lock().get_or_insert_with(|| selection.clone());
        }
        selection
    }
}

/// One end of a wire within this process.
#[derive(Clone)]
struct Wire {
    own: Short,
    here: Watchable<Vec<CustomAddr>>,
    from: Arc<Inbox>,
    to: Arc<Inbox>,
}

impl Wire {
    fn new(own: Short, from: Arc<Inbox>, to: Arc<Inbox>) -> Self {
        Self { own, here: Watchable::new(vec![of_short(own)]), from, to }
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wire({:016x})", self.own)
    }
}

impl CustomTransport for Wire {
    fn bind(&self) -> io::Result<Box<dyn CustomEndpoint>> {
        Ok(Box::new(self.clone()))
    }
}

impl CustomEndpoint for Wire {
    fn watch_local_addrs(&self) -> n0_watcher::Direct<Vec<CustomAddr>> {
        self.here.watch()
    }

    fn create_sender(&self) -> Arc<dyn CustomSender> {
        Arc::new(self.clone())
    }

    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
        metas: &mut [RecvMeta],
        infos: &mut [RecvInfo],
    ) -> Poll<io::Result<usize>> {
        receive(&self.from, context, buffers, metas, infos)
    }
}

impl CustomSender for Wire {
    fn is_valid_send_addr(&self, _: &CustomAddr) -> bool {
        true
    }

    fn poll_send(
        &self,
        _: &mut Context<'_>,
        _: &CustomAddr,
        _: Option<&CustomAddr>,
        transmit: &Transmit<'_>,
    ) -> Poll<io::Result<()>> {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let packets = transmit.contents.chunks(size).map(Bytes::copy_from_slice);
        self.to.put(packets.map(|packet| (self.own, packet)));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_selection_of_a_path_that_no_connection_has_is_made() {
        let made = mint(7).await;
        let text = format!("{made:?}");
        assert!(text.contains(&format!("{:?}", of_short(7))), "{text}");
        assert!(made.is_some() && mint(8).await.is_some(), "as often as it is asked for");
    }
}
