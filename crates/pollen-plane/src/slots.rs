//! Running slots and the queue for them. A slot means *running*: a call gives it back while it awaits
//! something and retakes it without queueing, so crossing chains cannot deadlock
//! (docs/design/sandbox.md#admission).
//!
//! Calls of one core share it by turns of a slice. Few of them are fresh at a time, so that each is
//! soon done and does not share with all that came. A call that has used [`BURST`] slices gives up
//! its place among the fresh ones.

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
    percall::{Admission, Arrival, Room, STANDING_US, Wait, admit, is_late, is_short, shed},
};

/// Slices after which a call is not fresh any more: about 50 ms of a core.
const BURST: u32 = 25;

/// How many calls a node runs and keeps waiting.
pub(crate) struct Size {
    pub(crate) cores: u64,
    pub(crate) slots: u64,
    pub(crate) fresh_slots: u64,
    pub(crate) queue: u64,
}

impl Size {
    /// Those waiting cost about 1 kB each; 10,000 suspended parents may each wait for a child.
    pub(crate) fn of(cores: u64) -> Self {
        let cores = cores.max(1);
        Self { cores, slots: 16 * cores, fresh_slots: 4 * cores, queue: 16_384 }
    }
}

/// The slots of one node.
pub(crate) struct Slots {
    running: AtomicU64,
    /// Those of them that are fresh, of seeds that are not short.
    fresh: AtomicU64,
    waiting: Mutex<Queue>,
    /// Length of the queue, readable without its lock.
    queued: AtomicUsize,
    size: Size,
}

/// Who waits, the oldest first; since when there is a queue, and since when there is none.
#[derive(Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    standing: Option<Instant>,
    emptied: Option<Instant>,
}

impl Queue {
    /// A queue that forms again within [`STANDING_US`] counts as one queue: a node that sheds load
    /// keeps emptying it for a moment.
    fn push(&mut self, waiter: Waiter) {
        if self.waiters.is_empty() {
            let gap = self.emptied.map_or(u64::MAX, |at| micros(waiter.since - at));
            if gap >= STANDING_US {
                self.standing = None;
            }
            self.standing.get_or_insert(waiter.since);
        }
        self.waiters.push_back(waiter);
    }

    fn pop(&mut self, now: Instant) -> Option<Waiter> {
        let waiter = self.waiters.pop_front();
        if self.waiters.is_empty() {
            self.emptied = Some(now);
        }
        waiter
    }
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
    /// It counts as fresh while it is held, for so many slices more.
    fresh: Option<u32>,
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
    pub(crate) fn new(size: Size) -> Arc<Self> {
        Arc::new(Self {
            running: AtomicU64::new(0),
            fresh: AtomicU64::new(0),
            waiting: Mutex::default(),
            queued: AtomicUsize::new(0),
            size,
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
        let room = self.room();
        let taken = part(room.running, room.slots).max(part(room.fresh, room.fresh_slots));
        let load = taken + part(self.queued(), self.size.queue);
        u8::try_from(if load >= 254 { 255 } else { load }).unwrap_or(255)
    }

    fn room(&self) -> Room {
        Room {
            running: self.running(),
            slots: self.size.slots,
            fresh: self.fresh.load(Relaxed),
            fresh_slots: self.size.fresh_slots,
        }
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
            room: self.room(),
            service_us: ask.service_us,
            queued: self.queued(),
            queue_limit: self.size.queue,
            depth: ask.depth,
            memory_free: ask.memory_free,
            memory_reserve: ask.memory_reserve,
            memory_need: ask.memory_need,
            // Links look ids up before they ask for a slot: `seen.rs`.
            seen: false,
        });
        match judged {
            Admission::Run => Ok(self.try_occupy(ask.service_us)),
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
            queue.push(Waiter { deadline: ask.deadline, since, depth, service_us, turn });
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
        let victim = victim.ok_or_else(|| Self::refusal(wait_us))?;
        let _ = victim.turn.send(Err(Self::refusal(wait_us)));
        Ok(())
    }

    /// How long the last of so many waits, if all are like it.
    fn expected_us(&self, ahead: usize, service_us: u64) -> u64 {
        u64::try_from(ahead).unwrap_or(u64::MAX).saturating_mul(service_us) / self.size.cores
    }

    fn refusal(wait_us: u64) -> CallError {
        let after = u32::try_from(wait_us / 1000).unwrap_or(u32::MAX).clamp(10, 10_000);
        CallError::overloaded("this node has more calls than it can run in time", after)
    }

    /// A slot, unless the last one was taken meanwhile or others of its kind wait.
    fn try_occupy(self: &Arc<Self>, service_us: u64) -> Option<Slot> {
        if self.queued.load(Relaxed) > 0 && !is_short(service_us) {
            return None;
        }
        let below = |limit| move |taken| (taken < limit).then_some(taken + 1);
        self.running.try_update(Relaxed, Relaxed, below(self.size.slots)).ok()?;
        let mut slot = Slot { slots: self.clone(), held: true, fresh: None };
        if !is_short(service_us) {
            // Without a place among the fresh the slot goes back by its drop.
            self.fresh.try_update(Relaxed, Relaxed, below(self.size.fresh_slots)).ok()?;
            slot.fresh = Some(BURST);
        }
        Some(slot)
    }

    fn occupy(self: &Arc<Self>, service_us: u64) -> Slot {
        let fresh = (!is_short(service_us)).then_some(BURST);
        let mut slot = Slot { slots: self.clone(), held: false, fresh };
        slot.take_back();
        slot
    }

    /// Gives free slots to those who wait, oldest first; refuses who waited too long in a queue that
    /// does not end.
    fn hand_on(self: &Arc<Self>) {
        while self.queued.load(Relaxed) > 0 {
            let (turn, answer) = {
                let mut queue = self.waiting.lock();
                let Some(first) = queue.waiters.front() else { return };
                if !self.room().admits(first.service_us) {
                    return;
                }
                let now = Instant::now();
                let Some(waiter) = queue.pop(now) else { return };
                let ahead = queue.waiters.len();
                self.queued.store(ahead, Relaxed);
                let since = |start: Instant| micros(now.saturating_duration_since(start));
                let wait = Wait {
                    waited_us: since(waiter.since),
                    standing_us: queue.standing.map_or(0, since),
                    service_us: waiter.service_us,
                    depth: waiter.depth,
                };
                let answer = if is_late(&wait) {
                    Err(Self::refusal(self.expected_us(ahead, waiter.service_us)))
                } else {
                    Ok(self.occupy(waiter.service_us))
                };
                (waiter.turn, answer)
            };
            // A waiter that gave up drops the slot, which hands it on: not under the lock.
            if let Err(Ok(mut slot)) = turn.send(answer) {
                slot.put_down();
            }
        }
    }
}

impl Slot {
    /// Gives the slot back while the call waits, if it has it.
    pub(crate) fn suspend(&mut self) -> bool {
        let held = self.put_down();
        if held {
            self.slots.hand_on();
        }
        held
    }

