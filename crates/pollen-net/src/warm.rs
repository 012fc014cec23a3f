//! A path through other members beside the direct one, for connections that began directly: while a
//! bulk connection is there, so that what runs on it outlives its direct path.
//!
//! iroh opens no such path by itself. It opens the path that is selected, on all connections that
//! this side dialled, and selects when a connection comes or goes. So the path is wished for, and
//! two connections are dialled that end at once: with the one the path through the mesh is selected,
//! with the other IP again, whether the first is answered or not.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use iroh::endpoint::{Connection, VarInt};
use pollen_wire::{Id, close};

use crate::{
    net::{Aim, Net},
    transports::BULK,
};

/// How often connections are looked at, while there is a bulk connection.
const LOOK: Duration = Duration::from_millis(200);
/// A path through others opens within a round trip or two, or not at all.
const OPENS: Duration = Duration::from_secs(2);
/// After a try in vain: the wait until the next one, which doubles up to the last.
const AGAIN: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(32)];

/// When a peer is tried again, and the wait behind that.
struct Next {
    at: Instant,
    wait: Duration,
}

impl Net {
    /// Has paths through others opened beside direct ones; ends with its runtime.
    pub(crate) async fn keep_warm(&self) {
        let mut tries: HashMap<Id, Next> = HashMap::new();
        loop {
            let mut begun = pin!(self.bulk_begun().notified());
            begun.as_mut().enable();
            let peers = self.bulk_peers();
            tries.retain(|peer, _| peers.contains(peer));
            let now = Instant::now();
            let is_due = |peer: &Id| tries.get(peer).is_none_or(|next| now >= next.at);
            let lacking = peers.iter().copied().filter(is_due);
            let lacking = lacking.filter(|peer| self.has_hops(peer) && self.lacks_mesh(peer));
            let warmed = lacking.map(|peer| async move { (peer, self.warm(peer).await) });
            for (peer, is_warm) in join_all(warmed).await {
                if is_warm {
                    tries.remove(&peer);
                    continue;
                }
                let [first, last] = AGAIN;
                let wait = tries.get(&peer).map_or(first, |next| (next.wait * 2).min(last));
                tries.insert(peer, Next { at: Instant::now() + wait, wait });
            }
            if peers.is_empty() {
                begun.await;
            } else {
                let _ = tokio::time::timeout(LOOK, begun).await;
            }
        }
    }

    /// Peers with whom this node has a bulk connection, whoever dialled it.
    pub fn bulk_peers(&self) -> HashSet<Id> {
        let mut peers: HashSet<Id> = self.accepted_of(BULK).into_iter().collect();
        peers.extend(self.live_lanes().into_iter().map(|(peer, _)| peer));
        peers
    }

    /// Connections to that peer that this side dialled, for itself or as its link.
    fn dialled(&self, peer: &Id) -> Vec<Connection> {
        let links = self.greeted().into_iter();
        let links = links.filter(|link| link.peer() == *peer && link.dialled());
        let lanes = self.live_lanes().into_iter().filter(|(of, _)| of == peer);
        let lanes = lanes.map(|(_, lane)| lane.connection.clone());
        links.map(|link| link.connection.clone()).chain(lanes).collect()
    }

    /// Whether one of them has a direct path only.
    fn lacks_mesh(&self, peer: &Id) -> bool {
        self.dialled(peer).iter().any(|connection| {
            connection.close_reason().is_none()
                && connection.paths().iter().all(|path| path.is_ip())
        })
    }

    /// Has the path opened; whether all have it.
    async fn warm(&self, peer: Id) -> bool {
        let Some(address) = self.link(peer).and_then(|link| link.address()) else { return false };
        if !self.prefer().wish(address, &peer).await {
            return false;
        }
        let aim = Aim { addresses: &[address], by_mesh: false };
        let touches = tokio::join!(self.connect(peer, aim, BULK), self.connect(peer, aim, BULK));
        self.prefer().drop_wish(address);
        let end = Instant::now() + OPENS;
        while self.lacks_mesh(&peer) && Instant::now() < end {
            tokio::time::sleep(LOOK / 8).await;
        }
        for touch in [touches.0, touches.1].into_iter().flatten() {
            touch.close(VarInt::from_u32(close::IDLE), b"");
        }
        let is_warm = !self.lacks_mesh(&peer);
        tracing::debug!(is_warm, "a path through others was opened beside the direct one");
        is_warm
    }
}
