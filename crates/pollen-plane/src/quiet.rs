//! Lines of the log that a stranger can cause, one of a kind in ten seconds.
//!
//! Decides: which of them are written.
//! Does not know: what they say.
//! Invariants: strangers write less than 100 kB of log a minute, whatever they do.
//! Source: measured: 878,320 tracebacks (362 MB) of one attack of four minutes.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// One line of the log of each kind in so long, with the number of those left out.
const QUIET: Duration = Duration::from_secs(10);

/// One kind of line.
#[derive(Default)]
pub struct Quiet(Mutex<Held>);

#[derive(Default)]
struct Held {
    last: Option<Instant>,
    left_out: u64,
}

impl Quiet {
    /// When a line may be written: how many were left out since the last one.
    pub fn speak(&self) -> Option<u64> {
        let mut held = self.0.lock();
        let now = Instant::now();
        if held.last.is_some_and(|last| now.duration_since(last) < QUIET) {
            held.left_out += 1;
            return None;
        }
        held.last = Some(now);
        Some(std::mem::take(&mut held.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_line_is_left_out_and_counted() {
        let quiet = Quiet::default();
        assert_eq!((quiet.speak(), quiet.speak(), quiet.speak()), (Some(0), None, None));
        quiet.0.lock().last = Instant::now().checked_sub(QUIET);
        assert_eq!(quiet.speak(), Some(2));
    }
}
