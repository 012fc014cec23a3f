//! shed: which call a full queue refuses, and which one that waited too long.

use crate::numbers::{QUEUE_QUIET_US, QUEUE_STANDING_MAX_US, QUEUE_STANDING_US, QUEUE_WAIT_US};

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

/// A call that comes to the head of the queue.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// How long it waited.
    pub waited_us: u64,
    /// How long there is a queue, short gaps included.
    pub standing_us: u64,
    /// How long ago the backlog was last higher than ever before.
    pub quiet_us: u64,
    /// Calls that came since then and were not served: those waiting and those refused.
    pub backlog: u64,
    /// The same when the queue stood for a half to a quarter of the time.
    pub backlog_before: u64,
    /// What a call of its seed runs, smoothed.
    pub service_us: u64,
    /// 0 for a call that no guest made.
    pub depth: u64,
}

/// Whether it is refused after all.
///
/// Callers who each wait for an answer make a queue that stands and does not grow: all of them are
/// served. While they join it rises; who waits long in it shows that there are many, and has more
/// patience. Of calls that come faster than they are served the backlog doubles with the time; there
/// everybody would wait for all those before, and nobody be served in time (Nichols and Jacobson,
/// `CoDel`, 2012). A burst waits in full.
#[inline]
pub fn is_late(wait: &Wait) -> bool {
    let grows = wait.quiet_us < QUEUE_QUIET_US
        && wait.backlog.saturating_mul(2) > wait.backlog_before.saturating_mul(3);
    let patience =
        (wait.waited_us.saturating_mul(3) / 2).clamp(QUEUE_STANDING_US, QUEUE_STANDING_MAX_US);
    let is_bounded = wait.depth == 0 && wait.standing_us >= patience && grows;
    is_bounded && wait.waited_us > QUEUE_WAIT_US.max(wait.service_us / 2)
}
