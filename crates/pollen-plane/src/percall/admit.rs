//! admit: whether an arriving call runs, waits or is refused.

/// An arriving call and the state it meets.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Calls running.
    pub running: u64,
    /// Calls that may run.
    pub slots: u64,
    /// Calls waiting.
    pub queued: u64,
    /// Calls that may wait.
    pub queue_limit: u64,
    /// 0 for a call that no guest made.
    pub depth: u64,
    /// Guest memory not charged.
    pub memory_free: u64,
    /// Memory that only calls with a depth may use, so that a chain begun can end.
    pub memory_reserve: u64,
    /// What the seed was seen to need.
    pub memory_need: u64,
    /// This call id was seen before.
    pub seen: bool,
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

/// Judges an arriving call (PROTOCOL 6).
pub fn admit(arrival: &Arrival) -> Admission {
    if arrival.seen {
        return Admission::Duplicate;
    }
    let kept = if arrival.depth > 0 { 0 } else { arrival.memory_reserve };
    if arrival.memory_need > arrival.memory_free.saturating_sub(kept) {
        return Admission::Overloaded;
    }
    if arrival.running < arrival.slots {
        Admission::Run
    } else if arrival.queued < arrival.queue_limit {
        Admission::Queue
    } else {
        Admission::Shed
    }
}
