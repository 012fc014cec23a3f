//! The neighbours: which of a route's next members a packet goes to, which has a carrier, which is
//! being dialled, and what waits for it meanwhile.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use pollen_wire::{Id, packet::Short};

/// Packets that wait for a carrier, and those that one that fell silent gives back.
pub(crate) const RING: usize = 64;
/// A packet waits no longer: answers that come late make the round trip of the connection above
/// look like seconds.
pub(crate) const WAIT: Duration = Duration::from_millis(300);
/// A neighbour that could not be reached is left alone for so long.
pub(crate) const REST: Duration = Duration::from_secs(1);

/// A carrier, as far as the choice of one goes.
pub(crate) trait Way: Clone {
    /// Whether packets may go over it now.
    fn is_usable(&self) -> bool;
    /// Of two carriers to one neighbour both sides use that of the same dialler.
    fn comes_first(&self) -> bool;
    /// Whether it is the same one.
    fn is(&self, other: &Self) -> bool;
}

/// A packet that was handed over, or waits to be.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) at: Instant,
    /// The neighbour that it came from; `None` of this node's own.
    pub(crate) from: Option<Short>,
    pub(crate) frame: Bytes,
}

/// A neighbour by which a packet may go. Without its key none can be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) hop: Short,
    pub(crate) id: Option<Id>,
}

enum Slot<W> {
    Opening { since: Instant, ring: VecDeque<Held> },
    Open(W),
    Resting { until: Instant, was_silent: bool },
}

/// Where a packet may go.
pub(crate) struct Choice<W> {
    /// The carrier that takes it.
    pub(crate) over: Option<W>,
    /// A neighbour that comes before that, or is the only one, and whose carrier is not up yet.
    pub(crate) opens: Option<Id>,
}

/// All neighbours that packets ever wanted, or who dialled.
pub(crate) struct Slots<W>(HashMap<Short, Slot<W>>);

impl<W> Default for Slots<W> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<W: Way> Slots<W> {
    /// The first candidate whose carrier is up, and the first that may get one.
    pub(crate) fn choose(&self, candidates: &[Candidate], now: Instant) -> Choice<W> {
        let (mut opens, mut last) = (None, None);
        for candidate in candidates {
            match self.0.get(&candidate.hop) {
                Some(Slot::Open(way)) if way.is_usable() => {
                    return Choice { over: Some(way.clone()), opens };
                }
                // It is about to end.
                Some(Slot::Open(_)) => {}
                Some(Slot::Opening { since, .. }) if now > *since + WAIT => {}
                Some(Slot::Resting { until, was_silent }) if now < *until => {
                    if *was_silent {
                        last = last.or(candidate.id);
                    }
                }
                _ => opens = opens.or(candidate.id),
            }
        }
        // Nobody else takes it: one that fell silent may be back.
        Choice { over: None, opens: opens.or(last) }
    }

    /// Whether the neighbour has a carrier.
    pub(crate) fn has(&self, hop: Short) -> bool {
        matches!(self.0.get(&hop), Some(Slot::Open(_)))
    }

    /// How many have one.
    pub(crate) fn open(&self) -> usize {
        self.0.values().filter(|slot| matches!(slot, Slot::Open(_))).count()
    }

    /// A carrier is wanted; true when nobody dials yet.
    pub(crate) fn begin(&mut self, hop: Short, now: Instant) -> bool {
        if matches!(self.0.get(&hop), Some(Slot::Opening { .. } | Slot::Open(_))) {
            return false;
        }
        self.0.insert(hop, Slot::Opening { since: now, ring: VecDeque::new() });
        true
    }

    /// Packets wait for the carrier that is being dialled; how many others were dropped for them.
    pub(crate) fn wait(&mut self, hop: Short, packets: impl Iterator<Item = Held>) -> usize {
        let Some(Slot::Opening { ring, .. }) = self.0.get_mut(&hop) else { return packets.count() };
        packets.map(|held| usize::from(keep(ring, held))).sum()
    }

    /// A carrier is up: what waited for it, and whether it is the one that is used.
    pub(crate) fn settle(&mut self, hop: Short, way: &W) -> (VecDeque<Held>, bool) {
        let is_better = match self.0.get(&hop) {
            Some(Slot::Open(held)) => !held.is_usable() || way.comes_first() || !held.comes_first(),
            _ => true,
        };
        if !is_better {
            return (VecDeque::new(), false);
        }
        match self.0.insert(hop, Slot::Open(way.clone())) {
            Some(Slot::Opening { ring, .. }) => (ring, true),
            _ => (VecDeque::new(), true),
        }
    }

    /// A carrier ended; one that fell silent is dialled again when nobody else takes the packets.
    pub(crate) fn end(&mut self, hop: Short, way: &W, was_silent: bool, now: Instant) {
        let is_it = matches!(self.0.get(&hop), Some(Slot::Open(held)) if held.is(way));
        if is_it && was_silent {
            self.0.insert(hop, Slot::Resting { until: now + REST, was_silent });
        } else if is_it {
            self.0.remove(&hop);
        }
    }

