//! Spans of sampled calls, one where a call begins and one where it runs.
//!
//! They are kept in a bounded ring until the brain takes them; when it is full, further ones are
//! dropped and counted.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use pollen_wire::Id;
use serde::Serialize;
use serde_bytes::ByteBuf;

use crate::{call::Spent, draw::draw, tables::SeedRow, trace::Trace};

/// Spans that wait for the brain.
const RING: usize = 2048;

/// One finished call, for the brain to export; times are those of this node's clocks.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Span {
    pub trace: ByteBuf,
    pub span: ByteBuf,
    /// Empty: none.
    pub parent: ByteBuf,
    /// Where it ran, else where it began.
    pub ran: bool,
    pub seed: String,
    pub version: ByteBuf,
    pub function: String,
    pub start_unix_ns: u64,
    pub duration_ns: u64,
    /// Empty when it went well; `cancelled` when nobody waited for it any more.
    pub slug: Cow<'static, str>,
    pub node: ByteBuf,
    pub attempts: u8,
    pub queue_us: u32,
    pub run_us: u32,
}

/// What is known of a span before its call ends.
pub(crate) struct Began {
    pub(crate) trace: Trace,
    pub(crate) seed: Arc<str>,
    pub(crate) version: Id,
    pub(crate) function: Arc<str>,
    pub(crate) at: Instant,
}

impl Began {
    pub(crate) fn new(trace: Trace, row: &SeedRow, function: &Arc<str>, at: Instant) -> Self {
        Self { trace, seed: row.name.clone(), version: row.seed, function: function.clone(), at }
    }
}

/// A span whose call has not ended yet; one that is dropped was cancelled.
pub(crate) struct OpenSpan {
    spans: Arc<Spans>,
    began: Began,
    ran: bool,
    node: Option<Id>,
    attempts: u8,
    is_ended: bool,
}

impl OpenSpan {
    /// `ran`: where the call runs, else where it began. Boxed: spans are rare, and the future of
    /// every call would grow by one.
    pub(crate) fn begin(spans: &Arc<Spans>, here: Id, began: Began, ran: bool) -> Box<Self> {
        let node = ran.then_some(here);
        Box::new(Self {
            spans: spans.clone(),
            began,
            ran,
            node,
            attempts: u8::from(ran),
            is_ended: false,
        })
    }

    /// Another version of the seed serves the call than the one that it began with.
    pub(crate) fn moves_to(&mut self, row: &SeedRow) {
        if self.began.version != row.seed {
            (self.began.seed, self.began.version) = (row.name.clone(), row.seed);
        }
    }

    /// The call's attempt of this number, counted over a chain of tail calls, goes to a node.
    pub(crate) fn tries(&mut self, node: Id, attempts: u8) {
        (self.node, self.attempts) = (Some(node), attempts);
    }

    pub(crate) fn end(mut self, ended: Ended) {
        self.is_ended = true;
        self.spans.finish(&self.began, self.ran, ended);
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if !self.is_ended {
            let (slug, node, attempts) = (Cow::Borrowed("cancelled"), self.node, self.attempts);
            let ended = Ended { slug, node, attempts, spent: Spent::default() };
            self.spans.finish(&self.began, self.ran, ended);
        }
    }
}

/// How the call of a span ended.
pub(crate) struct Ended {
    pub(crate) slug: Cow<'static, str>,
    pub(crate) node: Option<Id>,
    pub(crate) attempts: u8,
    pub(crate) spent: Spent,
}

/// The spans that wait for the brain; off until it asks for them.
#[derive(Default)]
pub struct Spans {
    is_on: AtomicBool,
    /// A trace that begins here is sampled when a drawn number is below this.
    share: AtomicU64,
    ring: Mutex<VecDeque<Span>>,
    dropped: AtomicU64,
}

impl Spans {
    /// Keeps the spans of sampled traces, and samples this share (in millionths) of those that
    /// begin here.
    pub fn turn_on(&self, millionths: u32) {
        let share = match millionths {
            1_000_000.. => u64::MAX,
            part => (u64::MAX / 1_000_000) * u64::from(part),
        };
        self.share.store(share, Relaxed);
        self.is_on.store(true, Relaxed);
    }

    /// The spans that waited, oldest first.
    pub fn drain(&self) -> VecDeque<Span> {
        std::mem::take(&mut *self.ring.lock())
    }

    /// Spans lost for want of room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Whether a trace that begins here is to be sampled.
    pub(crate) fn samples(&self) -> bool {
        let share = self.share.load(Relaxed);
        share > 0 && draw() <= share
    }

    /// Whether a call of this trace leaves a span.
    pub(crate) fn wants(&self, trace: &Trace) -> bool {
        trace.is_sampled() && self.is_on.load(Relaxed)
    }

    fn finish(&self, began: &Began, ran: bool, ended: Ended) {
        let took = began.at.elapsed();
        let start = SystemTime::now().checked_sub(took);
        let start = start.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let trace = began.trace;
        let id = |bytes: &[u8]| ByteBuf::from(bytes);
        let span = Span {
            trace: id(&trace.id),
            span: id(&trace.span),
            parent: id(if trace.parent == [0; 8] { &[] } else { &trace.parent }),
            ran,
            seed: began.seed.to_string(),
            version: id(&began.version),
            function: began.function.to_string(),
            start_unix_ns: start.map_or(0, nanos),
            duration_ns: nanos(took),
            slug: ended.slug,
            node: id(ended.node.as_ref().map_or(&[], |node| node)),
            attempts: ended.attempts,
            queue_us: ended.spent.queue_us,
            run_us: ended.spent.run_us,
        };
        let mut ring = self.ring.lock();
        if ring.len() < RING {
            ring.push_back(span);
        } else {
            drop(ring);
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_the_ring_is_counted() {
        let spans = Spans::default();
        assert!(!spans.samples());
        spans.turn_on(1_000_000);
        assert!(spans.samples());
        let trace = Trace::root([1; 16], true);
        let (seed, function) = (Arc::from("echo"), Arc::from("say"));
        let began = Began { trace, seed, version: [2; 32], function, at: Instant::now() };
        for _ in 0..RING + 3 {
            let slug = Cow::Borrowed("");
            let ended = Ended { slug, node: None, attempts: 1, spent: Spent::default() };
            spans.finish(&began, true, ended);
        }
        assert_eq!((spans.drain().len(), spans.dropped(), spans.drain().len()), (RING, 3, 0));
        spans.turn_on(0);
        assert!(!spans.samples() && spans.wants(&trace));
    }
}
