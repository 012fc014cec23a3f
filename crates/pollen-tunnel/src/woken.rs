//! A future that is polled only when it was woken itself, among others of one task.
//!
//! Decides: nothing.
//! Does not know: what it waits for.
//! Invariants: a wake is never lost: the flag is set before the task is woken, and the task is noted
//!     before the flag is read.
//! Source: docs/internals/seam.md#tunnels.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// See above.
pub(crate) struct Woken<F> {
    /// Boxed, so that it can be polled wherever this is moved.
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
}

struct Bell {
    rang: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Release);
        self.task.wake();
    }
}

impl<F: Future> Woken<F> {
    /// It is polled at first in any case.
    pub(crate) fn new(future: F) -> Self {
        let bell = Arc::new(Bell { rang: AtomicBool::new(true), task: AtomicWaker::new() });
        let waker = Waker::from(bell.clone());
        Self { future: Box::pin(future), bell, waker }
    }
}

impl<F: Future> Future for Woken<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.bell.task.register(cx.waker());
        if !self.bell.rang.swap(false, AcqRel) {
            return Poll::Pending;
        }
        let Self { future, waker, .. } = &mut *self;
        future.as_mut().poll(&mut Context::from_waker(waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use super::*;

    #[test]
    fn one_is_polled_at_first_and_when_it_was_woken() {
        let (polls, held) = (AtomicUsize::new(0), std::cell::RefCell::new(None));
        let mut woken = Box::pin(Woken::new(poll_fn(|cx| {
            *held.borrow_mut() = Some(cx.waker().clone());
            if polls.fetch_add(1, Relaxed) == 1 { Poll::Ready(()) } else { Poll::Pending }
        })));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(woken.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(polls.load(Relaxed), 1);
        held.take().into_iter().for_each(|waker| waker.wake());
        assert!(woken.as_mut().poll(&mut cx).is_ready());
    }

    #[tokio::test]
    async fn a_wake_reaches_the_task() {
        let (say, mut hear) = tokio::sync::mpsc::channel(1);
        let waits = tokio::spawn(Woken::new(async move { hear.recv().await }));
        tokio::task::yield_now().await;
        let _ = say.send(7).await;
        assert_eq!(waits.await.ok().flatten(), Some(7));
    }
}
