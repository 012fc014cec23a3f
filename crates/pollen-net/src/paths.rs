//! How the packets of a link go: told when it changes, and shown when somebody asks.

use std::{convert::Infallible, net::SocketAddr, pin::pin, time::Duration};

use futures_util::StreamExt;
use iroh::{
    PublicKey, TransportAddr,
    endpoint::{PathList, TransportAddrUsage},
};
use pollen_mesh::in_use;
use pollen_wire::Id;

use crate::{link::Link, net::Net, up::NetEvent};

/// While a path through others is opened, it is the one in use for a moment (`warm.rs`): nobody is
/// told of that.
const PASSES: Duration = Duration::from_millis(300);

/// What is known of the ways to a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// The paths that its link has.
    pub paths: Vec<LinkPath>,
    /// Where it was ever said, or seen, to be.
    pub candidates: Vec<Candidate>,
    /// How long ago its packets began to go as they do.
    pub since: Duration,
}

/// A path of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPath {
    /// Where its packets come from; `None` through other members.
    pub address: Option<SocketAddr>,
    /// The member to whom packets go, when it is through other members and one takes them.
    pub via: Option<Id>,
    /// Whether packets go on it now.
    pub is_selected: bool,
    /// Smoothed round trip.
    pub rtt: Duration,
}

/// An address of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The address; `None` through other members.
    pub address: Option<SocketAddr>,
    /// Whether a path uses it.
    pub is_active: bool,
}

impl Net {
    /// What is known of the ways to a peer; nothing of one that nobody dialled or met.
    pub async fn paths(&self, peer: Id) -> Paths {
        let mut known = Paths::default();
        let greeted = self.greeted();
        let link = self.link(peer).or_else(|| greeted.into_iter().find(|l| l.peer() == peer));
        if let Some(link) = link {
            let via = self.via(peer);
            known.since = link.on_path().since.elapsed();
            let paths = link.connection.paths();
            let used = in_use(&paths).map(|path| path.id());
            known.paths = paths
                .iter()
                .map(|path| {
                    let address = ip(path.remote_addr());
                    let via = if address.is_none() { via } else { None };
                    LinkPath { address, via, is_selected: Some(path.id()) == used, rtt: path.rtt() }
                })
                .collect();
        }
        let Ok(id) = PublicKey::from_bytes(&peer) else { return known };
        if let Some(info) = self.endpoint().remote_info(id).await {
            known.candidates = info
                .addrs()
                .map(|known| Candidate {
                    address: ip(known.addr()),
                    is_active: matches!(known.usage(), TransportAddrUsage::Active),
                })
                .collect();
        }
        known
    }

    /// The member to whom a packet for that peer would go, if it went through others.
    pub fn via(&self, peer: Id) -> Option<Id> {
        self.mesh().via(&peer)
    }
}

/// Tells how the packets of a link go, now and at each change.
pub(crate) async fn follow(net: &Net, link: &Link) -> Infallible {
    let mut changes = pin!(link.connection.paths_stream());
    let mut told = None;
    loop {
        let Some(mut paths) = changes.next().await else {
            // The connection is closed; who reads on it says why.
            return std::future::pending().await;
        };
        if told.is_some() && leaves_ip(&paths) {
            tokio::time::sleep(PASSES).await;
            paths = link.connection.paths();
        }
        let selected = selected(&paths);
        if selected.is_none() || selected == told {
            continue;
        }
        told = selected;
        let address = selected.flatten();
        link.move_to(address);
        net.moved().notify_waiters();
        if address.is_some() {
            net.mesh().forgive(&link.peer());
        }
        let address = address.map_or_else(String::new, |address| address.to_string());
        net.up().emit(NetEvent::PathMoved { link: link.id(), peer: link.peer(), address }).await;
    }
}

/// Whether packets go through others although there is a direct path.
fn leaves_ip(paths: &PathList<'_>) -> bool {
    matches!(selected(paths), Some(None)) && paths.iter().any(|path| path.is_ip())
}

/// The address of the path in use, `Some(None)` through other members; `None` when there is none.
fn selected(paths: &PathList<'_>) -> Option<Option<SocketAddr>> {
    in_use(paths).map(|path| ip(path.remote_addr()))
}

fn ip(address: &TransportAddr) -> Option<SocketAddr> {
    match address {
        TransportAddr::Ip(address) => Some(*address),
        _ => None,
    }
}
