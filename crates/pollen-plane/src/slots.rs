//! Running slots and the queue for them. A slot means *running*: a call gives it back while it awaits a
//! nested result and retakes it without queueing, so crossing chains cannot deadlock (SANDBOX).

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    call::CallError,
    metrics::micros,
    percall::{Admission, Arrival, Wait, admit, is_late, shed},
};

/// The slots of one node.
pub(crate) struct Slots {
    running: AtomicU64,
    waiting: Mutex<Queue>,
    /// Length of the queue, readable without its lock.
    queued: AtomicUsize,
    slots: u64,
    queue_limit: u64,
}

/// Who waits, the oldest first, and since when there is always somebody.
#[derive(Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    standing: Option<Instant>,
}

struct Waiter {
    deadline: Instant,
    since: Instant,
    depth: u64,
    service_us: u64,
    turn: oneshot::Sender<Result<Slot, CallError>>,
}

/// The right to run; given back on drop.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    held: bool,
}

/// What a call needs and brings, for the decision.
pub(crate) struct Ask {
    pub(crate) depth: u64,
    pub(crate) memory_free: u64,
    pub(crate) memory_reserve: u64,
    pub(crate) memory_need: u64,
    pub(crate) deadline: Instant,
    /// Smoothed run time of what is waiting, for the expected wait.
    pub(crate) service_us: u64,
}

impl Slots {
    pub(crate) fn new(slots: u64, queue_limit: u64) -> Arc<Self> {
        Arc::new(Self {
            running: AtomicU64::new(0),
            waiting: Mutex::default(),
            queued: AtomicUsize::new(0),
            slots: slots.max(1),
            queue_limit,
        })
    }

    pub(crate) fn running(&self) -> u64 {
        self.running.load(Relaxed)
    }

    pub(crate) fn queued(&self) -> u64 {
        u64::try_from(self.queued.load(Relaxed)).unwrap_or(u64::MAX)
    }

    /// How full: 0 idle, 127 all slots taken, 255 the queue is full too.
    pub(crate) fn load(&self) -> u8 {
        let part = |taken: u64, of: u64| taken.min(of) * 127 / of.max(1);
        let load = part(self.running(), self.slots) + part(self.queued(), self.queue_limit);
        u8::try_from(if load >= 254 { 255 } else { load }).unwrap_or(255)
    }

    /// A slot, at once or after waiting, and how long that took since `asked`; or the refusal.
    /// Dropping the future leaves the queue.
    pub(crate) async fn take(
        self: &Arc<Self>,
        ask: &Ask,
        asked: Instant,
    ) -> Result<(Slot, Duration), CallError> {
        match self.take_now(ask)? {
            Some(slot) => Ok((slot, Duration::ZERO)),
            None => self.wait(ask).await.map(|slot| (slot, asked.elapsed())),
        }
    }

    /// A slot without waiting, or nothing when the call has to queue; or the refusal.
    fn take_now(self: &Arc<Self>, ask: &Ask) -> Result<Option<Slot>, CallError> {
        let judged = admit(&Arrival {
            running: self.running(),
            slots: self.slots,
            queued: self.queued(),
            queue_limit: self.queue_limit,
            depth: ask.depth,
            memory_free: ask.memory_free,
            memory_reserve: ask.memory_reserve,
            memory_need: ask.memory_need,
            // Links look ids up before they ask for a slot: `seen.rs`.
            seen: false,
        });
        match judged {
            Admission::Run => Ok(self.try_occupy()),
            Admission::Queue => Ok(None),
            Admission::Shed => self.make_room(ask).map(|()| None),
            Admission::Overloaded | Admission::Duplicate => {
                Err(CallError::overloaded("the memory for guests is used up", 100))
            }
        }
    }

    async fn wait(self: &Arc<Self>, ask: &Ask) -> Result<Slot, CallError> {
        let (turn, told) = oneshot::channel();
        {
            let since = Instant::now();
            let (depth, service_us) = (ask.depth, ask.service_us);
            let mut queue = self.waiting.lock();
            queue.standing.get_or_insert(since);
            let waiter = Waiter { deadline: ask.deadline, since, depth, service_us, turn };
            queue.waiters.push_back(waiter);
            self.queued.store(queue.waiters.len(), Relaxed);
        }
        // A slot may have been given back between the decision and the push.
        self.hand_on();
        match tokio::time::timeout_at(ask.deadline.into(), told).await {
            Ok(Ok(turn)) => turn,
            Ok(Err(_)) => Err(CallError::shutting_down()),
            Err(_) => Err(CallError::deadline(false)),
        }
    }

    /// Refuses one of the queue in the newcomer's favour, or the newcomer.
    fn make_room(self: &Arc<Self>, ask: &Ask) -> Result<(), CallError> {
        let now = Instant::now();
        let left = |deadline: Instant| micros(deadline.saturating_duration_since(now));
        let mut queue = self.waiting.lock();
        let ahead = queue.waiters.len();
        let wait_us = self.expected_us(ahead, ask.service_us);
        let budgets = queue.waiters.iter().map(|waiter| left(waiter.deadline));
        let victim = shed(budgets, left(ask.deadline), wait_us);
        let victim = victim.and_then(|index| queue.waiters.remove(index));
        let victim = victim.ok_or_else(|| self.refusal(ahead, wait_us))?;
        let _ = victim.turn.send(Err(self.refusal(ahead, wait_us)));
        Ok(())
    }

    /// How long the last of so many waits.
    fn expected_us(&self, ahead: usize, service_us: u64) -> u64 {
        u64::try_from(ahead).unwrap_or(u64::MAX).saturating_mul(service_us) / self.slots
    }

