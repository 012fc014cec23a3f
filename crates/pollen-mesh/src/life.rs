//! The life of a carrier: from the end of its handshake until it falls silent, leaves its IP path,
//! is idle, or is closed.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt;
use iroh::endpoint::Connection;
use pollen_rules::eject_after;
use pollen_wire::close;

use crate::{
    carrier::Carrier,
    forwarder::Mesh,
    prefer::in_use,
    silence::{LOOK, Look, Silence, Verdict},
};

/// A carrier on which no packet went for so long is closed by who dialled it.
const IDLE: Duration = Duration::from_secs(60);
/// Packets that are taken from the connection at once.
const BATCH: usize = 32;

/// Why a carrier ends.
enum End {
    Silent,
    Indirect,
    Idle,
    Closed,
}

/// Carries packets over a connection to a neighbour until it ends; then it is closed.
///
/// One that does not run over IP is closed at once: its packets would go through other members.
pub async fn carry(mesh: Arc<Mesh>, connection: Connection, dialled: bool) {
    let carrier = Carrier::new(mesh.id(), connection, dialled);
    let end = if is_on_ip(&carrier.connection) {
        mesh.settle(&carrier);
        let end = tokio::select! {
            end = read(&mesh, &carrier) => end,
            end = watch(&carrier) => end,
            end = follow(&carrier.connection) => end,
        };
        mesh.end(&carrier, matches!(end, End::Silent));
        end
    } else {
        if dialled {
            mesh.refused(&carrier.id);
        }
        End::Indirect
    };
    let reason: &[u8] = match end {
        End::Silent => b"silent",
        End::Indirect => b"not direct",
        End::Idle => b"idle",
        End::Closed => b"",
    };
    if !matches!(end, End::Closed) {
        carrier.connection.close(close::IDLE.into(), reason);
    }
    tracing::debug!(peer = carrier.peer, reason = ?Bytes::from_static(reason), "a carrier ended");
}

fn is_on_ip(connection: &Connection) -> bool {
    in_use(&connection.paths()).is_some_and(|path| path.is_ip())
}

/// Ends when the connection leaves its IP path: which path is used is one matter of all
/// connections to a peer, so that a carrier can be moved to the mesh like any other.
async fn follow(connection: &Connection) -> End {
    let mut changes = pin!(connection.paths_stream());
    while let Some(paths) = changes.next().await {
        if in_use(&paths).is_some_and(|path| !path.is_ip()) {
            return End::Indirect;
        }
    }
    End::Closed
}

async fn read(mesh: &Mesh, carrier: &Carrier) -> End {
    let mut batch = [const { Bytes::new() }; BATCH];
    while let Ok(count) = carrier.connection.read_many_datagrams(&mut batch).await {
        let packets = batch.get_mut(..count).unwrap_or_default();
        let bytes: usize = packets.iter().map(Bytes::len).sum();
        // One byte is what asks for an acknowledgement.
        if bytes > count {
            carrier.taken.fetch_add(bytes as u64, Relaxed);
            mesh.arrived(carrier, packets);
        }
    }
    End::Closed
}

/// Looks at the carrier while packets go out on it, and sleeps while none do.
async fn watch(carrier: &Carrier) -> End {
    let (mut silence, mut before) = (Silence::default(), Instant::now());
    loop {
        tokio::time::sleep(LOOK).await;
        let look = look(carrier);
        match silence.look(look) {
            Verdict::Heard { ask } => {
                carrier.heard(before);
                if ask {
                    let _ = carrier.connection.send_datagram(Bytes::from_static(b"?"));
                }
            }
            Verdict::Waits => {}
            Verdict::Silent => return End::Silent,
            Verdict::Rests => {
                if !rest(carrier, look.handed).await {
                    return End::Idle;
                }
                silence.wake(self::look(carrier));
            }
        }
        before = look.now;
    }
}

fn look(carrier: &Carrier) -> Look {
    let stats = carrier.connection.stats();
    let trip = in_use(&carrier.connection.paths()).map(|path| path.rtt());
    Look {
        now: Instant::now(),
        received: stats.udp_rx.datagrams,
        sent: stats.frame_tx.datagram + stats.frame_tx.ping,
        handed: carrier.handed.load(SeqCst),
        patience: eject_after(trip.unwrap_or_default()),
    }
}

/// Waits for the next packet; false when this side is to close the carrier as idle.
async fn rest(carrier: &Carrier, handed: u64) -> bool {
    let mut used = (handed, carrier.taken.load(Relaxed));
    loop {
        carrier.at_rest.store(true, SeqCst);
        // One that was handed over meanwhile wakes nobody.
        if carrier.handed.load(SeqCst) != used.0 {
            carrier.at_rest.store(false, SeqCst);
            return true;
        }
        if tokio::time::timeout(IDLE, carrier.wake.notified()).await.is_ok() {
            return true;
        }
        let now = (carrier.handed.load(SeqCst), carrier.taken.load(Relaxed));
        if std::mem::replace(&mut used, now) == now && carrier.dialled {
            return false;
        }
    }
}
