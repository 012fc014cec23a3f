//! The direct path of a link from which nothing comes any more: other paths of the peer go before it,
//! until something comes on it or it is gone.
//!
//! Links only: of all connections to a peer the link is the one that always is there.

use std::{
    convert::Infallible,
    net::SocketAddr,
    time::{Duration, Instant},
};

use iroh::{
    TransportAddr,
    endpoint::{Connection, VarInt},
};
use pollen_wire::{Id, close};

use crate::{
    link::Link,
    net::{Aim, Net},
    transports::BULK,
};

/// Silence of a link before its path is doubted. Something comes each second, by probes of either
/// side. It must be well before a path is given up for another one: that is when iroh chooses anew.
const DOUBT: Duration = Duration::from_millis(1_500);
/// Time between looks at a path that is doubted.
const LOOK: Duration = Duration::from_millis(250);

/// Doubts the direct path of a link while it is silent.
pub(crate) async fn follow(net: &Net, link: &Link) -> Infallible {
    loop {
        let due = link.heard_at() + DOUBT;
        if Instant::now() < due {
            tokio::time::sleep_until(due.into()).await;
            link.received();
            continue;
        }
        let Some(address) = link.address() else {
            tokio::time::sleep(DOUBT).await;
            link.received();
            continue;
        };
        let doubt = net.prefer().doubt(address);
        tracing::debug!(%address, "nothing comes on a direct path");
        let before = came_from(&link.connection, address);
        while before.is_some() && came_from(&link.connection, address) == before {
            tokio::time::sleep(LOOK).await;
        }
        drop(doubt);
        tokio::time::sleep(LOOK).await;
        if came_from(&link.connection, address).is_some() {
            net.prefer_again(link.peer(), address).await;
        }
        link.received();
    }
}

/// Datagrams that came on a connection's path from an address; `None` when it has no such path.
fn came_from(connection: &Connection, address: SocketAddr) -> Option<u64> {
    let paths = connection.paths();
    let mut found = paths.iter();
    let found = found.find(|path| *path.remote_addr() == TransportAddr::Ip(address));
    found.map(|path| path.stats().udp_rx.datagrams)
}

impl Net {
    /// Has a direct path chosen that was doubted: paths are chosen when a connection comes.
    async fn prefer_again(&self, peer: Id, address: SocketAddr) {
        if self.link(peer).is_none_or(|link| link.is_direct()) {
            return;
        }
        let aim = Aim { addresses: &[address], by_mesh: false };
        if let Ok(touch) = self.connect(peer, aim, BULK).await {
            touch.close(VarInt::from_u32(close::IDLE), b"");
        }
    }
}