    fn refusal(&self, ahead: usize, wait_us: u64) -> CallError {
        let after = u32::try_from(wait_us / 1000).unwrap_or(u32::MAX).clamp(10, 10_000);
        CallError::overloaded(format!("{ahead} calls wait for a slot here"), after)
    }

    /// A slot unless others wait for one or the last one was taken meanwhile.
    fn try_occupy(self: &Arc<Self>) -> Option<Slot> {
        if self.queued.load(Relaxed) > 0 {
            return None;
        }
        let free = |running| (running < self.slots).then_some(running + 1);
        self.running.try_update(Relaxed, Relaxed, free).ok()?;
        Some(Slot { slots: self.clone(), held: true })
    }

    fn occupy(self: &Arc<Self>) -> Slot {
        self.running.fetch_add(1, Relaxed);
        Slot { slots: self.clone(), held: true }
    }

    /// Gives free slots to those who wait, oldest first; refuses who waited too long in a queue that
    /// does not end.
    fn hand_on(self: &Arc<Self>) {
        while self.queued.load(Relaxed) > 0 {
            let (turn, answer) = {
                let mut queue = self.waiting.lock();
                if self.running.load(Relaxed) >= self.slots {
                    return;
                }
                let now = Instant::now();
                let Some(waiter) = queue.waiters.pop_front() else { return };
                let ahead = queue.waiters.len();
                self.queued.store(ahead, Relaxed);
                let since = |start: Instant| micros(now.saturating_duration_since(start));
                let wait = Wait {
                    waited_us: since(waiter.since),
                    standing_us: queue.standing.map_or(0, since),
                    service_us: waiter.service_us,
                    depth: waiter.depth,
                };
                if ahead == 0 {
                    queue.standing = None;
                }
                let answer = if is_late(&wait) {
                    Err(self.refusal(ahead, self.expected_us(ahead, waiter.service_us)))
                } else {
                    Ok(self.occupy())
                };
                (waiter.turn, answer)
            };
            // A waiter that gave up drops the slot, which hands it on: not under the lock.
            if let Err(Ok(mut slot)) = turn.send(answer) {
                slot.held = false;
                self.running.fetch_sub(1, Relaxed);
            }
        }
    }
}

impl Slot {
    /// Gives the slot back while the call waits for a nested one.
    pub(crate) fn suspend(&mut self) {
        if std::mem::replace(&mut self.held, false) {
            self.slots.running.fetch_sub(1, Relaxed);
            self.slots.hand_on();
        }
    }

    /// Takes a slot again at once: resumes go first, even beyond the number of slots.
    pub(crate) fn resume(&mut self) {
        if !std::mem::replace(&mut self.held, true) {
            self.slots.running.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.suspend();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ask(budget_ms: u64) -> Ask {
        Ask {
            depth: 0,
            memory_free: 1000,
            memory_reserve: 250,
            memory_need: 1,
            deadline: Instant::now() + Duration::from_millis(budget_ms),
            service_us: 1000,
        }
    }

    async fn take(slots: &Arc<Slots>, budget_ms: u64) -> Result<Slot, CallError> {
        slots.take(&ask(budget_ms), Instant::now()).await.map(|(slot, _waited)| slot)
    }

    #[tokio::test]
    async fn a_waiter_gets_the_slot_that_is_given_back() {
        let slots = Slots::new(1, 4);
        let first = take(&slots, 1000).await.unwrap();
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { take(&slots, 5000).await.map(|_| ()) }
        });
        while slots.queued() == 0 {
            tokio::task::yield_now().await;
        }
        drop(first);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert_eq!((slots.running(), slots.queued()), (0, 0));
    }

    #[tokio::test]
    async fn a_suspended_call_frees_its_slot_and_resumes_without_queueing() {
        let slots = Slots::new(1, 4);
        let mut parent = take(&slots, 1000).await.unwrap();
        parent.suspend();
        let child = take(&slots, 1000).await.unwrap();
        parent.resume();
        assert_eq!(slots.running(), 2);
        drop((parent, child));
        assert_eq!(slots.running(), 0);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_with_a_time_to_come_back() {
        let slots = Slots::new(1, 0);
        let _running = take(&slots, 1000).await.unwrap();
        let refused = take(&slots, 1000).await.map(|_| ()).unwrap_err();
        assert_eq!((&*refused.slug, refused.may_have_executed), ("overloaded", false));
        assert!(refused.retry_after_ms >= 10);
    }

    #[tokio::test]
    async fn who_waited_too_long_in_a_queue_that_does_not_end_is_refused() {
        let slots = Slots::new(1, 4);
        let running = take(&slots, 60_000).await.unwrap();
        let wait = |depth| {
            let slots = slots.clone();
            let ask = Ask { depth, ..ask(60_000) };
            tokio::spawn(async move { slots.take(&ask, Instant::now()).await.map(|_| ()) })
        };
        let (first, nested) = (wait(0), wait(1));
        while slots.queued() < 2 {
            tokio::task::yield_now().await;
        }
        let long_ago = Instant::now() - Duration::from_secs(2);
        {
            let mut queue = slots.waiting.lock();
            queue.standing = Some(long_ago);
            queue.waiters.iter_mut().for_each(|waiter| waiter.since = long_ago);
        }
        drop(running);
        let refused = first.await.unwrap().unwrap_err();
        assert_eq!((&*refused.slug, refused.may_have_executed), ("overloaded", false));
        assert!(refused.retry_after_ms >= 10);
        assert_eq!(nested.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_call_that_gave_up_leaves_no_slot_taken() {
        let slots = Slots::new(1, 4);
        let running = take(&slots, 1000).await.unwrap();
        let late = take(&slots, 1).await.map(|_| ()).unwrap_err();
        assert_eq!(late.slug, "deadline");
        drop(running);
        assert!(take(&slots, 1000).await.is_ok());
    }
}
