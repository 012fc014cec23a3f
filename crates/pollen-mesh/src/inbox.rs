//! Packets that came for this node's connections and wait for iroh to fetch them.

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use pollen_wire::packet::Short;

/// Packets that wait; the next drops the oldest. 5 MB, some 50 ms of what a node can take.
const ROOM: usize = 4096;

/// The queue, with whom to wake.
#[derive(Default)]
pub(crate) struct Inbox(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    packets: VecDeque<(Short, Bytes)>,
    waker: Option<Waker>,
}

impl Inbox {
    /// Takes packets of their sources in; how many others were dropped for them.
    pub(crate) fn put(&self, packets: impl IntoIterator<Item = (Short, Bytes)>) -> usize {
        let mut waiting = self.0.lock();
        waiting.packets.extend(packets);
        let over = waiting.packets.len().saturating_sub(ROOM);
        waiting.packets.drain(..over);
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
        over
    }

    /// Hands the next packets to `take` until that is satisfied, or none is left; how many it took.
    /// `Pending` without one: the task is woken by the next.
    pub(crate) fn poll(
        &self,
        context: &mut Context<'_>,
        most: usize,
        mut take: impl FnMut(usize, Short, &Bytes) -> bool,
    ) -> Poll<usize> {
        let mut waiting = self.0.lock();
        let mut count = 0;
        while count < most
            && let Some((source, packet)) = waiting.packets.pop_front()
        {
            count += usize::from(take(count, source, &packet));
        }
        if count > 0 {
            return Poll::Ready(count);
        }
        waiting.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_out_in_order_and_the_oldest_go_first_when_it_is_full() {
        let inbox = Inbox::default();
        let packet = |number: u64| (number, Bytes::from_static(b"p"));
        assert_eq!(inbox.put((0..ROOM as u64 + 2).map(packet)), 2);
        let mut got = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        let polled = inbox.poll(&mut context, 2, |_, source, _| {
            got.push(source);
            true
        });
        assert_eq!((polled, got), (Poll::Ready(2), vec![2, 3]));
    }

    #[test]
    fn one_that_is_not_taken_is_gone_and_an_empty_one_waits() {
        let inbox = Inbox::default();
        inbox.put([(1, Bytes::from_static(b"too large")), (2, Bytes::from_static(b"p"))]);
        let mut context = Context::from_waker(Waker::noop());
        let polled = inbox.poll(&mut context, 8, |_, source, _| source == 2);
        assert_eq!(polled, Poll::Ready(1));
        assert!(inbox.poll(&mut context, 8, |_, _, _| true).is_pending());
    }
}
