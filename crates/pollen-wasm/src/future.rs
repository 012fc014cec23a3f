//! Where a call runs, and until when.
//!
//! A call is first polled inline by its caller (the net runtime). At the guest's first epoch expiry
//! the whole future moves to the guest runtime, so that a burning guest never delays packets; a
//! function that is known to burn starts there. A timer covers the time in which the guest is
//! suspended; while it runs, the epoch callback watches the deadline.
//!
//! Invariant: dropping [`CallFuture`] drops the guest, wherever it runs. A host panic ends the
//! call, not the caller.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use crate::engine::ticker::Ticker;
use crate::engine::touched::Touched;
use crate::envelope::{Host, Outcome};
use crate::error::SandboxError;

/// A function that usually runs longer starts on the guest runtime, ns.
pub(crate) const BURNS: u64 = 500_000;

thread_local! {
    /// The guest polled on this thread yielded because its epoch expired.
    static EXPIRED: Cell<bool> = const { Cell::new(false) };
    /// When the current poll of a call began.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Time that calls polled within the current poll took on this thread (nested calls run
    /// inside the poll of their caller), ns.
    static NESTED: Cell<u64> = const { Cell::new(0) };
    /// Time that the call polled on this thread ran in its polls before this one.
    static RAN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// What the guest polled on this thread shares with others of its module.
    static TOUCHED: Cell<Option<Arc<Touched>>> = const { Cell::new(None) };
}

/// The guest that this thread polls from now on has this account of what it shares.
pub(crate) fn runs(touched: Option<&Arc<Touched>>) {
    TOUCHED.set(touched.cloned());
}

/// Called by the epoch callback before it yields.
pub(crate) fn mark_expired() {
    EXPIRED.set(true);
}

/// When the poll that this thread is in began: the present, without asking the clock again.
pub(crate) fn poll_began() -> Instant {
    BEGAN.get().unwrap_or_else(Instant::now)
}

/// How long the call polled on this thread ran until `now`: without what it waited for, and without
/// the calls within it. Of a wait nobody says that the function burns.
pub(crate) fn ran_until(now: Instant) -> Duration {
    let poll = now.saturating_duration_since(BEGAN.get().unwrap_or(now));
    RAN.get() + poll.saturating_sub(Duration::from_nanos(NESTED.get()))
}

/// What a call runs by: the ticks, and the runtime of those that burn.
pub(crate) struct Runs {
    pub(crate) ticker: Ticker,
    pub(crate) guest: Handle,
    closed: AtomicBool,
}

impl Runs {
    pub(crate) fn new(ticker: Ticker, guest: Handle) -> Self {
        Self { ticker, guest, closed: AtomicBool::new(false) }
    }

    /// Whether nothing is begun any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Nothing is begun from now on; what runs goes on, without ticks.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.ticker.close();
    }
}

type Inner = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A call with its deadline and its clock.
pub(crate) struct Guarded {
    runs: Arc<Runs>,
    inner: Option<Inner>,
    host: Option<Arc<dyn Host>>,
    waits: bool,
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    run: Duration,
    /// Of the guest at work, once it has begun.
    touched: Option<Arc<Touched>>,
}

impl Guarded {
    /// `host` is told when the guest waits and burns.
    pub(crate) fn new(
        runs: Arc<Runs>,
        deadline: Instant,
        host: Option<Arc<dyn Host>>,
        inner: Inner,
    ) -> Self {
        let (inner, run) = (Some(inner), Duration::ZERO);
        Self { runs, inner, host, waits: false, deadline, timer: None, run, touched: None }
    }

