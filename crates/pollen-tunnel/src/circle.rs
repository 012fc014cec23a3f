//! Clients of listeners that are connections of providers: a service where a listener is.
//!
//! Decides: whether a client is one of this node's own connections to a service. It would come back here for ever.
//! Does not know: who else may be on the way round.
//! Invariants: two sockets have one mark only if they are the two ends of one connection within one machine.
//! Source: docs/internals/seam.md#tunnels.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, LazyLock},
};

use parking_lot::Mutex;
use pollen_wire::Id;

use crate::socket::Socket;

/// What tells this machine, since it started, and its network from all others; `None` where the system does not
/// say it: nothing is marked then.
static MACHINE: LazyLock<Option<String>> = LazyLock::new(|| {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let network = std::fs::read_link("/proc/self/ns/net").ok()?;
    Some(format!("{} {}", boot.trim(), network.display()))
});

/// The mark of a connection, from the end that connected.
fn mark(from: SocketAddr, to: SocketAddr) -> Option<Id> {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let text = format!("{} {} {}", MACHINE.as_ref()?, plain(from), plain(to));
    Some(*blake3::hash(text.as_bytes()).as_bytes())
}

/// The mark of a client; one of a unix socket has none.
pub(crate) fn of_client(near: &Socket) -> Option<Id> {
    let Socket::Tcp(stream) = near else { return None };
    mark(stream.peer_addr().ok()?, stream.local_addr().ok()?)
}

/// The connections of this node to its services.
#[derive(Clone, Default)]
pub(crate) struct Own(Arc<Mutex<HashSet<Id>>>);

impl Own {
    /// Another one; as long as what is returned is held.
    pub(crate) fn enter(&self, socket: &Socket) -> Option<Marked> {
        let Socket::Tcp(stream) = socket else { return None };
        let mark = mark(stream.local_addr().ok()?, stream.peer_addr().ok()?)?;
        self.0.lock().insert(mark);
        Some(Marked { own: self.clone(), mark })
    }

    /// Whether a client with this mark is one of them.
    pub(crate) fn has(&self, mark: &Id) -> bool {
        self.0.lock().contains(mark)
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
