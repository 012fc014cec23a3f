//! Running slots and the queue for them. A slot means *running*: a call gives it back while it awaits
//! something and retakes it without queueing, so crossing chains cannot deadlock
//! (docs/design/sandbox.md#admission).
//!
//! Calls of one core share it by turns of a slice. Few of them are fresh at a time, so that each is
//! soon done and does not share with all that came; who burned for [`BURST`] slices makes place.
//! A call at depth 0 also waits until the memory that its tree was seen to need is not promised.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use pollen_rules::{
    Admission, Arrival, Fit, Room, Stock, admit, fullness, is_late, is_short, shed,
};
use tokio::sync::oneshot;

use crate::{
    call::CallError,
    counters::micros,
    queue::{Ask, Line, Queue, Size, Ticket},
    trees::Memory,
};

/// How a call that waits is told: a slot of its own, or the refusal.
type Turn = oneshot::Sender<Result<Slot, CallError>>;

/// Slices after which a call is not fresh any more: about 50 ms of a core.
const BURST: u32 = 25;

/// The slots of one node.
pub(crate) struct Slots {
    running: AtomicU64,
    /// Those of them that are fresh, of seeds that are not short.
    fresh: AtomicU64,
    waiting: Mutex<Queue<Turn>>,
    /// Length of the queue, readable without its lock, and whether guests here made some of it.
    queued: AtomicUsize,
    has_children: AtomicBool,
    /// The first at depth 0 waits for memory.
    is_starved: AtomicBool,
    /// Calls under way, suspended ones too, and the memory promised to those at depth 0.
    under_way: AtomicU64,
    promised: AtomicU64,
    memory: Box<dyn Fn() -> Memory + Send + Sync>,
    size: Size,
}

/// A place in the queue, which is left on drop.
struct Place<'a> {
    slots: &'a Arc<Slots>,
    ticket: Ticket,
}

/// The right to run; given back on drop, and with it the memory that was promised.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    held: bool,
    /// It counts as fresh while it is held, for so many slices more.
    fresh: Option<u32>,
    promised: u64,
    /// Its drop gives it to the next one that waits.
    hands_on: bool,
}

impl Slots {
    pub(crate) fn new(
        size: Size,
        memory: impl Fn() -> Memory + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            running: AtomicU64::new(0),
            fresh: AtomicU64::new(0),
            waiting: Mutex::default(),
            queued: AtomicUsize::new(0),
            has_children: AtomicBool::new(false),
            is_starved: AtomicBool::new(false),
            under_way: AtomicU64::new(0),
            promised: AtomicU64::new(0),
            memory: Box::new(memory),
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
    pub(crate) fn fullness(&self) -> u8 {
        fullness(&self.room(), self.queued(), self.size.queue)
    }

    fn room(&self) -> Room {
        Room {
            running: self.running(),
            slots: self.size.slots,
            fresh: self.fresh.load(Relaxed),
            fresh_slots: self.size.fresh_slots,
        }
    }

    fn stock(&self, ask: &Ask) -> Stock {
        let memory = (self.memory)();
        let kept = memory.reserve.saturating_add(self.promised.load(Relaxed));
        Stock {
            memory_free: memory.free,
            memory_reserve: memory.reserve,
            memory_need: ask.memory_need,
            tree_free: memory.total.saturating_sub(kept),
            tree_need: ask.tree_need,
            under_way: self.under_way.load(Relaxed),
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
            // In a box of its own, as all that most calls do without: the future is copied.
            None => Box::pin(self.wait(ask)).await.map(|slot| (slot, asked.elapsed())),
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
            memory: self.stock(ask),
            // Links look ids up before they ask for a slot: `seen.rs`.
            seen: false,
        });
        match judged {
            Admission::Run => Ok(self.try_occupy(ask)),
            Admission::Queue => Ok(None),
            Admission::Shed => self.make_room(ask).map(|()| None),
            Admission::Overloaded | Admission::Duplicate => Err(Self::out_of_memory()),
        }
    }

