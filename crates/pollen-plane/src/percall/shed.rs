//! shed: which call a full queue refuses, and which one that waited too long.

/// An index into the queue, or `None` for the newcomer.
///
/// A call whose budget is below the expected wait goes first, the smallest budget of these; the
/// older queue place wins a tie among queued calls, and the newcomer loses one.
pub fn shed(queued_us: impl Iterator<Item = u64>, newcomer_us: u64, wait_us: u64) -> Option<usize> {
    let mut victim = None;
    let mut smallest = newcomer_us;
    for (index, budget) in queued_us.enumerate() {
        if budget < wait_us && budget < smallest {
            victim = Some(index);
            smallest = budget;
        }
    }
    victim
}

/// A queue that was never empty for so long does not end by itself, nor one that comes back within
/// as much: the node is overloaded.
pub(crate) const STANDING_US: u64 = 500_000;
/// In such a queue a call waits for so long, or for half of what a call of its seed runs.
const WAIT_US: u64 = 50_000;

/// A call that comes to the head of the queue.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// How long it waited.
    pub waited_us: u64,
    /// How long there is a queue, short gaps included.
    pub standing_us: u64,
    /// What a call of its seed runs, smoothed.
    pub service_us: u64,
    /// 0 for a call that no guest made.
    pub depth: u64,
}

/// Whether it is refused after all. A burst waits in full; of an overload everybody would wait for
/// all those before, and nobody be served in time (Nichols and Jacobson, CoDel, 2012).
pub fn is_late(wait: &Wait) -> bool {
    let is_bounded = wait.depth == 0 && wait.standing_us >= STANDING_US;
    is_bounded && wait.waited_us > WAIT_US.max(wait.service_us / 2)
}
