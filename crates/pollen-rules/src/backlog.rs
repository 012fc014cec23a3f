//! backlog: since when there is a queue, and whether it grows.

use crate::numbers::{
    BURST_STEP_US, BURST_TIMES, QUEUE_GAP_US, QUEUE_REST_MAX_US, QUEUE_STANDING_US,
};

/// The backlog is the calls that came since there is a queue and were not served: those waiting and
/// those refused. Times are microseconds on any clock that does not go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    since: Option<u64>,
    emptied: Option<u64>,
    refused: u64,
    /// The highest backlog before the last mark but one. The marks are at 1, 2, 4, ... seconds.
    earlier: u64,
    later: u64,
    /// The highest so far.
    highest: u64,
    /// When it was last higher than ever before.
    rose: u64,
    next_us: u64,
    /// The most that waited in this second and in the one before; when this one ends.
    this_step: u64,
    last_step: u64,
    step_us: u64,
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            since: None,
            emptied: None,
            refused: 0,
            earlier: 0,
            later: 0,
            highest: 0,
            rose: 0,
            next_us: QUEUE_STANDING_US / 2,
            this_step: 0,
            last_step: u64::MAX,
            step_us: BURST_STEP_US,
        }
    }
}

impl Backlog {
    /// A call came; with it so many wait.
    ///
    /// A queue that comes back soon was never gone: a node that refuses empties it again and again.
    #[inline]
    pub fn came(&mut self, now_us: u64, waiting: u64) {
        if waiting <= 1 {
            let gap = self.emptied.map_or(u64::MAX, |at| now_us.saturating_sub(at));
            if gap >= QUEUE_GAP_US || self.since.is_none() {
                self.begin(now_us);
            }
        }
        self.note(now_us, waiting);
    }

    /// A call left the queue; so many wait now.
    #[inline]
    pub fn left(&mut self, now_us: u64, waiting: u64) {
        self.note(now_us, waiting);
        if waiting == 0 {
            self.emptied = Some(now_us);
        }
    }

    /// A call was refused: for want of room, or because it waited too long.
    #[inline]
    pub fn refuse(&mut self) {
        self.refused = self.refused.saturating_add(1);
    }

    /// How long there is a queue, short gaps included.
    #[inline]
    pub fn standing_us(&self, now_us: u64) -> u64 {
        self.since.map_or(0, |since| now_us.saturating_sub(since))
    }

    /// How long ago the backlog was last higher than ever before: a loop that all of its callers have
    /// joined is quiet, however long its queue.
    #[inline]
    pub fn quiet_us(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.rose)
    }

    /// With so many waiting.
    #[inline]
    pub fn size(&self, waiting: u64) -> u64 {
        waiting.saturating_add(self.refused)
    }

    /// The same when the queue stood for a half to a quarter of the time.
    #[inline]
    pub fn before(&self) -> u64 {
        self.earlier
    }

    fn begin(&mut self, now_us: u64) {
        let (since, emptied) = (Some(now_us), self.emptied);
        *self = Self { since, emptied, rose: now_us, ..Self::default() };
    }

    fn note(&mut self, now_us: u64, waiting: u64) {
        let (age, backlog) = (self.standing_us(now_us), self.size(waiting));
        if age >= self.step_us {
            self.step_us = age.saturating_add(BURST_STEP_US);
            self.last_step = std::mem::take(&mut self.this_step);
        }
        self.this_step = self.this_step.max(waiting);
        // Who waits: callers who come back after a refusal are no new ones.
        let is_burst = waiting > self.last_step.saturating_mul(BURST_TIMES);
        let rests = (age / 2).clamp(QUEUE_STANDING_US, QUEUE_REST_MAX_US);
        let joins = backlog > self.highest && self.quiet_us(now_us) >= rests;
        if age >= QUEUE_STANDING_US && (is_burst || joins) {
            // More callers came at once, or came to those that there were: they wait in full.
            self.begin(now_us);
            (self.highest, self.this_step) = (backlog, waiting);
            return;
        }
        if backlog > self.highest {
            (self.highest, self.rose) = (backlog, now_us);
        }
        while age >= self.next_us {
            // Not that of this moment: callers in a loop may all be served for an instant.
            self.earlier = std::mem::replace(&mut self.later, self.highest);
            self.next_us = self.next_us.saturating_mul(2);
        }
    }
}