    async fn wait(self: &Arc<Self>, ask: &Ask) -> Result<Slot, CallError> {
        let (turn, mut told) = oneshot::channel();
        let place = {
            let mut queue = self.waiting.lock();
            let ticket = queue.push(*ask, Instant::now(), turn);
            self.note_length(&queue);
            Place { slots: self, ticket }
        };
        // A slot may have been given back between the decision and the push.
        self.hand_on();
        let told = tokio::time::timeout_at(ask.deadline.into(), &mut told).await;
        if told.is_ok() {
            place.forget();
        }
        match told {
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
        queue.sweep();
        let wait_us = self.expected_us(queue.len(), ask.service_us);
        let victim = shed(queue.deadlines().map(left), left(ask.deadline), wait_us);
        queue.backlog.refuse();
        let victim = victim.and_then(|index| queue.remove(index));
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

    fn out_of_memory() -> CallError {
        CallError::overloaded("the memory for guests is used up", 100)
    }

    /// Under the queue's lock, after each change of it.
    fn note_length(&self, queue: &Queue<Turn>) {
        if queue.len() == 0 {
            self.is_starved.store(false, Relaxed);
        }
        self.queued.store(queue.len(), Relaxed);
        self.has_children.store(queue.has_children(), Relaxed);
    }

    /// A slot, unless the last one was taken meanwhile or others wait that go first.
    fn try_occupy(self: &Arc<Self>, ask: &Ask) -> Option<Slot> {
        let is_short = is_short(ask.service_us);
        let is_behind = match ask.is_child {
            true => self.has_children.load(Relaxed),
            false => self.queued.load(Relaxed) > 0,
        };
        let is_starved = ask.depth == 0 && self.is_starved.load(Relaxed);
        if is_starved || (is_behind && !is_short) {
            return None;
        }
        let below = |limit| move |taken| (taken < limit).then_some(taken + 1);
        self.running.try_update(Relaxed, Relaxed, below(self.size.slots)).ok()?;
        let mut slot = self.slot(ask, true);
        if !is_short {
            // Without a place among the fresh the slot goes back by its drop.
            self.fresh.try_update(Relaxed, Relaxed, below(self.size.fresh_slots)).ok()?;
            slot.fresh = Some(BURST);
        }
        Some(slot)
    }

    fn occupy(self: &Arc<Self>, ask: &Ask) -> Slot {
        let mut slot = self.slot(ask, false);
        slot.fresh = (!is_short(ask.service_us)).then_some(BURST);
        slot.take_back();
        slot
    }

    fn slot(self: &Arc<Self>, ask: &Ask, held: bool) -> Slot {
        let promised = if ask.depth == 0 { ask.tree_need } else { 0 };
        self.under_way.fetch_add(1, Relaxed);
        self.promised.fetch_add(promised, Relaxed);
        Slot { slots: self.clone(), held, fresh: None, promised, hands_on: true }
    }

    /// Gives free slots to those who wait; refuses who waited too long in a queue that grows.
    ///
    /// Who gives a slot back and who joins the queue both come here, and each after its own write:
    /// between the fences one of them sees the other's.
    fn hand_on(self: &Arc<Self>) {
        fence(SeqCst);
        while self.queued.load(Relaxed) > 0 {
            let (turn, answer) = {
                let mut queue = self.waiting.lock();
                let mut fit = Fit::Now;
                let next = queue.next(|root| {
                    fit = self.stock(root).fit(0);
                    fit != Fit::Later
                });
                self.is_starved.store(fit == Fit::Later, Relaxed);
                let Some((line, first)) = next else { return };
                if !self.room().admits(first.ask.service_us) {
                    return;
                }
                let now = Instant::now();
                let Some(waiter) = queue.pop(line, now) else { return };
                self.note_length(&queue);
                let answer = if line == Line::Roots && fit == Fit::Never {
                    Err(Self::out_of_memory())
                } else if is_late(&queue.wait_of(&waiter, now)) {
                    queue.backlog.refuse();
                    Err(Self::refusal(self.expected_us(queue.len(), waiter.ask.service_us)))
                } else {
                    Ok(self.occupy(&waiter.ask))
                };
                (waiter.turn, answer)
            };
            // Of a waiter that gave up: not under the lock, and this loop hands it on. Would the
            // drop do so, thousands of them were as deep a recursion.
            if let Err(Ok(mut slot)) = turn.send(answer) {
                slot.hands_on = false;
            }
            fence(SeqCst);
        }
    }
}

impl Place<'_> {
    /// Its turn came.
    fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let was_first = {
            let mut queue = self.slots.waiting.lock();
            let was_first = queue.leave(self.ticket, Instant::now());
            self.slots.note_length(&queue);
            was_first
        };
        // Who stood behind it may need less memory, or be short.
        if was_first {
            self.slots.hand_on();
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
        self.put_down();
        self.slots.promised.fetch_sub(self.promised, Relaxed);
        self.slots.under_way.fetch_sub(1, Relaxed);
        if self.hands_on {
            self.slots.hand_on();
        }
    }
}

#[cfg(test)]
mod tests;
