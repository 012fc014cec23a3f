//! Who gets a slot, who waits for one, and what happens to those who leave.

#![allow(clippy::unwrap_used)]

use pollen_rules::Backlog;

use super::*;

const MEMORY: Memory = Memory { free: 1000, reserve: 250, total: 1000 };

fn one_slot(queue: u64) -> Arc<Slots> {
    Slots::new(Size { cores: 1, slots: 1, fresh_slots: 1, queue }, || MEMORY)
}

fn ask(budget_ms: u64) -> Ask {
    Ask {
        memory_need: 1,
        tree_need: 1,
        deadline: Instant::now() + Duration::from_millis(budget_ms),
        service_us: 1000,
        ..Ask::default()
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

fn spawn(slots: &Arc<Slots>, ask: Ask) -> tokio::task::JoinHandle<Result<Slot, CallError>> {
    let slots = slots.clone();
    tokio::spawn(async move { slots.take(&ask, Instant::now()).await.map(|(slot, _)| slot) })
}

async fn until_queued(slots: &Arc<Slots>, count: u64) {
    while slots.queued() < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_child_goes_before_those_that_begin() {
    let slots = one_slot(9);
    let running = take(&slots, 1000).await.unwrap();
    let first = spawn(&slots, ask(60_000));
    until_queued(&slots, 1).await;
    let child = spawn(&slots, Ask { depth: 1, is_child: true, ..ask(60_000) });
    until_queued(&slots, 2).await;
    drop(running);
    let child = child.await.unwrap().unwrap();
    assert!(!first.is_finished());
    drop(child);
    assert!(first.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_tree_begins_when_it_fits_and_what_is_beneath_one_never_waits_for_memory() {
    let slots = Slots::new(Size { cores: 1, slots: 9, fresh_slots: 9, queue: 9 }, || MEMORY);
    let tree = Ask { tree_need: 400, ..ask(60_000) };
    let (mut first, _) = slots.take(&tree, Instant::now()).await.unwrap();
    first.suspend();
    // 750 are for those that begin, and 400 of them are promised.
    let second = spawn(&slots, tree);
    until_queued(&slots, 1).await;
    let passes = Ask { depth: 1, is_child: true, ..ask(1000) };
    drop(slots.take(&passes, Instant::now()).await.unwrap());
    let from_afar = Ask { is_child: false, ..passes };
    drop(slots.take(&from_afar, Instant::now()).await.unwrap());
    // Nobody that begins overtakes the one that waits for memory, however short.
    let third = spawn(&slots, Ask { service_us: 1, ..ask(60_000) });
    until_queued(&slots, 2).await;
    drop(first);
    let second = second.await.unwrap().unwrap();
    drop((third.await.unwrap().unwrap(), second));
    let alone = Ask { tree_need: 5000, ..ask(1000) };
    drop(slots.take(&alone, Instant::now()).await.unwrap());
    assert_eq!((slots.running(), slots.promised.load(Relaxed)), (0, 0));
}

#[tokio::test]
async fn who_waited_too_long_in_a_queue_that_grows_is_refused() {
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
    let long_ago = Instant::now() - Duration::from_secs(6);
    {
        let mut queue = slots.waiting.lock();
        // It stood for 6 s, with up to four waiting and then four refused.
        queue.born = long_ago;
        queue.backlog = Backlog::default();
        [(0, 1), (1_100_000, 2), (2_100_000, 2), (2_900_000, 3), (4_500_000, 4)]
            .iter()
            .for_each(|(us, waiting)| queue.backlog.came(*us, *waiting));
        (0..4).for_each(|_| queue.backlog.refuse());
        queue.waiters().for_each(|waiter| waiter.since = long_ago);
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
async fn callers_who_left_take_no_place_in_the_queue() {
    let slots = one_slot(4);
    let running = take(&slots, 60_000).await.unwrap();
    let gone: Vec<_> = (0..4).map(|_| spawn(&slots, ask(60_000))).collect();
    until_queued(&slots, 4).await;
    for caller in gone {
        caller.abort();
        assert!(caller.await.is_err());
    }
    assert_eq!(slots.queued(), 0);
    let next = spawn(&slots, ask(60_000));
    until_queued(&slots, 1).await;
    drop(running);
    assert!(next.await.unwrap().is_ok());
}

#[tokio::test]
async fn who_waits_behind_one_that_needs_more_memory_begins_when_that_one_leaves() {
    let slots = Slots::new(Size { cores: 1, slots: 9, fresh_slots: 9, queue: 9 }, || MEMORY);
    let (mut first, _) =
        slots.take(&Ask { tree_need: 400, ..ask(60_000) }, Instant::now()).await.unwrap();
    first.suspend();
    let large = spawn(&slots, Ask { tree_need: 500, ..ask(60_000) });
    until_queued(&slots, 1).await;
    let small = spawn(&slots, ask(60_000));
    until_queued(&slots, 2).await;
    large.abort();
    assert!(small.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_short_call_begins_when_the_long_one_before_it_leaves() {
    let size = Size { cores: 1, slots: 2, fresh_slots: 1, queue: 9 };
    let slots = Slots::new(size, || MEMORY);
    let fresh = take(&slots, 60_000).await.unwrap();
    let short = Ask { service_us: 10, ..ask(60_000) };
    let (second, _) = slots.take(&short, Instant::now()).await.unwrap();
    let long = spawn(&slots, ask(60_000));
    until_queued(&slots, 1).await;
    let last = spawn(&slots, short);
    until_queued(&slots, 2).await;
    drop(second);
    assert_eq!(slots.queued(), 2);
    long.abort();
    assert!(last.await.unwrap().is_ok());
    drop(fresh);
}

/// They stay in the queue here, as if all left between the answer and its sending.
#[tokio::test]
async fn any_number_of_waiters_that_gave_up_are_passed_over() {
    let slots = one_slot(u64::MAX);
    let running = take(&slots, 60_000).await.unwrap();
    {
        let mut queue = slots.waiting.lock();
        for _ in 0..100_000 {
            let (turn, _) = oneshot::channel();
            queue.push(ask(60_000), Instant::now(), turn);
        }
        slots.note_length(&queue);
    }
    let last = spawn(&slots, ask(60_000));
    until_queued(&slots, 100_001).await;
    drop(running);
    drop(last.await.unwrap().unwrap());
    assert_eq!((slots.running(), slots.queued()), (0, 0));
    assert_eq!(slots.under_way.load(Relaxed), 0);
}

#[tokio::test]
async fn who_burns_on_makes_place_and_short_calls_pass() {
    let slots = Slots::new(Size { cores: 1, slots: 3, fresh_slots: 1, queue: 0 }, || MEMORY);
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
