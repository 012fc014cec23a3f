//! What the network side asks of the call path, and its events as the brain reads them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use pollen_net::{
    Arrived, Link, Member, Members, NetEvent, RecvStream, SendStream, Short, Upcalls,
};
use pollen_wire::{Id, fetch::FetchRequest, open::Opened};

use crate::{
    events::{Event, raw},
    inbound,
    plane::Plane,
};

impl Members for Plane {
    fn member(&self, short: Short) -> Option<Arc<Member>> {
        self.tables().load().way(short).cloned()
    }

    fn is_leased(&self) -> bool {
        self.tables().is_leased()
    }
}

impl Upcalls for Plane {
    fn emit(&self, event: NetEvent) -> BoxFuture<'_, ()> {
        Box::pin(self.events().emit(event.into()))
    }

    fn serve(&self, link: &Arc<Link>, send: SendStream, recv: RecvStream) {
        tokio::spawn(inbound::serve(self.clone(), link.clone(), send, recv));
    }

    fn may_fetch(&self, peer: &Id, request: &FetchRequest<'_>) -> Result<Id, &'static str> {
        let tables = self.tables().load();
        let Some(peer) = tables.peers.get(peer).filter(|_| self.tables().is_leased()) else {
            return Err("denied");
        };
        let asked = (request.path, request.content);
        let Some(entry) = tables.seed(&request.seed) else { return Err("blob-not-found") };
        // Whoever may not have it learns no more than of what is not there.
        let lists = entry.row.contents().any(|held| held == asked);
        if lists && entry.row.lets_have(&peer.row) {
            Ok(entry.row.publisher)
        } else {
            Err("blob-not-found")
        }
    }

    fn suspect(&self, content: Id) {
        self.look_for_damage(content);
    }

    fn tunnel(&self, arrived: Arrived) {
        if let Some(tunnels) = self.tunnels() {
            return tunnels.serve(arrived);
        }
        let reason = "this node is starting or shutting down";
        let refused = Opened { slug: "unreachable", reason, remedy: "ask again" };
        tokio::spawn(async move { arrived.stream.refuse(&refused).await });
    }

    fn brain_age_ms(&self) -> u32 {
        self.brain_age()
    }
}

impl From<NetEvent> for Event {
    fn from(event: NetEvent) -> Self {
        match event {
            NetEvent::Hello { link, peer, dialled, remote, hello, boot } => Self::Hello {
                link,
                peer,
                dialled,
                remote,
                cluster: hello.cluster,
                minor_min: hello.minor_min,
                minor_max: hello.minor_max,
                boot: raw(&boot),
                chain: raw(&hello.chain),
            },
            NetEvent::LinkClosed { link, peer, code, reason } => {
                Self::LinkClosed { link, peer, code, reason }
            }
            NetEvent::PathMoved { link, peer, address } => Self::PathMoved { link, peer, address },
            NetEvent::DialFailed { peer, slug, reason } => Self::DialFailed { peer, slug, reason },
            NetEvent::Message { link, peer, body } => {
                Self::Message { link, peer, body: body.into() }
            }
            NetEvent::Records { link, peer, records, rejected } => Self::Records {
                link,
                peer,
                records: records
                    .into_iter()
                    .map(|r| (raw(&r.owner), r.body.into(), raw(&r.signature)))
                    .collect(),
                rejected: rejected as u64,
            },
            NetEvent::Join { request, peer, remote, body } => {
                Self::Join { request, peer, remote, body: body.into() }
            }
        }
    }
}
