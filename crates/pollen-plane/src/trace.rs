//! W3C trace context: which tree of calls a call belongs to.
//!
//! Every call has a context; one that comes without, or with a malformed one, begins a trace.
//! Source: W3C Trace Context, Level 1 (`traceparent`). Refused: carrying `tracestate`; its
//! specification lets who does not change it drop it, and 512 bytes a call are too many here.

use crate::{draw::draw, hex::hex};

/// Length of a `traceparent` of version 00.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;

/// The place of one call in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    pub(crate) id: [u8; 16],
    pub(crate) span: [u8; 8],
    /// Zeros: it has none.
    pub(crate) parent: [u8; 8],
    flags: u8,
}

impl Trace {
    /// The first call of a trace. The id of the call also names the trace: it is as random.
    pub(crate) fn root(call: [u8; 16], is_sampled: bool) -> Self {
        let flags = if is_sampled { SAMPLED } else { 0 };
        Self { id: call, span: draw_span(), parent: [0; 8], flags }
    }

    /// A call that this one makes.
    pub fn child(&self) -> Self {
        Self { id: self.id, span: draw_span(), parent: self.span, flags: self.flags }
    }

    /// What a `traceparent` says, as the context of the caller; `None` when it is malformed.
    ///
    /// A later version may be longer and is read as far as this one goes, `ff` is none.
    pub fn parse(text: &str) -> Option<Self> {
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
    pub fn text(&self) -> TraceText {
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

    /// Whether its calls leave spans.
    pub(crate) fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// A `traceparent` on the stack.
pub struct TraceText([u8; LENGTH]);

impl TraceText {
    pub fn as_str(&self) -> &str {
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
}
