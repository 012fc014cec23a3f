//! admit: whether an arriving call runs, waits or is refused, and whether it wakes a cold seed.

use crate::numbers::{CALL_SHORT_US, FULL};

/// An arriving call and the state it meets.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Who runs, and how many may.
    pub room: Room,
    /// What a call of its seed runs, smoothed.
    pub service_us: u64,
    /// Calls waiting.
    pub queued: u64,
    /// Calls that may wait.
    pub queue_limit: u64,
    /// 0 for a call that no guest made.
    pub depth: u64,
    /// What it needs of the memory for guests.
    pub memory: Stock,
    /// This call id was seen before.
    pub seen: bool,
}

/// What a call needs of the memory for guests, and what there is.
#[derive(Debug, Clone, Copy)]
pub struct Stock {
    /// Guest memory not charged.
    pub memory_free: u64,
    /// Memory that only calls with a depth may use, so that a chain begun can end.
    pub memory_reserve: u64,
    /// What its own guest was seen to need.
    pub memory_need: u64,
    /// Memory not promised to the calls at depth 0 under way, the reserve aside.
    pub tree_free: u64,
    /// What its guest and those of the calls beneath it were seen to need at once.
    pub tree_need: u64,
    /// Calls under way here, whether they run or wait for others.
    pub under_way: u64,
}

/// Whether the memory is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is.
    Now,
    /// It is when calls under way have ended.
    Later,
    /// No call under way will give it back, or the call may not wait for it.
    Never,
}

impl Stock {
    /// A call at depth 0 waits until its whole tree fits beside those under way; one beneath
    /// another never waits, because that one keeps its memory until this one has ended. Alone, a
    /// call starts whatever its tree needs.
    #[inline]
    pub fn fit(&self, depth: u64) -> Fit {
        let kept = if depth > 0 { 0 } else { self.memory_reserve };
        let is_short = self.memory_need > self.memory_free.saturating_sub(kept);
        if is_short && (depth > 0 || self.under_way == 0) {
            Fit::Never
        } else if is_short || (depth == 0 && self.under_way > 0 && self.tree_need > self.tree_free)
        {
            Fit::Later
        } else {
            Fit::Now
        }
    }
}

/// The slots of a node.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Calls running.
    pub running: u64,
    /// Calls that may run.
    pub slots: u64,
    /// Calls running that have not burned for long yet, short ones aside.
    pub fresh: u64,
    /// How many of these may run.
    pub fresh_slots: u64,
}

/// Whether its calls pass those that burn.
#[inline]
pub fn is_short(service_us: u64) -> bool {
    service_us < CALL_SHORT_US
}

impl Room {
    /// Whether a call takes a slot at once.
    ///
    /// Few fresh ones at a time, so that each is soon done; who burns on for long makes place for
    /// the next, and nobody waits for long ones (multilevel feedback: Corbató et al., 1962).
    #[inline]
    pub fn admits(&self, service_us: u64) -> bool {
        self.running < self.slots && (is_short(service_us) || self.fresh < self.fresh_slots)
    }
}

/// How full a node is, as its replies report it: 0 idle, 127 all slots taken, 255 the queue is full
/// too.
#[inline]
pub fn fullness(room: &Room, queued: u64, queue_limit: u64) -> u8 {
    let part = |taken: u64, of: u64| taken.min(of) * 127 / of.max(1);
    let taken = part(room.running, room.slots).max(part(room.fresh, room.fresh_slots));
    let filled = taken + part(queued, queue_limit);
    u8::try_from(if filled >= 254 { u64::from(FULL) } else { filled }).unwrap_or(FULL)
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It takes a slot.
    Run,
    /// It waits for one.
    Queue,
    /// The queue is full: [`shed`](super::shed) says who goes.
    Shed,
    /// There is no memory for it.
    Overloaded,
    /// It was here before.
    Duplicate,
}

/// Judges an arriving call (docs/design/protocol.md#calls).
#[inline]
pub fn admit(arrival: &Arrival) -> Admission {
    if arrival.seen {
        return Admission::Duplicate;
    }
    let fit = arrival.memory.fit(arrival.depth);
    if fit == Fit::Never {
        return Admission::Overloaded;
    }
    if fit == Fit::Now && arrival.room.admits(arrival.service_us) {
        Admission::Run
    } else if arrival.queued < arrival.queue_limit {
        Admission::Queue
    } else {
        Admission::Shed
    }
}

/// A call at a host that may not have its seed loaded.
#[derive(Debug, Clone, Copy)]
pub struct Wakening {
    /// It is marked `wake`.
    pub asked: bool,
    /// The seed is loaded here.
    pub ready: bool,
    /// This node's own row lists it among those to wake, or as a replica still.
    pub rank: bool,
    /// The tables are in force.
    pub leased: bool,
    /// A load is under way.
    pub loading: bool,
    /// Guest memory not charged.
    pub memory_free: u64,
    /// The limit of one instance.
    pub memory_need: u64,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The seed is there.
    Ready,
    /// It loads the seed.
    Load,
    /// It waits for the load under way.
    Join,
    /// The tables ran out: nothing new is hosted.
    Silent,
    /// There is no memory for it.
    Overloaded,
    /// The seed is not here, and not to be.
    Refuse,
}

/// Single flight: one call loads, those that come meanwhile wait with it
/// (docs/design/protocol.md#placement).
#[inline]
pub fn admit_wake(call: &Wakening) -> Wake {
    if call.ready {
        Wake::Ready
    } else if !(call.asked && call.rank) {
        Wake::Refuse
    } else if !call.leased {
        Wake::Silent
    } else if call.loading {
        Wake::Join
    } else if call.memory_need > call.memory_free {
        Wake::Overloaded
    } else {
        Wake::Load
    }
}
