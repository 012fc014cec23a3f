//! Packets that go in two halves, because they must get through and exceed what a carrier takes.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use pollen_wire::packet::{HALF_HEADER, HEADER, Half, Header, Short};

/// First halves that wait for the other; more, and all are forgotten. QUIC sends lost packets again.
const WAITING: usize = 1024;

/// The two halves of a packet, as frames.
pub(crate) fn split(header: Header, body: &[u8], number: u32) -> [Bytes; 2] {
    let (first, second) = body.split_at(body.len() / 2);
    [(false, first), (true, second)].map(|(is_second, part)| {
        let mut frame = BytesMut::with_capacity(HALF_HEADER + part.len());
        frame.put_slice(&header.halved().encode());
        frame.put_slice(&Half { number, is_second }.encode());
        frame.put_slice(part);
        frame.freeze()
    })
}

/// Halves whose other half has not come yet, by source and number.
#[derive(Debug, Default)]
pub(crate) struct Halves(HashMap<(Short, u32), (bool, Bytes)>);

impl Halves {
    /// The whole packet, once both halves of it came.
    pub(crate) fn join(&mut self, source: Short, frame: &Bytes) -> Option<Bytes> {
        let (half, _) = Half::decode(frame.get(HEADER..)?)?;
        let part = frame.slice(HALF_HEADER..);
        let key = (source, half.number);
        let Some((is_second, other)) = self.0.remove(&key) else {
            if self.0.len() >= WAITING {
                self.0.clear();
            }
            self.0.insert(key, (half.is_second, part));
            return None;
        };
        if is_second == half.is_second {
            self.0.insert(key, (is_second, other));
            return None;
        }
        let (first, second) = if is_second { (&part, &other) } else { (&other, &part) };
        Some([&first[..], &second[..]].concat().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_halves_in_any_order_are_the_packet() {
        let body: Vec<u8> = (0..=200).collect();
        let [first, second] = split(Header::new(1, 2), &body, 7);
        for (one, other) in [(&first, &second), (&second, &first)] {
            let mut halves = Halves::default();
            assert_eq!(halves.join(1, one), None);
            assert_eq!(halves.join(1, one), None, "the same half twice is no packet");
            assert_eq!(halves.join(2, other), None, "nor is a half of somebody else");
            assert_eq!(halves.join(1, other).as_deref(), Some(&body[..]));
        }
    }

    #[test]
    fn halves_of_packets_that_never_come_take_bounded_room() {
        let mut halves = Halves::default();
        for number in 0..5_000 {
            halves.join(1, &split(Header::new(1, 2), b"packet", number)[0]);
        }
        assert!(halves.0.len() <= WAITING);
    }
}
