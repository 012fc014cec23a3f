//! How many fresh guests of a seed are made ahead of the calls that want one.
//!
//! Decides: how many are wanted, and when none is made for a while.
//! Does not know: where they wait (`seed`), who makes them (`call`), who gives way to them
//! (`registry`).
//! Invariants: one is made at a time for each seed, and only after a call took one: a node without
//! calls makes none. Each runs its own initialisation: no two share what a guest drew or read of the
//! clock in it.
//! Refused: to make ahead whatever it costs. While all cores are busy with calls it takes them from
//! the calls: an echo in C fell from 80,000 to 24,000 calls a second.
//! Refused: copies of one initialised guest. All of them would draw the same random numbers.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// In stock of one seed, at most. Raising it serves larger bursts at once and keeps more memory idle.
/// Guess: at 1,000 calls a second it bridges 64 ms in which nobody makes any.
const MOST: usize = 64;

/// When there was no room for one more, none is made for so long. Guess.
const NO_ROOM: Duration = Duration::from_secs(1);

/// When a call found none, none is made for so long: calls come quicker than they can be made, and
/// have the cores for themselves. Raising it fills a stock later. Guess: a dozen of Go instances.
const BUSY: Duration = Duration::from_millis(5);

/// It doubles up to this while the stock never fills, so that endless load is not disturbed. Guess.
const BUSY_MOST: Duration = Duration::from_millis(160);

/// A guest that is made quicker is made within the call: to hand it over costs as much, ns. Measured:
/// 5 us for an echo in C, 15 for a small program, 260 to 880 in Go.
const QUICK: u64 = 100_000;

/// Guests that have served their only call wait in this number to be dropped; the next are dropped
/// within their call. Guess.
const SPENT: usize = 8;

/// The numbers of one seed's stock.
pub(crate) struct Stock {
    wanted: AtomicUsize,
    /// Each call gets a guest of its own.
    is_fresh: bool,
    /// Who wanted a fresh guest last.
    last: Mutex<[u8; 32]>,
    is_filled: AtomicBool,
    since: Instant,
    /// Calls have the cores until then: after `since`, ns.
    busy_until: AtomicU64,
    /// For how long the next time, ns.
    busy_for: AtomicU64,
    /// There was no room until then: after `since`, ns.
    full_until: AtomicU64,
}

impl Stock {
    /// `is_fresh` says that each call gets a guest of its own: one is wanted from the beginning.
    pub(crate) fn new(is_fresh: bool) -> Self {
        Self {
            wanted: AtomicUsize::new(usize::from(is_fresh)),
            is_fresh,
            last: Mutex::new([0; 32]),
            is_filled: AtomicBool::new(false),
            since: Instant::now(),
            busy_until: AtomicU64::new(0),
            busy_for: AtomicU64::new(nanos(BUSY)),
            full_until: AtomicU64::new(0),
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
        // Not put off again while it lasts, nor as long again: calls that come all the time would
        // never let anybody begin.
        if self.left(&self.busy_until, BUSY).is_none() {
            let time = self.busy_for.load(Ordering::Relaxed);
            self.busy_for.store(time.saturating_mul(2).min(nanos(BUSY_MOST)), Ordering::Relaxed);
            self.put_off(&self.busy_until, Duration::from_nanos(time));
        }
        // It always gives a number, so it never fails.
        let _ = self.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// A quarter of a minute with calls is over.
    pub(crate) fn fade(&self) {
        let less = |wanted: usize| Some(wanted - wanted / 4);
        let _ = self.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether the caller is the one who fills the stock now; it then says when it has
    /// [`finished`](Self::finished). `making` is what it takes to make one, ns.
    pub(crate) fn begin(&self, making: u64) -> bool {
        making >= QUICK
            && self.wanted.load(Ordering::Relaxed) > 0
            && self.left(&self.full_until, Duration::ZERO).is_none()
            && !self.is_filled.swap(true, Ordering::Acquire)
    }

    /// Whether one more is to be made, with so many in stock.
    pub(crate) fn wants(&self, stock: usize) -> bool {
        if stock >= self.wanted.load(Ordering::Relaxed) {
            self.busy_for.store(nanos(BUSY), Ordering::Relaxed);
            return false;
        }
        self.left(&self.full_until, Duration::ZERO).is_none()
    }

    /// Whether a guest that served its only call may wait to be dropped, beside so many.
    pub(crate) fn takes_spent(&self, spent: usize) -> bool {
        spent < SPENT && self.busy().is_none()
    }

    /// There was no room for one more.
    pub(crate) fn is_full(&self) {
        self.put_off(&self.full_until, NO_ROOM);
    }

    /// How long the calls still have the cores for themselves.
    pub(crate) fn busy(&self) -> Option<Duration> {
        self.left(&self.busy_until, Duration::ZERO)
    }

    fn put_off(&self, until: &AtomicU64, time: Duration) {
        until.store(nanos(self.since.elapsed().saturating_add(time)), Ordering::Relaxed);
    }

    fn left(&self, until: &AtomicU64, longer: Duration) -> Option<Duration> {
        let until = until.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        let until = until.saturating_add(nanos(longer));
        let left = until.saturating_sub(nanos(self.since.elapsed()));
        (left > 0).then(|| Duration::from_nanos(left))
    }

    pub(crate) fn finished(&self) {
        self.is_filled.store(false, Ordering::Release);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits until the calls have had their moment.
    fn rested(stock: &Stock) {
        let limit = Instant::now() + Duration::from_secs(5);
        while stock.busy().is_some() {
            assert!(Instant::now() < limit, "it is put off for 5 s");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_stock_grows_by_misses_up_to_its_bound_and_fades() {
        let stock = Stock::new(false);
        assert!(!stock.begin(QUICK) && !stock.wants(0));
        stock.asked([1; 32], true);
        stock.asked([1; 32], true);
        rested(&stock);
        assert!(stock.wants(0) && !stock.wants(1), "many at once of one caller count once");
        stock.asked([2; 32], false);
        assert!(!stock.wants(1));
        (3..23).for_each(|identity| stock.asked([identity; 32], true));
        rested(&stock);
        assert!(stock.wants(MOST - 1) && !stock.wants(MOST));
        stock.fade();
        assert!(stock.wants(MOST * 3 / 4 - 1) && !stock.wants(MOST * 3 / 4));
    }

    #[test]
    fn one_at_a_time_fills_and_nobody_while_there_is_no_room() {
        let stock = Stock::new(true);
        assert!(!stock.begin(QUICK - 1), "what is made quickly is not made ahead");
        assert!(stock.begin(QUICK) && !stock.begin(QUICK));
        stock.finished();
        stock.is_full();
        assert!(!stock.wants(0) && !stock.begin(QUICK));
    }

    #[test]
    fn calls_that_find_none_have_the_cores_for_themselves_for_a_moment() {
        let stock = Stock::new(true);
        assert!(stock.takes_spent(SPENT - 1) && !stock.takes_spent(SPENT));
        stock.asked([1; 32], true);
        assert!(stock.busy().is_some() && !stock.takes_spent(0));
        let before = stock.busy();
        stock.asked([1; 32], true);
        assert!(stock.busy() <= before, "the next does not put it off again");
        rested(&stock);
        assert!(stock.begin(QUICK) && stock.takes_spent(0) && stock.wants(3));
    }
}
