//! The bounded queue towards the brain (docs/internals/seam.md, "Muscles to brain").
//!
//! Control events are never lost: whoever emits one waits for room. Telemetry is coalesced to the
//! newest. Log lines are dropped when there is no room, and counted.

use std::{
    collections::VecDeque,
    io::Write as _,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::Mutex;
use pollen_net::Counts;
use pollen_wire::Id;
use serde::{Serialize, Serializer};
use serde_bytes::{ByteBuf, Bytes as Raw};
use tokio::sync::Semaphore;

/// One link, as `pollen.core.events.PeerSample`.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct PeerSample {
    #[serde(serialize_with = "id")]
    pub peer: Id,
    pub rtt_us: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
    pub direct: bool,
    pub silent_ms: u64,
    pub brain_age_ms: u64,
    /// Empty, or 32 bytes.
    pub via: ByteBuf,
    pub bulk: bool,
}

/// One seed on this node, as `pollen.core.events.SeedSample`.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct SeedSample {
    #[serde(serialize_with = "id")]
    pub seed: Id,
    pub calls: u64,
    pub failures: u64,
    pub in_flight: u64,
    pub queued: u64,
    pub run_us: u64,
    pub good: u64,
    pub faults: u64,
    pub cancelled: u64,
}

/// One service on this node, as `pollen.core.events.ServiceSample`.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct ServiceSample {
    #[serde(serialize_with = "id")]
    pub key: Id,
    pub opened: u64,
    pub open: u64,
    pub refused: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// What the brain is told; names and fields are those of `pollen.core.events`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "t", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Event {
    Hello {
        link: u64,
        #[serde(serialize_with = "id")]
        peer: Id,
        dialled: bool,
        remote: String,
        #[serde(serialize_with = "id")]
        cluster: Id,
        minor_min: u16,
        minor_max: u16,
        boot: ByteBuf,
        chain: ByteBuf,
    },
    LinkClosed {
        link: u64,
        #[serde(serialize_with = "id")]
        peer: Id,
        code: u32,
        reason: String,
    },
    PathMoved {
        link: u64,
        #[serde(serialize_with = "id")]
        peer: Id,
        address: String,
    },
    DialFailed {
        #[serde(serialize_with = "id")]
        peer: Id,
        slug: String,
        reason: String,
    },
    Message {
        link: u64,
        #[serde(serialize_with = "id")]
        peer: Id,
        body: ByteBuf,
    },
    Records {
        link: u64,
        #[serde(serialize_with = "id")]
        peer: Id,
        records: Vec<(ByteBuf, ByteBuf, ByteBuf)>,
        rejected: u64,
    },
    Join {
        request: u64,
        #[serde(serialize_with = "id")]
        peer: Id,
        remote: String,
        body: ByteBuf,
    },
    Inspected {
        request: u64,
        #[serde(serialize_with = "id")]
        content: Id,
        size: u64,
        functions: Vec<String>,
        memory_bytes: u64,
        may_be_program: bool,
        /// The prepared bundle; empty without one.
        bundle: ByteBuf,
        /// What its runner says of its functions, as JSON.
        description: String,
        slug: String,
        reason: String,
        remedy: String,
    },
    LoadFinished {
        #[serde(serialize_with = "id")]
        seed: Id,
        slug: String,
        reason: String,
    },
    SeedWoken {
        #[serde(serialize_with = "id")]
        seed: Id,
    },
    CallEnded {
        token: String,
        slug: String,
        reason: String,
        run_us: u64,
        output: ByteBuf,
        output_bytes: u64,
    },
    Telemetry {
        peers: Vec<PeerSample>,
        seeds: Vec<SeedSample>,
        memory_bytes: u64,
        events_dropped: u64,
        control_stalls: u64,
        services: Vec<ServiceSample>,
        mesh: Counts,
    },
    LinkWanted {
        #[serde(serialize_with = "id")]
        peer: Id,
    },
    ListenerOpened {
        listener: u64,
        bound: String,
        slug: String,
        reason: String,
        remedy: String,
    },
    ServiceProbed {
        number: u64,
        slug: String,
        reason: String,
    },
    Log {
        level: String,
        source: String,
        seed: String,
        call: String,
        trace_id: String,
        span_id: String,
        text: String,
    },
}

fn id<S: Serializer>(id: &Id, serializer: S) -> Result<S::Ok, S::Error> {
    Raw::new(id).serialize(serializer)
}

/// Bytes as the events carry them.
pub fn raw(bytes: &[u8]) -> ByteBuf {
    ByteBuf::from(bytes)
}

/// Most events that one drain returns.
pub const DRAIN: usize = 512;

/// The queue; `emit` and `log` from any task, `drain` from the brain's thread.
pub struct EventQueue {
    queue: Mutex<Queue>,
    /// Room for control events.
    room: Semaphore,
    armed: AtomicBool,
    wake: Mutex<Option<UnixStream>>,
    log_capacity: usize,
    dropped: AtomicU64,
    stalls: AtomicU64,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<(Class, Event)>,
    telemetry: Option<Event>,
    logs: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Control,
    Log,
}

