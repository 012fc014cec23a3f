//! A tunnel that a peer asks for is served here.
//!
//! Decides: whether this node takes it.
//! Does not know: why the peer may reach the service.
//! Invariants: who is refused has executed nothing: no byte of it reached the service.
//! Source: docs/internals/seam.md#tunnels.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use pollen_net::{Arrived, Refusal};
use pollen_plane::tables::{Entry, ServedRow};
use pollen_wire::open::Opened;

use crate::{
    circle,
    gate::Who,
    open::{Bond, OpenTunnel},
    pump::{self, Counts, Far},
    refusal::{crowded, refused, said},
    rest::Rest,
    shared::Shared,
    target,
};

/// Serves one to its end.
pub(crate) async fn serve(shared: &Shared, arrived: Arrived) {
    let who = Who { caller: arrived.stream.peer(), publisher: arrived.publisher };
    match admit(shared, &who, &arrived.service, false) {
        Ok(entry) => stream(shared, &who, &entry, arrived).await,
        Err(refusal) => arrived.stream.refuse(&said(&refusal)).await,
    }
}

/// Everything that is decided before the service is touched.
pub(crate) fn admit(
    shared: &Shared,
    who: &Who,
    service: &str,
    datagrams: bool,
) -> Result<Arc<Entry<ServedRow>>, Refusal> {
    if shared.plane.is_closed() {
        return Err(refused("unreachable", "this node is shutting down", "ask another one"));
    }
    if !shared.plane.tables().is_leased() {
        let reason = "this node's brain is silent: it takes nothing from afar";
        return Err(refused("unreachable", reason, "see pln logs on that node"));
    }
    who.judge(&shared.plane.tables().load(), service, datagrams)
}

async fn stream(shared: &Shared, who: &Who, entry: &Arc<Entry<ServedRow>>, mut arrived: Arrived) {
    if shared.own.is_back(arrived.mark, &entry.row.name) {
        entry.local.refused.fetch_add(1, Relaxed);
        return arrived.stream.refuse(&said(&circle::refusal(&entry.row.name))).await;
    }
    let Some(_file) = shared.file() else {
        return arrived.stream.refuse(&said(&crowded())).await;
    };
    let socket = match target::connect(entry, &who.caller).await {
        Ok(socket) => socket,
        Err(refusal) => {
            entry.local.refused.fetch_add(1, Relaxed);
            return arrived.stream.refuse(&said(&refusal)).await;
        }
    };
    let _marked = shared.own.enter(&socket, &entry.row.name, arrived.mark);
    let bonds = Bond::of(who, entry);
    let cut = shared.stop.child_token();
    let open = OpenTunnel::begin(&shared.open, bonds, entry.local.clone(), cut);
    // The tables may have changed since it was let in.
    open.judge(&shared.plane.tables().load());
    if arrived.stream.answer(&Opened::default()).await.is_err() {
        return socket.abort();
    }
    let counters = open.counters();
    // Seen from here the service is near: what comes from it goes back to the client.
    let counts = Counts { there: &counters.bytes_out, back: &counters.bytes_in };
    let far = Far::Peer(Box::new(arrived.stream));
    pump::run(socket, far, Rest::default(), &open.cut, counts).await;
}