    /// No carrier came of it: what waited.
    pub(crate) fn refuse(&mut self, hop: Short, now: Instant) -> VecDeque<Held> {
        if self.has(hop) {
            return VecDeque::new();
        }
        let slot = Slot::Resting { until: now + REST, was_silent: false };
        match self.0.insert(hop, slot) {
            Some(Slot::Opening { ring, .. }) => ring,
            _ => VecDeque::new(),
        }
    }

    /// The neighbour may be dialled again at once.
    pub(crate) fn forgive(&mut self, hop: Short) {
        if matches!(self.0.get(&hop), Some(Slot::Resting { .. })) {
            self.0.remove(&hop);
        }
    }

    /// The neighbour is gone: its carrier, which is to be closed.
    pub(crate) fn remove(&mut self, hop: Short) -> Option<W> {
        match self.0.remove(&hop) {
            Some(Slot::Open(way)) => Some(way),
            _ => None,
        }
    }
}

/// Keeps the newest packets; true when the oldest went for it.
pub(crate) fn keep(ring: &mut VecDeque<Held>, held: Held) -> bool {
    let is_full = ring.len() >= RING;
    if is_full {
        ring.pop_front();
    }
    ring.push_back(held);
    is_full
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    #[derive(Clone)]
    struct Fake(&'static str, Rc<Cell<bool>>);

    impl Way for Fake {
        fn is_usable(&self) -> bool {
            self.1.get()
        }

        fn comes_first(&self) -> bool {
            self.0 == "first"
        }

        fn is(&self, other: &Self) -> bool {
            Rc::ptr_eq(&self.1, &other.1)
        }
    }

    fn fake(name: &'static str) -> Fake {
        Fake(name, Rc::new(Cell::new(true)))
    }

    fn candidates(hops: &[Short]) -> Vec<Candidate> {
        hops.iter().map(|hop| Candidate { hop: *hop, id: Some([*hop as u8; 32]) }).collect()
    }

    fn packet(now: Instant, byte: u8) -> Held {
        Held { at: now, from: None, frame: Bytes::copy_from_slice(&[byte]) }
    }

    #[test]
    fn the_first_carrier_that_is_up_takes_a_packet_and_a_better_one_is_opened() {
        let (mut slots, now) = (Slots::default(), Instant::now());
        let way = fake("two");
        slots.settle(2, &way);
        let choice = slots.choose(&candidates(&[1, 2]), now);
        assert!(choice.over.is_some_and(|over| over.is(&way)));
        assert_eq!(choice.opens, Some([1; 32]));
        assert_eq!(slots.choose(&candidates(&[2, 1]), now).opens, None);
        way.1.set(false);
        assert!(slots.choose(&candidates(&[2]), now).over.is_none(), "not over one that is silent");
    }

    #[test]
    fn one_that_does_not_answer_is_passed_over_and_what_waited_comes_back() {
        let (mut slots, now) = (Slots::<Fake>::default(), Instant::now());
        assert!(slots.begin(1, now) && !slots.begin(1, now));
        assert_eq!(slots.wait(1, (0..70).map(|byte| packet(now, byte))), 6);
        assert_eq!(slots.choose(&candidates(&[1, 2]), now).opens, Some([1; 32]));
        let later = now + WAIT + Duration::from_millis(1);
        assert_eq!(slots.choose(&candidates(&[1, 2]), later).opens, Some([2; 32]));
        let ring = slots.refuse(1, now);
        assert_eq!((ring.len(), ring[0].frame[0]), (RING, 6), "the newest were kept");
        assert_eq!(slots.choose(&candidates(&[1]), now).opens, None);
        assert_eq!(slots.choose(&candidates(&[1]), now + REST).opens, Some([1; 32]));
        slots.forgive(1);
        assert_eq!(slots.choose(&candidates(&[1]), now).opens, Some([1; 32]));
    }

    #[test]
    fn one_that_fell_silent_is_dialled_again_when_it_is_the_only_one() {
        let (mut slots, now) = (Slots::default(), Instant::now());
        let way = fake("way");
        slots.settle(1, &way);
        slots.end(1, &way, true, now);
        assert_eq!(slots.choose(&candidates(&[1, 2]), now).opens, Some([2; 32]));
        assert_eq!(slots.choose(&candidates(&[1]), now).opens, Some([1; 32]));
    }

    #[test]
    fn of_two_carriers_to_one_neighbour_the_same_is_used_at_both_ends() {
        for order in [["first", "second"], ["second", "first"]] {
            let mut slots = Slots::default();
            let ways = order.map(fake);
            ways.iter().for_each(|way| drop(slots.settle(1, way)));
            let over = slots.choose(&candidates(&[1]), Instant::now()).over;
            assert_eq!(over.map(|way| way.0), Some("first"));
            // The end of the one that is not used changes nothing.
            let other = ways.iter().find(|way| way.0 == "second");
            other.into_iter().for_each(|way| slots.end(1, way, false, Instant::now()));
            assert!(slots.has(1));
        }
    }
}