    /// Takes a slot again at once: resumes go first, even beyond the number of slots.
    pub(crate) fn resume(&mut self) {
        if !self.held {
            self.take_back();
        }
    }

    /// The call used up a slice; after many it is fresh no more, and another may begin.
    pub(crate) fn burned(&mut self) {
        self.fresh = match self.fresh {
            Some(0) if self.held => {
                self.slots.fresh.fetch_sub(1, Relaxed);
                self.slots.hand_on();
                None
            }
            fresh => fresh.map(|slices| slices.saturating_sub(1)),
        };
    }

    fn take_back(&mut self) {
        self.held = true;
        self.slots.running.fetch_add(1, Relaxed);
        if self.fresh.is_some() {
            self.slots.fresh.fetch_add(1, Relaxed);
        }
    }

    fn put_down(&mut self) -> bool {
        let held = std::mem::replace(&mut self.held, false);
        if held {
            self.slots.running.fetch_sub(1, Relaxed);
            if self.fresh.is_some() {
                self.slots.fresh.fetch_sub(1, Relaxed);
            }
        }
        held
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

    fn one_slot(queue: u64) -> Arc<Slots> {
        Slots::new(Size { cores: 1, slots: 1, fresh_slots: 1, queue })
    }

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
        let slots = one_slot(4);
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
        let slots = one_slot(4);
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
        let slots = one_slot(0);
        let _running = take(&slots, 1000).await.unwrap();
        let refused = take(&slots, 1000).await.map(|_| ()).unwrap_err();
        assert_eq!((&*refused.slug, refused.may_have_executed), ("overloaded", false));
        assert!(refused.retry_after_ms >= 10);
    }

    #[tokio::test]
    async fn who_waited_too_long_in_a_queue_that_does_not_end_is_refused() {
        let slots = one_slot(4);
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
        let slots = one_slot(4);
        let running = take(&slots, 1000).await.unwrap();
        let late = take(&slots, 1).await.map(|_| ()).unwrap_err();
        assert_eq!(late.slug, "deadline");
        drop(running);
        assert!(take(&slots, 1000).await.is_ok());
    }

    #[tokio::test]
    async fn who_burns_on_makes_place_and_short_calls_pass() {
        let slots = Slots::new(Size { cores: 1, slots: 3, fresh_slots: 1, queue: 0 });
        let mut long = take(&slots, 1000).await.unwrap();
        assert_eq!(take(&slots, 1000).await.map(|_| ()).unwrap_err().slug, "overloaded");
        let short = Ask { service_us: 10, ..ask(1000) };
        drop(slots.take(&short, Instant::now()).await.unwrap());
        for _ in 0..BURST {
            long.burned();
            assert!(take(&slots, 1000).await.is_err());
        }
        long.burned();
        let next = take(&slots, 1000).await.unwrap();
        drop((long, next));
        assert_eq!((slots.running(), slots.room().fresh), (0, 0));
    }

    #[tokio::test]
    async fn a_queue_that_comes_back_soon_was_never_gone() {
        let mut queue = Queue::default();
        let start = Instant::now();
        let waiter = |ms| Waiter {
            deadline: start,
            since: start + Duration::from_millis(ms),
            depth: 0,
            service_us: 1000,
            turn: oneshot::channel().0,
        };
        for at in [0, 400, 800] {
            queue.push(waiter(at));
            assert_eq!(queue.standing, Some(start));
            queue.pop(start + Duration::from_millis(at));
        }
        queue.push(waiter(1_301));
        assert_eq!(queue.standing, Some(start + Duration::from_millis(1_301)));
    }
}
