//! Whether a carrier still carries: the other side acknowledges each datagram, so what was handed
//! over and brought nothing back tells of a neighbour that is gone.

use std::time::{Duration, Instant};

/// Time between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// When a look finds that packets came and that others went, one byte asks for an acknowledgement,
/// if so many bytes went. Keep-alives of connections that only stand by are fewer: whoever sends
/// them sends again, and that is noticed.
const ASK: u64 = 512;

/// What a look sees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) now: Instant,
    /// Packets that ever came.
    pub(crate) received: u64,
    /// Frames ever sent that are acknowledged.
    pub(crate) sent: u64,
    /// Bytes ever handed to the carrier.
    pub(crate) handed: u64,
    /// How long nothing may come.
    pub(crate) patience: Duration,
}

/// What it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Something came. With `ask` nobody knows yet whether the last packets arrived.
    Heard { ask: bool },
    /// An answer is due.
    Waits,
    /// None is due, and nothing happens.
    Rests,
    /// An answer is due for too long.
    Silent,
}

/// One carrier's state between looks.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    received: u64,
    sent: u64,
    handed: u64,
    waiting: Option<Instant>,
}

impl Silence {
    /// After a rest: something was handed over just now.
    pub(crate) fn wake(&mut self, look: Look) {
        (self.received, self.sent, self.handed) = (look.received, look.sent, look.handed);
        self.waiting = Some(look.now);
    }

    pub(crate) fn look(&mut self, look: Look) -> Verdict {
        let handed = look.handed.saturating_sub(std::mem::replace(&mut self.handed, look.handed));
        if look.received != self.received {
            (self.received, self.sent) = (look.received, look.sent);
            let ask = handed >= ASK;
            self.waiting = ask.then_some(look.now);
            return Verdict::Heard { ask };
        }
        if self.waiting.is_none() && (handed > 0 || look.sent != self.sent) {
            self.waiting = Some(look.now);
        }
        match self.waiting {
            Some(since) if look.now.saturating_duration_since(since) >= look.patience => {
                Verdict::Silent
            }
            Some(_) => Verdict::Waits,
            None => Verdict::Rests,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays looks of (received, sent, handed), 50 ms apart.
    fn play(looks: &[(u64, u64, u64)]) -> Vec<Verdict> {
        let (began, mut silence) = (Instant::now(), Silence::default());
        let looks = looks.iter().enumerate().map(|(at, (received, sent, handed))| {
            let (now, patience) = (began + LOOK * at as u32, Duration::from_millis(400));
            let (received, sent, handed) = (*received, *sent, *handed);
            silence.look(Look { now, received, sent, handed, patience })
        });
        looks.collect()
    }

    #[test]
    fn packets_that_bring_nothing_back_for_400_ms_mean_silence() {
        let mut looks = vec![(5, 5, 9_000)];
        looks.extend([(5, 6, 9_100); 10]);
        let said = play(&looks);
        assert_eq!(said[0], Verdict::Heard { ask: true });
        assert_eq!(said.iter().position(|said| *said == Verdict::Silent), Some(8));
    }

    #[test]
    fn what_is_answered_is_at_rest_and_the_last_packets_are_asked_about() {
        let said = play(&[(1, 1, 100), (2, 2, 1_000), (3, 3, 1_000), (3, 3, 1_000)]);
        let heard = |ask| Verdict::Heard { ask };
        assert_eq!(said, [heard(false), heard(true), heard(false), Verdict::Rests]);
    }

    #[test]
    fn keep_alives_are_not_asked_about_and_still_noticed_when_lost() {
        let said = play(&[(1, 1, 100), (1, 1, 100), (2, 2, 200), (2, 3, 300), (2, 3, 300)]);
        let heard = Verdict::Heard { ask: false };
        assert_eq!(said, [heard, Verdict::Rests, heard, Verdict::Waits, Verdict::Waits]);
    }

    #[test]
    fn after_a_rest_an_answer_is_due_from_the_first_packet() {
        let (now, patience) = (Instant::now(), Duration::from_millis(400));
        let mut silence = Silence::default();
        let look = Look { now, received: 50, sent: 50, handed: 100, patience };
        silence.wake(look);
        assert_eq!(silence.look(Look { now: now + LOOK, ..look }), Verdict::Waits);
        assert_eq!(silence.look(Look { now: now + patience, ..look }), Verdict::Silent);
    }
}
