//! One `pollen-bulk/1` connection, from either of its ends: what is open on it, and its datagrams.
//!
//! Only the side that dialled opens streams on it, so the numbers of its sessions are that side's.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use iroh::endpoint::{Connection, SendDatagramError, VarInt};
use parking_lot::Mutex;
use pollen_wire::close;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{
    error::NetError,
    transports::{BULK_WINDOW, WINDOW},
};

/// Tunnels of one connection. A peer allows some thousand streams more, for content.
pub(crate) const MAX_TUNNELS: usize = 10_000;
/// The side that dialled closes a bulk connection on which nothing ran for so long: only that side
/// opens streams, and it has read all that came. Content and a tunnel are followed by others.
pub(crate) const IDLE: Duration = Duration::from_secs(30);
/// The side that accepted closes one that the other left behind.
pub(crate) const LEFT: Duration = Duration::from_secs(600);
/// What a tunnel may have unread, bytes: the window of its stream.
const OF_TUNNEL: u64 = BULK_WINDOW as u64;
/// What a connection may have unread at the most, however many tunnels there are, bytes: a node must
/// hold it. From 5,000 on, those that nobody reads begin to stop the others.
const MOST_UNREAD: u64 = WINDOW as u64 + 5_000 * OF_TUNNEL;
/// Datagrams that wait for one session; the next is dropped. A guess: 0.2 s of 5,000 a second.
const WAITING: usize = 1024;
/// What waits for all sessions of a connection, bytes. Guess: 2 s of 5,000 of the largest a second.
const WAITING_BYTES: usize = 16 * 1024 * 1024;
/// Datagrams that are taken from the connection at once.
const BATCH: usize = 32;

/// A bulk connection; its datagrams are read as long as it lives.
pub(crate) struct Lane {
    pub(crate) connection: Connection,
    state: Mutex<State>,
    numbers: AtomicU64,
    room: Arc<Semaphore>,
    sessions: Mutex<HashMap<u64, mpsc::Sender<Waiting>>>,
}

/// A datagram, and the room that it takes until it is read.
type Waiting = (Bytes, OwnedSemaphorePermit);

struct State {
    /// Streams under way, contents included.
    busy: usize,
    tunnels: usize,
    /// The most tunnels that were let in at once: the window never shrinks.
    let_in: usize,
    most_let_in: usize,
    /// When the last one ended.
    used: Instant,
    is_closed: bool,
}

/// A stream that is under way; dropped, it is over.
pub(crate) struct Busy {
    lane: Arc<Lane>,
    is_tunnel: bool,
    is_let_in: bool,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.lane.state.lock();
        state.busy -= 1;
        state.tunnels -= usize::from(self.is_tunnel);
        state.let_in -= usize::from(self.is_let_in);
        state.used = Instant::now();
    }
}

impl Busy {
    /// It becomes a tunnel; `Overloaded` when there are as many as there may be.
    pub(crate) fn begin_tunnel(&mut self) -> Result<(), NetError> {
        let mut state = self.lane.state.lock();
        if state.tunnels >= MAX_TUNNELS {
            let reason = format!("{MAX_TUNNELS} tunnels are open between these nodes");
            return Err(NetError::Overloaded(reason));
        }
        state.tunnels += 1;
        self.is_tunnel = true;
        Ok(())
    }

    /// The tunnel was let in: what it has unread takes nothing from the others.
    ///
    /// A stream's unread bytes count against the connection: without this, 256 readers that do not
    /// read would stop all others.
    pub(crate) fn let_in(&mut self) {
        let mut state = self.lane.state.lock();
        if std::mem::replace(&mut self.is_let_in, true) {
            return;
        }
        state.let_in += 1;
        if state.let_in > state.most_let_in {
            state.most_let_in = state.let_in;
            let window = (u64::from(WINDOW) + OF_TUNNEL * state.let_in as u64).min(MOST_UNREAD);
            let window = VarInt::from_u64(window).unwrap_or(VarInt::MAX);
            self.lane.connection.set_receive_window(window);
        }
    }
}

impl Lane {
    pub(crate) fn new(connection: Connection) -> Arc<Self> {
        let state = State {
            busy: 0,
            tunnels: 0,
            let_in: 0,
            most_let_in: 0,
            used: Instant::now(),
            is_closed: false,
        };
        let lane = Arc::new(Self {
            connection: connection.clone(),
            state: Mutex::new(state),
            numbers: AtomicU64::new(1),
            room: Arc::new(Semaphore::new(WAITING_BYTES)),
            sessions: Mutex::default(),
        });
        tokio::spawn(read_datagrams(connection, Arc::downgrade(&lane)));
        lane
    }

    /// A stream begins; none on a connection that is closed.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Busy> {
        let mut state = self.state.lock();
        if state.is_closed || self.connection.close_reason().is_some() {
            return None;
        }
        state.busy += 1;
        Some(Busy { lane: self.clone(), is_tunnel: false, is_let_in: false })
    }

    /// Whether streams may be opened on it.
    pub(crate) fn is_alive(&self) -> bool {
        self.connection.close_reason().is_none() && !self.state.lock().is_closed
    }

    /// Whether nothing runs on it.
    pub(crate) fn is_idle(&self) -> bool {
        self.state.lock().busy == 0
    }

    /// Closes it when nothing ran on it for `idle`; else how long to wait for the next look.
    pub(crate) fn close_idle(&self, idle: Duration) -> Option<Duration> {
        let mut state = self.state.lock();
        if state.busy > 0 {
            return Some(idle);
        }
        let left = idle.saturating_sub(state.used.elapsed());
        if !left.is_zero() {
            return Some(left);
        }
        state.is_closed = true;
        None
    }

    /// Closes it, from the side that dialled, once it was idle for long.
    pub(crate) async fn end_idle(self: Arc<Self>) {
        while let Some(left) = self.close_idle(IDLE) {
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                _ = self.connection.closed() => return,
            }
        }
        self.connection.close(VarInt::from_u32(close::IDLE), b"idle");
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
                let size = u32::try_from(datagram.len()).unwrap_or(u32::MAX);
                let Ok(room) = lane.room.clone().try_acquire_many_owned(size) else { continue };
                let _ = session.try_send((datagram.slice(length..), room));
            }
        }
    }
}

/// The datagrams of one session. Dropped, later ones are thrown away.
pub struct Session {
    lane: Arc<Lane>,
    number: u64,
    inbox: mpsc::Receiver<Waiting>,
}

impl Session {
    /// Its number on its connection.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next datagram from the peer. Cancel safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.inbox.recv().await.map(|(datagram, _)| datagram)
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
