//! A sum that every thread writes at each call: one cache line a thread, added up by the reader.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

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

#[cfg(test)]
mod tests {
    use super::Sharded;

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
