//! shed: which call a full queue refuses.

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