impl EventQueue {
    /// Room for `capacity` control events and as many log lines; `wake` gets a byte when the queue
    /// stops being empty.
    pub fn new(capacity: usize, wake: UnixStream) -> Self {
        Self {
            queue: Mutex::default(),
            room: Semaphore::new(capacity.clamp(1, Semaphore::MAX_PERMITS)),
            armed: AtomicBool::new(false),
            wake: Mutex::new(Some(wake)),
            log_capacity: capacity,
            dropped: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
        }
    }

    /// Appends a control event; waits while there is no room.
    pub async fn emit(&self, event: Event) {
        if let Ok(permit) = self.room.try_acquire() {
            permit.forget();
        } else {
            self.stalls.fetch_add(1, Ordering::Relaxed);
            // Closed: nobody drains any more.
            let Ok(permit) = self.room.acquire().await else { return };
            permit.forget();
        }
        self.queue.lock().events.push_back((Class::Control, event));
        self.notify();
    }

    /// Appends a log line, or drops and counts it.
    pub fn log(&self, line: Event) {
        {
            let mut queue = self.queue.lock();
            if queue.logs >= self.log_capacity {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            queue.logs += 1;
            queue.events.push_back((Class::Log, line));
        }
        self.notify();
    }

    /// Replaces the telemetry that waits.
    pub fn telemetry(&self, newest: Event) {
        self.queue.lock().telemetry = Some(newest);
        self.notify();
    }

    /// Log lines dropped and times a control event had to wait.
    pub fn losses(&self) -> (u64, u64) {
        (self.dropped.load(Ordering::Relaxed), self.stalls.load(Ordering::Relaxed))
    }

    /// Events waiting.
    pub fn len(&self) -> usize {
        self.queue.lock().events.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next events, at most [`DRAIN`]; called after the wake byte was read.
    ///
    /// What is left over rings again at once, so that the brain's loop serves others in between.
    pub fn drain(&self) -> Vec<Event> {
        self.armed.store(false, Ordering::SeqCst);
        let (events, control, rest) = {
            let mut queue = self.queue.lock();
            let count = queue.events.len().min(DRAIN - 1);
            let taken: Vec<_> = queue.events.drain(..count).collect();
            let control = taken.iter().filter(|(class, _)| *class == Class::Control).count();
            queue.logs -= taken.len() - control;
            let mut events: Vec<_> = taken.into_iter().map(|(_, event)| event).collect();
            events.extend(queue.telemetry.take());
            (events, control, !queue.events.is_empty())
        };
        self.room.add_permits(control);
        if rest {
            self.notify();
        }
        events
    }

    /// Nobody drains any more: waiting emitters go on, the wake socket is closed.
    pub fn close(&self) {
        self.room.close();
        self.wake.lock().take();
    }

    fn notify(&self) {
        if self.armed.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(wake) = self.wake.lock().as_mut() {
            // A full socket already holds a byte that wakes the reader.
            let _ = wake.write(&[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;

    use super::*;

    fn closed(link: u64) -> Event {
        Event::LinkClosed { link, peer: [0; 32], code: 0, reason: String::new() }
    }

    fn line() -> Event {
        let empty = String::new;
        Event::Log {
            level: empty(),
            source: empty(),
            seed: empty(),
            call: empty(),
            trace_id: empty(),
            span_id: empty(),
            text: empty(),
        }
    }

    #[tokio::test]
    async fn control_events_wait_for_room_and_are_never_lost() {
        let (wake, _reader) = UnixStream::pair().unwrap();
        let queue = std::sync::Arc::new(EventQueue::new(1, wake));
        queue.emit(closed(1)).await;
        let second = tokio::spawn({
            let queue = queue.clone();
            async move { queue.emit(closed(2)).await }
        });
        while queue.losses().1 == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(queue.drain().len(), 1);
        second.await.unwrap();
        assert!(matches!(queue.drain()[..], [Event::LinkClosed { link: 2, .. }]));
    }

    #[tokio::test]
    async fn log_lines_beyond_the_room_are_dropped_and_counted() {
        let (wake, _reader) = UnixStream::pair().unwrap();
        let queue = EventQueue::new(1, wake);
        queue.log(line());
        queue.log(line());
        assert_eq!((queue.drain().len(), queue.losses().0), (1, 1));
        queue.log(line());
        assert_eq!(queue.drain().len(), 1);
    }

    #[tokio::test]
    async fn telemetry_is_coalesced_to_the_newest() {
        let (wake, _reader) = UnixStream::pair().unwrap();
        let queue = EventQueue::new(4, wake);
        queue.telemetry(closed(1));
        queue.telemetry(closed(2));
        assert!(matches!(queue.drain()[..], [Event::LinkClosed { link: 2, .. }]));
    }

    #[tokio::test]
    async fn one_byte_wakes_for_many_events_and_a_long_queue_rings_again() {
        let (wake, mut reader) = UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        let queue = EventQueue::new(4 * DRAIN, wake);
        for link in 0..(DRAIN as u64 + 10) {
            queue.emit(closed(link)).await;
        }
        let mut bytes = [0; 16];
        assert_eq!(reader.read(&mut bytes).unwrap(), 1);
        assert_eq!(queue.drain().len(), DRAIN - 1);
        assert_eq!(reader.read(&mut bytes).unwrap(), 1);
        assert_eq!(queue.drain().len(), 11);
        assert!(reader.read(&mut bytes).is_err(), "nothing waits, nothing rings");
    }
}
