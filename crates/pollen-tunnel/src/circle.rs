//! Clients of listeners that are connections of providers: a service where a listener is.
//!
//! Decides: whether a client came through this service before, by this node's own connections to
//! services. It would come back here for ever. One that came through another service only goes on: a
//! service may be a listener of another.
//! Does not know: who else may be on the way round.
//! Invariants: two sockets have one mark only if they are the two ends of one connection within one machine.
//! Source: docs/internals/seam.md#tunnels.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, LazyLock},
};

use parking_lot::Mutex;
use pollen_net::Refusal;
use pollen_wire::Id;

use crate::{refusal::refused, socket::Socket};

/// What tells this machine, since it started, and its network from all others; `None` where the system does not
/// say it: nothing is marked then.
static MACHINE: LazyLock<Option<String>> = LazyLock::new(|| {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let network = std::fs::read_link("/proc/self/ns/net").ok()?;
    Some(format!("{} {}", boot.trim(), network.display()))
});

/// The mark of a connection, from the end that connected.
fn of_ends(from: SocketAddr, to: SocketAddr) -> Option<Id> {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let text = format!("{} {} {}", MACHINE.as_ref()?, plain(from), plain(to));
    Some(*blake3::hash(text.as_bytes()).as_bytes())
}

/// The mark of a client; one of a unix socket has none.
pub(crate) fn of_client(near: &Socket) -> Option<Id> {
    let Socket::Tcp(stream) = near else { return None };
    of_ends(stream.peer_addr().ok()?, stream.local_addr().ok()?)
}

/// Why a client that came back gets no tunnel.
pub(crate) fn refusal(service: &str) -> Refusal {
    let reason = format!("service \"{service}\" is where the client came from");
    refused("provider-refused", reason, "serve where its program itself listens")
}

/// The services that a connection came through.
type Trail = Arc<[Arc<str>]>;

/// The connections of this node to its services, each by its mark.
#[derive(Clone, Default)]
pub(crate) struct Own(Arc<Mutex<HashMap<Id, Trail>>>);

impl Own {
    /// Another one to `service`, for a client with `mark`; as long as what is returned is held.
    pub(crate) fn enter(
        &self,
        socket: &Socket,
        service: &Arc<str>,
        mark: Option<Id>,
    ) -> Option<Marked> {
        let Socket::Tcp(stream) = socket else { return None };
        let own = of_ends(stream.local_addr().ok()?, stream.peer_addr().ok()?)?;
        let mut held = self.0.lock();
        let before = mark.and_then(|mark| held.get(&mark)).map_or(&[][..], |trail| &**trail);
        let trail = before.iter().chain([service]).cloned().collect();
        held.insert(own, trail);
        Some(Marked { own: self.clone(), mark: own })
    }

    /// Whether a client with this mark came through `service` before.
    pub(crate) fn is_back(&self, mark: Option<Id>, service: &str) -> bool {
        let held = self.0.lock();
        let trail = mark.and_then(|mark| held.get(&mark));
        trail.is_some_and(|trail| trail.iter().any(|passed| **passed == *service))
    }
}

/// One of them.
pub(crate) struct Marked {
    own: Own,
    mark: Id,
}

impl Drop for Marked {
    fn drop(&mut self) {
        self.own.0.lock().remove(&self.mark);
    }
}
