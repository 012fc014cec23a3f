//! silence: whether calls are routed around a link.

use std::time::Duration;

use crate::numbers::{EJECT_EXTRA, EJECT_FLOOR, EJECT_TRIPS};

/// The time without a byte after a probe at which a link is ejected: max(6 x srtt + 75 ms, 400 ms).
pub fn eject_after(srtt: Duration) -> Duration {
    (srtt * EJECT_TRIPS + EJECT_EXTRA).max(EJECT_FLOOR)
}

/// What a look at a link leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Something came since the last look: calls may go over the link.
    Again,
    /// Nothing came: probe the link.
    Nothing,
    /// Nothing came for too long: probe it, and calls go around it.
    Ejected,
}

/// One link with calls under way, looked at every [`SILENCE`](crate::numbers::SILENCE).
#[derive(Debug, Clone, Copy, Default)]
pub struct Silence {
    /// When it was first probed in vain.
    asked: Option<Duration>,
}

impl Silence {
    /// `heard`: a byte came since the last look. `now`: on any clock that does not go back.
    pub fn poll(&mut self, heard: bool, srtt: Duration, now: Duration) -> Heard {
        if heard {
            self.asked = None;
            return Heard::Again;
        }
        let asked = *self.asked.get_or_insert(now);
        match now.saturating_sub(asked) > eject_after(srtt) {
            true => Heard::Ejected,
            false => Heard::Nothing,
        }
    }
}
