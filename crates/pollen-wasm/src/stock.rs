//! How many fresh guests of a seed are made ahead of the calls that want one.
//!
//! Decides: how many are wanted, and when none is made for a while.
//! Does not know: where they wait (`seed`), who makes them (`call`), who gives way to them
//! (`registry`).
//! Invariants: one is made at a time for each seed, and only after a call took one: a node without
//! calls makes none. Each runs its own initialisation: no two share what a guest drew or read of the
//! clock in it.
//! Refused: copies of one initialised guest. All of them would draw the same random numbers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// In stock of one seed, at most. Raising it serves larger bursts at once and keeps more memory idle.
/// Guess: at 1,000 calls a second it bridges 64 ms in which nobody makes any.
const MOST: usize = 64;

/// When there was no room for one more, none is made for so long. Guess.
const REST: Duration = Duration::from_secs(1);

/// The numbers of one seed's stock.
pub(crate) struct Stock {
    wanted: AtomicUsize,
    /// Each call gets a guest of its own.
    is_fresh: bool,
    /// Who wanted a fresh guest last.
    last: Mutex<[u8; 32]>,
    is_filled: AtomicBool,
    rests_until: Mutex<Option<Instant>>,
}

impl Stock {
    /// `is_fresh` says that each call gets a guest of its own: one is wanted from the beginning.
    pub(crate) fn new(is_fresh: bool) -> Self {
        Self {
            wanted: AtomicUsize::new(usize::from(is_fresh)),
            is_fresh,
            last: Mutex::new([0; 32]),
            is_filled: AtomicBool::new(false),
            rests_until: Mutex::new(None),
        }
    }

    /// A call of this identity wants a fresh guest; when there `is_none`, twice as many are wanted
    /// from now on. Unless it is the one who wanted the last: its own guests come back to it.
    pub(crate) fn asked(&self, identity: [u8; 32], is_none: bool) {
        let is_known = std::mem::replace(&mut *self.last.lock(), identity) == identity;
        if !is_none || (is_known && !self.is_fresh) {
            return;
        }
        let more = |wanted: usize| Some(wanted.saturating_mul(2).clamp(1, MOST));
        // It always gives a number, so it never fails.
        let _ = self.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// A quarter of a minute with calls is over.
    pub(crate) fn fade(&self) {
        let less = |wanted: usize| Some(wanted - wanted / 4);
        let _ = self.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether the caller is the one who fills the stock now; it then says when it has
    /// [`finished`](Self::finished).
    pub(crate) fn begin(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) > 0 && !self.is_filled.swap(true, Ordering::Acquire)
    }

    /// Whether one more is to be made, with so many in stock.
    pub(crate) fn wants(&self, stock: usize) -> bool {
        let is_resting = self.rests_until.lock().is_some_and(|until| Instant::now() < until);
        stock < self.wanted.load(Ordering::Relaxed) && !is_resting
    }

    /// There was no room for one more.
    pub(crate) fn rest(&self) {
        *self.rests_until.lock() = Instant::now().checked_add(REST);
    }

    pub(crate) fn finished(&self) {
        self.is_filled.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stock_grows_by_misses_up_to_its_bound_and_fades() {
        let stock = Stock::new(false);
        assert!(!stock.begin() && !stock.wants(0));
        stock.asked([1; 32], true);
        stock.asked([1; 32], true);
        assert!(stock.wants(0) && !stock.wants(1), "many at once of one caller count once");
        stock.asked([2; 32], false);
        assert!(!stock.wants(1));
        (3..23).for_each(|identity| stock.asked([identity; 32], true));
        assert!(stock.wants(MOST - 1) && !stock.wants(MOST));
        stock.fade();
        assert!(stock.wants(MOST * 3 / 4 - 1) && !stock.wants(MOST * 3 / 4));
    }

    #[test]
    fn one_at_a_time_fills_and_nobody_while_there_is_no_room() {
        let stock = Stock::new(true);
        assert!(stock.begin() && !stock.begin());
        stock.rest();
        assert!(!stock.wants(0));
        stock.finished();
        assert!(stock.begin());
    }
}
