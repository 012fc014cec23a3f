//! One `pollen-bulk/1` connection, from either of its ends: what is open on it, and its datagrams.
//!
//! Only the side that dialled opens streams on it, so the numbers of its sessions are that side's.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use iroh::endpoint::{Connection, SendDatagramError, VarInt};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::error::NetError;

/// Tunnels of one connection. A peer allows some thousand streams more, for content.
pub(crate) const MAX_TUNNELS: usize = 10_000;
/// An idle bulk connection is closed by the side that accepted it after this time.
pub(crate) const IDLE: Duration = Duration::from_secs(30);
/// The side that dialled does not use it any more when it was idle for so long: the other side may
/// be closing it. Guess: more than a round trip before [`IDLE`].
const FRESH: Duration = Duration::from_secs(25);
/// Datagrams that wait for one session; the next is dropped. A guess: 0.2 s of 5,000 a second.
const WAITING: usize = 1024;
/// Datagrams that are taken from the connection at once.
const BATCH: usize = 32;

/// A bulk connection; its datagrams are read as long as it lives.
pub(crate) struct Lane {
    pub(crate) connection: Connection,
    /// Streams under way, contents included.
    busy: AtomicUsize,
    tunnels: AtomicUsize,
    numbers: AtomicU64,
    used: Mutex<Instant>,
    sessions: Mutex<HashMap<u64, mpsc::Sender<Bytes>>>,
}

/// A stream that is under way; dropped, it is over.
pub(crate) struct Busy {
    lane: Arc<Lane>,
    is_tunnel: bool,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.lane.busy.fetch_sub(1, Relaxed);
        if self.is_tunnel {
            self.lane.tunnels.fetch_sub(1, Relaxed);
        }
        *self.lane.used.lock() = Instant::now();
    }
}

impl Lane {
    pub(crate) fn new(connection: Connection) -> Arc<Self> {
        // A stream's unread bytes count against the connection: 256 readers that do not read would
        // stop all others. Each stream has its own window.
        connection.set_receive_window(VarInt::MAX);
        let lane = Arc::new(Self {
            connection: connection.clone(),
            busy: AtomicUsize::new(0),
            tunnels: AtomicUsize::new(0),
            numbers: AtomicU64::new(1),
            used: Mutex::new(Instant::now()),
            sessions: Mutex::default(),
        });
        tokio::spawn(read_datagrams(connection, Arc::downgrade(&lane)));
        lane
    }

    /// Whether nothing runs on it.
    pub(crate) fn is_idle(&self) -> bool {
        self.busy.load(Relaxed) == 0
    }

    /// Whether the side that dialled may open another stream.
    pub(crate) fn is_fresh(&self) -> bool {
        self.connection.close_reason().is_none()
            && (!self.is_idle() || self.used.lock().elapsed() < FRESH)
    }

    /// Content begins to move.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Relaxed);
        Busy { lane: self.clone(), is_tunnel: false }
    }

    /// A tunnel begins; `Overloaded` when there are as many as there may be.
    pub(crate) fn begin_tunnel(self: &Arc<Self>) -> Result<Busy, NetError> {
        let before = self.tunnels.fetch_add(1, Relaxed);
        self.busy.fetch_add(1, Relaxed);
        let begun = Busy { lane: self.clone(), is_tunnel: true };
        if before >= MAX_TUNNELS {
            let reason = format!("{MAX_TUNNELS} tunnels are open between these nodes");
            return Err(NetError::Overloaded(reason));
        }
        Ok(begun)
    }

    /// A number that no session of this connection had.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed)
    }

    /// The datagrams of a session from now on; `None` when it exists.
    pub(crate) fn session(self: &Arc<Self>, number: u64) -> Option<Session> {
        let (sender, inbox) = mpsc::channel(WAITING);
        let mut sessions = self.sessions.lock();
        if sessions.contains_key(&number) {
            return None;
        }
        sessions.insert(number, sender);
        Some(Session { lane: self.clone(), number, inbox })
    }
}

async fn read_datagrams(connection: Connection, lane: std::sync::Weak<Lane>) {
    let mut batch = [const { Bytes::new() }; BATCH];
    while let Ok(count) = connection.read_many_datagrams(&mut batch).await {
        let Some(lane) = lane.upgrade() else { return };
        let sessions = lane.sessions.lock();
        for datagram in batch.iter_mut().take(count).map(std::mem::take) {
            let Some((number, length)) = read_varint(&datagram) else { continue };
            if let Some(session) = sessions.get(&number) {
                // A session that does not keep up loses datagrams, as a socket does.
                let _ = session.try_send(datagram.slice(length..));
            }
        }
    }
}

/// The datagrams of one session. Dropped, later ones are thrown away.
pub struct Session {
    lane: Arc<Lane>,
    number: u64,
    inbox: mpsc::Receiver<Bytes>,
}

impl Session {
    /// Its number on its connection.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next datagram from the peer. Cancel safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.inbox.recv().await
    }

    /// Sends one; false when it is too large for a datagram of this path and nothing was sent.
    pub fn send(&self, payload: &[u8]) -> Result<bool, NetError> {
        let most = self.lane.connection.max_datagram_size().unwrap_or(0);
        let mut out = BytesMut::with_capacity(8 + payload.len());
        write_varint(self.number, &mut out);
        if out.len() + payload.len() > most {
            return Ok(false);
        }
        out.extend_from_slice(payload);
        match self.lane.connection.send_datagram(out.freeze()) {
            Ok(()) => Ok(true),
            Err(SendDatagramError::ConnectionLost(error)) => {
                Err(NetError::lost("sending a datagram", error))
            }
            Err(_) => Ok(false),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.lane.sessions.lock().remove(&self.number);
    }
}

/// A QUIC varint (RFC 9000, 16) and how many bytes it took.
fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1usize << (first >> 6);
    let rest = bytes.get(1..length)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |sum, byte| sum << 8 | u64::from(*byte));
    Some((value, length))
}

fn write_varint(value: u64, out: &mut BytesMut) {
    let bytes = value.to_be_bytes();
    let (length, mark) = match value {
        0..0x40 => (1, 0),
        0x40..0x4000 => (2, 0x40),
        0x4000..0x4000_0000 => (4, 0x80),
        _ => (8, 0xc0),
    };
    let at = out.len();
    out.extend_from_slice(bytes.get(8 - length..).unwrap_or_default());
    if let Some(first) = out.get_mut(at) {
        *first |= mark;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_reads_back_in_its_smallest_form() {
        for (value, length) in
            [(0, 1), (63, 1), (64, 2), (16_383, 2), (16_384, 4), (1 << 30, 8), ((1 << 62) - 1, 8)]
        {
            let mut out = BytesMut::new();
            write_varint(value, &mut out);
            assert_eq!((out.len(), read_varint(&out)), (length, Some((value, length))));
            assert_eq!(read_varint(out.get(..length - 1).unwrap_or_default()), None);
        }
    }
}
