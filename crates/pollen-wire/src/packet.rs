//! Packets that go through other members: `marks(1) source(8) destination(8)`, big-endian, and then
//! the packet. A half has `number(4) which(1)` before its part of it.
//!
//! The low four bits of the marks are the ttl, 0x40 marks a half. A node passes the other bits on
//! as they are; the destination drops a packet with one that it does not know.

use crate::Id;

/// The first 8 bytes of a node's key, as a number: what names it on the way.
pub type Short = u64;

/// Members that may pass a packet on, and one more: the ttl of a packet at its source.
pub const TTL: u8 = 4;
/// Bytes before a packet.
pub const HEADER: usize = 17;
/// Bytes before half a packet.
pub const HALF_HEADER: usize = HEADER + 5;

const TTL_BITS: u8 = 0x0f;
const HALF: u8 = 0x40;

/// What names a node on the way.
pub fn short(id: &Id) -> Short {
    let [a, b, c, d, e, f, g, h, ..] = *id;
    Short::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// What stands before a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    marks: u8,
    /// Whose packet it is.
    pub source: Short,
    /// Whom it is for.
    pub destination: Short,
}

impl Header {
    /// Of a packet at its source.
    pub fn new(source: Short, destination: Short) -> Self {
        Self { marks: TTL, source, destination }
    }

    /// How many more nodes may take it.
    pub fn ttl(&self) -> u8 {
        self.marks & TTL_BITS
    }

    /// Whether half a packet follows.
    pub fn is_half(&self) -> bool {
        self.marks & HALF != 0
    }

    /// Whether this version knows all its marks.
    pub fn is_known(&self) -> bool {
        self.marks & !(TTL_BITS | HALF) == 0
    }

    /// The header with which a node passes the packet on; `None` when no further one may take it.
    pub fn passed_on(self) -> Option<Self> {
        let ttl = self.ttl().checked_sub(1).filter(|ttl| *ttl > 0)?;
        Some(Self { marks: self.marks & !TTL_BITS | ttl, ..self })
    }

    /// The header of half of the packet.
    pub fn halved(self) -> Self {
        Self { marks: self.marks | HALF, ..self }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let (marks, rest) = out.split_at_mut(1);
        let (source, destination) = rest.split_at_mut(8);
        marks.copy_from_slice(&[self.marks]);
        source.copy_from_slice(&self.source.to_be_bytes());
        destination.copy_from_slice(&self.destination.to_be_bytes());
        out
    }

    /// The header, and what follows it; `None` when nothing does.
    pub fn decode(frame: &[u8]) -> Option<(Self, &[u8])> {
        let (marks, rest) = frame.split_first()?;
        let (source, rest) = rest.split_first_chunk::<8>()?;
        let (destination, body) = rest.split_first_chunk::<8>()?;
        let (source, destination) =
            (Short::from_be_bytes(*source), Short::from_be_bytes(*destination));
        (!body.is_empty()).then_some((Self { marks: *marks, source, destination }, body))
    }
}

/// Which half of a packet follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Half {
    /// The same for both halves of a packet, chosen by who halved it.
    pub number: u32,
    /// Whether it is the second.
    pub is_second: bool,
}

impl Half {
    /// What stands between the header and the half.
    pub fn encode(&self) -> [u8; HALF_HEADER - HEADER] {
        let [a, b, c, d] = self.number.to_be_bytes();
        [a, b, c, d, u8::from(self.is_second)]
    }

    /// Which half it is, and the half; `None` when that is neither.
    pub fn decode(body: &[u8]) -> Option<(Self, &[u8])> {
        let (number, rest) = body.split_first_chunk::<4>()?;
        let (which, part) = rest.split_first()?;
        let is_second = match which {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some((Self { number: u32::from_be_bytes(*number), is_second }, part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_seventeen_bytes_that_read_back() {
        let header = Header::new(0x0102_0304_0506_0708, 0x1112_1314_1516_1718);
        let mut frame = header.encode().to_vec();
        assert_eq!(frame, [4, 1, 2, 3, 4, 5, 6, 7, 8, 17, 18, 19, 20, 21, 22, 23, 24]);
        assert_eq!(Header::decode(&frame), None, "a header alone is no packet");
        frame.push(9);
        assert_eq!(Header::decode(&frame), Some((header, &[9][..])));
        for length in 0..HEADER {
            assert_eq!(Header::decode(frame.get(..length).unwrap_or_default()), None);
        }
    }

    #[test]
    fn a_packet_is_passed_on_three_times() {
        let mut header = Some(Header::new(1, 2));
        let ttls: Vec<u8> = std::iter::from_fn(|| {
            let now = header?;
            header = now.passed_on();
            Some(now.ttl())
        })
        .collect();
        assert_eq!(ttls, [4, 3, 2, 1]);
    }

    #[test]
    fn marks_of_a_later_version_are_passed_on_as_they_are() {
        let mut frame = Header::new(1, 2).encode().to_vec();
        frame.push(0);
        if let Some(marks) = frame.first_mut() {
            *marks |= 0x90;
        }
        let header = Header::decode(&frame).map(|(header, _)| header);
        assert_eq!(header.map(|h| (h.is_known(), h.is_half(), h.ttl())), Some((false, false, 4)));
        let passed = header.and_then(Header::passed_on);
        assert_eq!(passed.map(|h| h.encode()[0]), Some(0x93));
    }

    #[test]
    fn a_half_says_which_it_is() {
        let half = Half { number: 0x0a0b_0c0d, is_second: true };
        let bytes = [&half.encode()[..], b"part"].concat();
        assert_eq!(bytes, [10, 11, 12, 13, 1, b'p', b'a', b'r', b't']);
        assert_eq!(Half::decode(&bytes), Some((half, &b"part"[..])));
        assert_eq!(Half::decode(&[0, 0, 0, 0, 2]), None);
        assert!(Header::new(1, 2).halved().is_half());
    }
}
