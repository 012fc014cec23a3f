//! A sum that every thread writes at each call: one cache line a thread, added up by the reader.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// Lines; threads are spread over them.
const LINES: usize = 16;

#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicI64);

thread_local! {
    static LINE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % LINES
    };
}

/// A small number that is the calling thread's own, as far as there are enough; below `count`.
pub(crate) fn place(count: usize) -> usize {
    LINE.with(|line| *line) % count.max(1)
}

/// A sum of contributions that may be taken back by another thread.
#[derive(Default)]
pub struct Sharded([Line; LINES]);

impl Sharded {
    /// Adds to the calling thread's line. Sequentially consistent, for the ticker's handshake.
    pub fn add(&self, amount: i64) {
        let [first, ..] = &self.0;
        let line = self.0.get(LINE.with(|line| *line)).unwrap_or(first);
        line.0.fetch_add(amount, Ordering::SeqCst);
    }

    /// The sum; while others write it may be off by what they are adding.
    #[must_use]
    pub fn sum(&self) -> u64 {
        let sum: i64 = self.0.iter().map(|line| line.0.load(Ordering::SeqCst)).sum();
        u64::try_from(sum).unwrap_or(0)
    }
}

/// A few sums that belong together: each thread's lie beside one another.
pub struct Tally<const N: usize>([TallyLine<N>; LINES]);

#[repr(align(128))]
struct TallyLine<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Tally<N> {
    fn default() -> Self {
        let line = |_| TallyLine(std::array::from_fn(|_| AtomicU64::new(0)));
        Self(std::array::from_fn(line))
    }
}

impl<const N: usize> Tally<N> {
    /// Adds to one of the sums; nothing when there is none of this number.
    pub fn add(&self, number: usize, amount: u64) {
        let line = self.0.get(place(LINES)).and_then(|line| line.0.get(number));
        if let Some(sum) = line {
            sum.fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// All sums; each for itself, not of one moment.
    #[must_use]
    pub fn sums(&self) -> [u64; N] {
        let mut sums = [0u64; N];
        for line in &self.0 {
            for (sum, part) in sums.iter_mut().zip(&line.0) {
                *sum = sum.wrapping_add(part.load(Ordering::Relaxed));
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::{Sharded, Tally};

    #[test]
    fn sums_that_many_threads_write_are_whole() {
        let tally = Tally::<3>::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    tally.add(0, 1);
                    tally.add(2, 5);
                    tally.add(3, 7);
                });
            }
        });
        assert_eq!([20, 0, 100], tally.sums());
    }

    #[test]
    fn what_one_thread_adds_another_may_take_back() {
        let sum = Sharded::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| sum.add(3));
            }
        });
        sum.add(-59);
        assert_eq!(1, sum.sum());
        sum.add(-2);
        assert_eq!(0, sum.sum());
    }
}
