//! W3C trace context: which tree of calls a call belongs to, and the spans of those that are sampled.
//!
//! Every call has a context; one that comes without, or with a malformed one, begins a trace. A call
//! has a span at the node where it begins and another where it runs; those of a sampled trace are
//! kept in a bounded ring until the brain takes them, and dropped and counted when it is full.
//! Source: W3C Trace Context, Level 1 (`traceparent`). Refused: carrying `tracestate`; its
//! specification lets who does not change it drop it, and 512 bytes a call are too many here.

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

use crate::{Plane, call::hex, plane::draw, tables::SeedRow};

/// Spans that wait for the brain.
const RING: usize = 2048;
/// Length of a `traceparent` of version 00.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;

/// The place of one call in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    id: [u8; 16],
    span: [u8; 8],
    /// Zeros: it has none.
    parent: [u8; 8],
    flags: u8,
}

impl Trace {
    /// The first call of a trace. The id of the call also names the trace: it is as random.
    pub(crate) fn root(call: [u8; 16], is_sampled: bool) -> Self {
        let flags = if is_sampled { SAMPLED } else { 0 };
        Self { id: call, span: draw_span(), parent: [0; 8], flags }
    }

    /// A call that this one makes.
    pub(crate) fn child(&self) -> Self {
        Self { id: self.id, span: draw_span(), parent: self.span, flags: self.flags }
    }

    /// What a `traceparent` says, as the context of the caller; `None` when it is malformed.
    ///
    /// A later version may be longer and is read as far as this one goes, `ff` is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (known, rest) = text.as_bytes().split_at_checked(LENGTH)?;
        let [v1, v2, b'-', trace @ .., b'-', f1, f2] = known else { return None };
        let (id, span) = (trace.get(..32)?, trace.get(33..)?);
        let version = byte(*v1, *v2)?;
        let is_ended = rest.is_empty() || (version > 0 && rest.first() == Some(&b'-'));
        if version == 0xff || !is_ended || trace.get(32) != Some(&b'-') {
            return None;
        }
        let found = Self {
            id: bytes(id)?,
            span: bytes(span)?,
            parent: [0; 8],
            flags: byte(*f1, *f2)? & SAMPLED,
        };
        (found.id != [0; 16] && found.span != [0; 8]).then_some(found)
    }

    /// As a `traceparent`, without allocating.
    pub(crate) fn text(&self) -> TraceText {
        let mut out = *b"00-................................-................-00";
        let digits = |into: Option<&mut [u8]>, from: &[u8]| {
            for (pair, byte) in into.into_iter().flat_map(|s| s.chunks_mut(2)).zip(from) {
                if let [high, low] = pair {
                    (*high, *low) = (digit(byte >> 4), digit(byte & 15));
                }
            }
        };
        digits(out.get_mut(3..35), &self.id);
        digits(out.get_mut(36..52), &self.span);
        digits(out.get_mut(53..), &[self.flags]);
        TraceText(out)
    }

    /// The trace and the span in hex, as log lines name them.
    pub(crate) fn names(&self) -> (String, String) {
        (hex(&self.id), hex(&self.span))
    }

    fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// A `traceparent` on the stack.
pub(crate) struct TraceText([u8; LENGTH]);

impl TraceText {
    pub(crate) fn as_str(&self) -> &str {
        // Only digits and dashes were written.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

fn draw_span() -> [u8; 8] {
    // Zeros would say that there is none.
    draw().max(1).to_le_bytes()
}

fn digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

fn byte(high: u8, low: u8) -> Option<u8> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    Some(nibble(high)? << 4 | nibble(low)?)
}

fn bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    for (into, pair) in out.iter_mut().zip(digits.as_chunks::<2>().0) {
        *into = byte(pair[0], pair[1])?;
    }
    (digits.len() == 2 * N).then_some(out)
}

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
    plane: Plane,
    began: Began,
    ran: bool,
    node: Option<Id>,
    attempts: u8,
    is_ended: bool,
}

impl OpenSpan {
    /// `ran`: where the call runs, else where it began. Boxed: spans are rare, and the future of
    /// every call would grow by one.
    pub(crate) fn begin(plane: &Plane, began: Began, ran: bool) -> Box<Self> {
        let node = ran.then(|| plane.id());
        Box::new(Self {
            plane: plane.clone(),
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
        self.plane.spans().finish(&self.began, self.ran, ended);
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if !self.is_ended {
            let (slug, node, attempts) = (Cow::Borrowed("cancelled"), self.node, self.attempts);
            let ended = Ended { slug, node, attempts, queue_us: 0, run_us: 0 };
            self.plane.spans().finish(&self.began, self.ran, ended);
        }
    }
}

/// How the call of a span ended.
pub(crate) struct Ended {
    pub(crate) slug: Cow<'static, str>,
    pub(crate) node: Option<Id>,
    pub(crate) attempts: u8,
    pub(crate) queue_us: u32,
    pub(crate) run_us: u32,
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
            queue_us: ended.queue_us,
            run_us: ended.run_us,
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_reads_back_as_it_was_written() {
        let trace = Trace::parse(GOOD).unwrap();
        assert_eq!(trace.text().as_str(), GOOD);
        assert_eq!(Trace::root([7; 16], true).text().as_str().len(), LENGTH);
    }

    #[test]
    fn a_child_keeps_the_trace_and_names_its_parent() {
        let parent = Trace::parse(GOOD).unwrap();
        let child = parent.child();
        assert_eq!((child.id, child.parent, child.flags), (parent.id, parent.span, parent.flags));
        assert_ne!(child.span, parent.span);
    }

    #[test]
    fn what_the_standard_calls_invalid_is_none() {
        let later = format!("01{}-what-comes-later", &GOOD[2..]);
        assert!(Trace::parse(&later).is_some());
        let bad = [
            String::new(),
            "é".repeat(40),
            GOOD[..54].to_owned(),
            format!("{GOOD}-more"),
            format!("01{}.more", &GOOD[2..]),
            GOOD.replacen("00", "ff", 1),
            GOOD.to_uppercase(),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace('-', "_"),
            GOOD.replace("01", "0g"),
        ];
        for text in bad {
            assert_eq!(Trace::parse(&text), None, "{text}");
        }
    }

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
            let (node, attempts, queue_us, run_us) = (None, 1, 0, 0);
            let ended = Ended { slug, node, attempts, queue_us, run_us };
            spans.finish(&began, true, ended);
        }
        assert_eq!((spans.drain().len(), spans.dropped(), spans.drain().len()), (RING, 3, 0));
        spans.turn_on(0);
        assert!(!spans.samples() && spans.wants(&trace));
    }
}