    /// Polls once; the flag says that the guest burned through its slice.
    fn poll_slice(&mut self, cx: &mut Context<'_>) -> (Poll<Outcome>, bool) {
        let Some(inner) = self.inner.as_mut() else { return (Poll::Pending, false) };
        if let (true, Some(host)) = (std::mem::take(&mut self.waits), &self.host) {
            host.runs();
        }
        let began = Instant::now();
        let outer_began = BEGAN.replace(Some(began));
        let outer_expired = EXPIRED.replace(false);
        let outer_nested = NESTED.replace(0);
        let outer_ran = RAN.replace(self.run);
        if let Some(touched) = &self.touched {
            touched.resume();
        }
        let outer_touched = TOUCHED.replace(self.touched.take());
        let polled = {
            let _running = self.runs.ticker.enter();
            catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(cx)))
        };
        let expired = EXPIRED.replace(outer_expired);
        BEGAN.set(outer_began);
        RAN.set(outer_ran);
        self.touched = TOUCHED.replace(outer_touched);
        let elapsed = began.elapsed();
        let nested = Duration::from_nanos(NESTED.get());
        let total = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        NESTED.set(outer_nested.saturating_add(total));
        self.run += elapsed.saturating_sub(nested);
        match polled {
            Ok(Poll::Ready(mut outcome)) => {
                self.inner = None;
                outcome.run = self.run;
                (Poll::Ready(outcome), false)
            }
            Ok(Poll::Pending) => {
                if self.touched.as_ref().is_some_and(|touched| !touched.settle()) {
                    return (Poll::Ready(self.give_up(unpaid())), false);
                }
                if let Some(host) = &self.host {
                    if expired { host.burned() } else { host.waits() }
                }
                self.waits = !expired;
                (if expired { Poll::Pending } else { self.poll_timer(cx) }, expired)
            }
            Err(panic) => (Poll::Ready(self.give_up(panicked(&*panic))), false),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let deadline = self.deadline.into();
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(self.give_up(SandboxError::deadline(true))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Drops the guest.
    fn give_up(&mut self, error: SandboxError) -> Outcome {
        let inner = self.inner.take();
        // The guest's destructors run host code too.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(inner)));
        Outcome { result: Err(error), run: self.run }
    }
}

impl Future for Guarded {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.poll_slice(cx).0
    }
}

/// A guest stopped and had written to more memory than the node has left.
fn unpaid() -> SandboxError {
    SandboxError::out_of_memory("the node's memory for guests was used up while it ran")
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> SandboxError {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    SandboxError::internal(format!("the host panicked while the guest ran: {text}"), true)
}

enum Place {
    Inline(Guarded),
    Moved(JoinHandle<Outcome>),
    Done,
}

/// The future of [`Sandbox::call`](crate::Sandbox::call).
pub(crate) struct CallFuture {
    guest: Handle,
    place: Place,
    /// Move before the first poll.
    burns: bool,
}

impl CallFuture {
    pub(crate) fn new(guarded: Guarded, burns: bool) -> Self {
        let guest = guarded.runs.guest.clone();
        Self { guest, place: Place::Inline(guarded), burns }
    }

    fn move_to_guest(&mut self) {
        self.place = match std::mem::replace(&mut self.place, Place::Done) {
            Place::Inline(guarded) => Place::Moved(self.guest.spawn(guarded)),
            place => place,
        };
    }
}

impl Future for CallFuture {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        if this.burns {
            this.burns = false;
            this.move_to_guest();
        }
        if let Place::Inline(guarded) = &mut this.place {
            match guarded.poll_slice(cx) {
                (Poll::Ready(outcome), _) => {
                    this.place = Place::Done;
                    return Poll::Ready(outcome);
                }
                (Poll::Pending, false) => return Poll::Pending,
                (Poll::Pending, true) => this.move_to_guest(),
            }
        }
        let Place::Moved(task) = &mut this.place else { return Poll::Pending };
        match Pin::new(task).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(joined) => {
                this.place = Place::Done;
                Poll::Ready(joined.unwrap_or_else(|_| stopped()))
            }
        }
    }
}

impl Drop for CallFuture {
    fn drop(&mut self) {
        if let Place::Moved(task) = &self.place {
            task.abort();
        }
    }
}

/// The guest runtime was shut down under the call.
fn stopped() -> Outcome {
    let error = SandboxError::ran(
        "unreachable",
        "this node was shut down while the call ran",
        "call another node",
    );
    Outcome { result: Err(error), run: Duration::ZERO }
}
