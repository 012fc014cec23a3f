//! One connection to a neighbour that carries packets as datagrams: what goes out on it, and what
//! it gives back when it falls silent.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
    time::Instant,
};

use bytes::Bytes;
use iroh::endpoint::Connection;
use parking_lot::Mutex;
use pollen_wire::{
    Id,
    packet::{HEADER, Header, Short, short},
};
use tokio::sync::Notify;

use crate::{
    halves,
    slots::{Held, Way, keep},
};

/// Packets that wait on a carrier, bytes; beyond, the library drops the oldest.
pub const SEND_BUFFER: usize = 1024 * 1024;
/// Packets that came and were not read yet, bytes.
pub const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// What the connection adds to a packet in its queue, bytes at most. Guess, on the safe side.
const IN_QUEUE: usize = 64;
/// The smallest packets that QUIC must be able to send. A larger one that does not fit is a probe
/// for a larger size: its loss tells its source what fits.
const MUST_PASS: usize = 1200;

/// A carrier. Shared by who hands packets over and by those who look after it.
pub(crate) struct Carrier {
    pub(crate) id: Id,
    pub(crate) peer: Short,
    pub(crate) connection: Connection,
    pub(crate) dialled: bool,
    comes_first: bool,
    usable: AtomicBool,
    /// Bytes ever handed over, and ever taken.
    pub(crate) handed: AtomicU64,
    pub(crate) taken: AtomicU64,
    /// Nobody looks, as nothing is under way: the next packet wakes who does.
    pub(crate) at_rest: AtomicBool,
    pub(crate) wake: Notify,
    unheard: Mutex<VecDeque<Held>>,
}

/// What became of packets that were handed over.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pushed {
    pub(crate) sent: usize,
    pub(crate) too_large: usize,
    pub(crate) halved: usize,
    pub(crate) crowded: usize,
}

impl Carrier {
    pub(crate) fn new(me: &Id, connection: Connection, dialled: bool) -> Arc<Self> {
        let id = *connection.remote_id().as_bytes();
        let dialler = if dialled { me } else { &id };
        Arc::new(Self {
            id,
            peer: short(&id),
            comes_first: *dialler == id.min(*me),
            connection,
            dialled,
            usable: AtomicBool::new(true),
            handed: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            at_rest: AtomicBool::new(false),
            wake: Notify::new(),
            unheard: Mutex::default(),
        })
    }

    /// No packet is handed to it from now on.
    pub(crate) fn retire(&self) {
        self.usable.store(false, Relaxed);
    }

    /// Hands packets over. What is larger than the path takes goes in halves if it must get
    /// through, and is dropped if not.
    pub(crate) fn push(
        &self,
        frames: &[Bytes],
        from: Option<Short>,
        now: Instant,
        numbers: &AtomicU32,
    ) -> Pushed {
        let mut pushed = Pushed::default();
        let most = self.connection.max_datagram_size().unwrap_or(0);
        let bytes: usize = frames.iter().map(|frame| frame.len() + IN_QUEUE).sum();
        if bytes > self.connection.datagram_send_buffer_space() {
            // Drops the oldest: the newest tell more.
            pushed.crowded = frames.len();
        }
        self.note(frames, from, now);
        if frames.iter().all(|frame| frame.len() <= most) {
            if self.connection.send_many_datagrams(frames).is_ok() {
                pushed.sent = frames.len();
            }
            return pushed;
        }
        for frame in frames {
            if frame.len() <= most {
                pushed.sent += usize::from(self.connection.send_datagram(frame.clone()).is_ok());
            } else if frame.len() > MUST_PASS + HEADER {
                pushed.too_large += 1;
            } else if let Some((header, body)) = Header::decode(frame) {
                let number = numbers.fetch_add(1, Relaxed);
                let halves = halves::split(header, body, number);
                pushed.sent += usize::from(self.connection.send_many_datagrams(&halves).is_ok());
                pushed.halved += 1;
            }
        }
        pushed
    }

    /// Keeps the packets until something is heard of the neighbour.
    fn note(&self, frames: &[Bytes], from: Option<Short>, now: Instant) {
        let mut unheard = self.unheard.lock();
        for frame in frames {
            keep(&mut unheard, Held { at: now, from, frame: frame.clone() });
        }
        drop(unheard);
        let bytes: usize = frames.iter().map(Bytes::len).sum();
        self.handed.fetch_add(bytes as u64, SeqCst);
        if self.at_rest.load(SeqCst) && self.at_rest.swap(false, SeqCst) {
            self.wake.notify_one();
        }
    }

    /// The neighbour was heard: what was handed over before `since` has arrived, or is lost as
    /// packets are.
    pub(crate) fn heard(&self, since: Instant) {
        self.unheard.lock().retain(|held| held.at >= since);
    }

    /// The packets of which nobody knows whether they arrived.
    pub(crate) fn give_back(&self) -> VecDeque<Held> {
        std::mem::take(&mut *self.unheard.lock())
    }
}

impl Way for Arc<Carrier> {
    fn is_usable(&self) -> bool {
        self.usable.load(Relaxed)
    }

    fn comes_first(&self) -> bool {
        self.comes_first
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other)
    }
}
