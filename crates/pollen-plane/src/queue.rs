//! Who waits for a slot, in three lines, and since when there is a queue.
//!
//! Invariants: a call that a guest of this node made goes before all others, because its parent
//! keeps memory until it has ended; the rest goes by age. Who waits for memory (depth 0 only) stands
//! in nobody's way but of its own kind. Who left counts for nothing, and is at the head of no line.

use std::{collections::VecDeque, time::Instant};

use pollen_rules::{
    Backlog, Wait,
    numbers::{FRESH_A_CORE, QUEUE_MAX, SLOTS_A_CORE},
};

use crate::counters::micros;

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
        let (slots, fresh_slots) = (SLOTS_A_CORE * cores, FRESH_A_CORE * cores);
        Self { cores, slots, fresh_slots, queue: QUEUE_MAX }
    }
}

/// What a call needs and brings, for the decision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) depth: u64,
    /// A guest of this node made it.
    pub(crate) is_child: bool,
    pub(crate) memory_need: u64,
    pub(crate) tree_need: u64,
    pub(crate) deadline: Instant,
    /// Smoothed run time of what is waiting, for the expected wait.
    pub(crate) service_us: u64,
}

#[cfg(test)]
impl Default for Ask {
    fn default() -> Self {
        let deadline = Instant::now();
        Self { depth: 0, is_child: false, memory_need: 0, tree_need: 0, deadline, service_us: 1000 }
    }
}

impl Ask {
    pub(crate) fn line(&self) -> Line {
        match (self.is_child, self.depth) {
            (true, _) => Line::Children,
            (false, 0) => Line::Roots,
            (false, _) => Line::Nested,
        }
    }
}

/// A call that waits, and what it is to be told by when its turn comes.
pub(crate) struct Waiter<T> {
    pub(crate) ask: Ask,
    pub(crate) since: Instant,
    pub(crate) turn: T,
    number: u64,
    has_left: bool,
}

/// By which a waiter is found again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    line: Line,
    number: u64,
}

/// The three lines.
pub(crate) struct Queue<T> {
    /// Calls that guests of this node made.
    children: VecDeque<Waiter<T>>,
    /// Calls that guests of other nodes made.
    nested: VecDeque<Waiter<T>>,
    /// Calls at depth 0.
    roots: VecDeque<Waiter<T>>,
    /// How many ever came.
    came: u64,
    /// How many of those in the lines have left; at most half of them.
    left: usize,
    pub(crate) backlog: Backlog,
    /// From which the backlog counts time.
    pub(crate) born: Instant,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            children: VecDeque::new(),
            nested: VecDeque::new(),
            roots: VecDeque::new(),
            came: 0,
            left: 0,
            backlog: Backlog::default(),
            born: Instant::now(),
        }
    }
}

/// Which line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Children,
    Nested,
    Roots,
}

impl<T> Queue<T> {
    /// Those who wait.
    pub(crate) fn len(&self) -> usize {
        self.children.len() + self.nested.len() + self.roots.len() - self.left
    }

    fn length(&self) -> u64 {
        u64::try_from(self.len()).unwrap_or(u64::MAX)
    }

    fn clock_us(&self, at: Instant) -> u64 {
        micros(at.saturating_duration_since(self.born))
    }

    pub(crate) fn has_children(&self) -> bool {
        !self.children.is_empty()
    }

    fn line(&mut self, line: Line) -> &mut VecDeque<Waiter<T>> {
        match line {
            Line::Children => &mut self.children,
            Line::Nested => &mut self.nested,
            Line::Roots => &mut self.roots,
        }
    }

    pub(crate) fn push(&mut self, ask: Ask, since: Instant, turn: T) -> Ticket {
        let ticket = Ticket { line: ask.line(), number: self.came };
        self.came += 1;
        let waiter = Waiter { ask, since, turn, number: ticket.number, has_left: false };
        self.line(ticket.line).push_back(waiter);
        self.backlog.came(self.clock_us(since), self.length());
        ticket
    }

    /// Its caller has gone, or its deadline; whether it was the first of its line. Nothing happens
    /// to one that was popped or removed before. It counts as neither waiting nor refused: a queue
    /// that callers leave does not grow.
    pub(crate) fn leave(&mut self, ticket: Ticket, now: Instant) -> bool {
        let line = self.line(ticket.line);
        let at = line.partition_point(|waiter| waiter.number < ticket.number);
        match line.get_mut(at) {
            Some(waiter) if waiter.number == ticket.number && !waiter.has_left => {
                waiter.has_left = true;
            }
            _ => return false,
        }
        self.left += 1;
        if self.left > self.len() {
            self.sweep();
        }
        self.trim(ticket.line);
        self.backlog.left(self.clock_us(now), self.length());
        at == 0
    }

    /// Drops those who left.
    pub(crate) fn sweep(&mut self) {
        for line in [&mut self.children, &mut self.nested, &mut self.roots] {
            line.retain(|waiter| !waiter.has_left);
        }
        self.left = 0;
    }

    /// Drops those who left and stand at the head of a line.
    fn trim(&mut self, line: Line) {
        let (mut left, line) = (0, self.line(line));
        while line.pop_front_if(|waiter| waiter.has_left).is_some() {
            left += 1;
        }
        self.left -= left;
    }

    /// Who is next, if the first root may be: a child, else the older of the two others.
    pub(crate) fn next(&self, root_fits: impl FnOnce(&Ask) -> bool) -> Option<(Line, &Waiter<T>)> {
        if let Some(child) = self.children.front() {
            return Some((Line::Children, child));
        }
        let root = self.roots.front();
        match self.nested.front() {
            Some(nested) if root.is_none_or(|root| nested.since <= root.since) => {
                Some((Line::Nested, nested))
            }
            nested => match root {
                Some(root) if root_fits(&root.ask) => Some((Line::Roots, root)),
                _ => nested.map(|nested| (Line::Nested, nested)),
            },
        }
    }

    pub(crate) fn pop(&mut self, line: Line, now: Instant) -> Option<Waiter<T>> {
        let waiter = self.line(line).pop_front();
        self.trim(line);
        self.backlog.left(self.clock_us(now), self.length());
        waiter
    }

    /// Times left of all in the lines, in the order in which [`Queue::remove`] counts. Who left is
    /// among them, until [`Queue::sweep`].
    pub(crate) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.children.iter().chain(&self.nested).chain(&self.roots).map(|w| w.ask.deadline)
    }

    pub(crate) fn remove(&mut self, mut index: usize) -> Option<Waiter<T>> {
        for line in [Line::Children, Line::Nested, Line::Roots] {
            let length = self.line(line).len();
            if index < length {
                let waiter = self.line(line).remove(index);
                self.trim(line);
                return waiter;
            }
            index -= length;
        }
        None
    }

    /// How a call that comes to the head now waited, as the rule wants to know it.
    pub(crate) fn wait_of(&self, waiter: &Waiter<T>, now: Instant) -> Wait {
        Wait {
            waited_us: micros(now.saturating_duration_since(waiter.since)),
            standing_us: self.backlog.standing_us(self.clock_us(now)),
            quiet_us: self.backlog.quiet_us(self.clock_us(now)),
            backlog: self.backlog.size(self.length()),
            backlog_before: self.backlog.before(),
            service_us: waiter.ask.service_us,
            depth: waiter.ask.depth,
        }
    }

    #[cfg(test)]
    pub(crate) fn waiters(&mut self) -> impl Iterator<Item = &mut Waiter<T>> {
        self.children.iter_mut().chain(&mut self.nested).chain(&mut self.roots)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use pollen_rules::is_late;

    use super::*;

    fn push(queue: &mut Queue<()>, since: Instant) -> Ticket {
        let ask = Ask { depth: 0, deadline: since + Duration::from_secs(60), ..Ask::default() };
        queue.push(ask, since, ())
    }

    #[test]
    fn who_left_counts_for_nothing_and_is_never_next() {
        let (mut queue, now) = (Queue::<()>::default(), Instant::now());
        let tickets: Vec<Ticket> = (0..1_000).map(|_| push(&mut queue, now)).collect();
        let stays = |number: usize| number % 10 == 7;
        // In an order of its own: 7 and 1,000 have no common factor.
        for number in (0..1_000).map(|turn| turn * 7 % 1_000).filter(|number| !stays(*number)) {
            queue.leave(tickets[number], now);
            queue.leave(tickets[number], now);
            assert!(queue.deadlines().count() <= 2 * queue.len() + 1);
        }
        assert_eq!(queue.len(), 100);
        let mut served = vec![];
        while let Some((line, first)) = queue.next(|_| true) {
            served.push(usize::try_from(first.number).unwrap());
            queue.pop(line, now).unwrap();
        }
        assert_eq!(served, (0..1_000).filter(|number| stays(*number)).collect::<Vec<_>>());
        assert!(tickets.iter().all(|ticket| !queue.leave(*ticket, now)), "all have gone");
        assert_eq!((queue.len(), queue.deadlines().count()), (0, 0));
    }

    #[test]
    fn a_queue_that_comes_back_soon_was_never_gone() {
        let mut queue = Queue::<()>::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut first, mut last) = (0, 0);
        for ms in [0, 400, 800] {
            push(&mut queue, at(ms));
            last = queue.backlog.standing_us(queue.clock_us(at(ms)));
            if ms == 0 {
                first = last;
            }
            queue.pop(Line::Roots, at(ms));
        }
        assert_eq!((first, last), (0, 800_000));
        push(&mut queue, at(1_301));
        assert_eq!(queue.backlog.standing_us(queue.clock_us(at(1_301))), 0);
    }

    /// A node that serves one call in 10 ms for 20 s; the refused of the last 10.
    fn refused(callers: usize, comes_in_10_ms: impl Fn(u64, bool) -> usize) -> usize {
        let (mut queue, start) = (Queue::<()>::default(), Instant::now());
        for _ in 0..callers {
            push(&mut queue, start);
        }
        let mut refused = 0;
        for tick in 1..2_000 {
            let now = start + Duration::from_millis(10 * tick);
            let mut served = false;
            while let Some(first) = queue.pop(Line::Roots, now) {
                if !is_late(&queue.wait_of(&first, now)) {
                    served = true;
                    break;
                }
                queue.backlog.refuse();
                refused += usize::from(tick > 1_000);
            }
            for _ in 0..comes_in_10_ms(tick, served) {
                push(&mut queue, now);
            }
        }
        refused
    }

    #[test]
    fn a_closed_loop_is_served_however_long_its_queue_stands() {
        for callers in [2, 64, 512, 4_096] {
            assert_eq!(refused(callers, |_, served| usize::from(served)), 0, "{callers}");
        }
    }

    #[test]
    fn callers_who_join_a_standing_queue_are_served() {
        let joined =
            |tick: u64, served| usize::from(served) + if tick == 1_100 { 1_000 } else { 0 };
        assert_eq!(refused(64, joined), 0);
    }

    #[test]
    fn callers_who_join_one_after_another_are_served() {
        // 64 callers become 512, and those 4,096, each within a second and a half.
        let joins = |from: u64, a_tick: usize| {
            move |tick| if (from..from + 150).contains(&tick) { a_tick } else { 0 }
        };
        for (callers, a_tick) in [(64, 3), (512, 24)] {
            let joins = joins(1_100, a_tick);
            let loops = |tick, served| usize::from(served) + joins(tick);
            assert_eq!(refused(callers, loops), 0, "{callers}");
        }
    }

    #[test]
    fn an_overload_of_a_queue_that_rested_is_found() {
        // A closed loop for 11 s, and then half as many calls again as are served.
        let comes = |tick: u64, served| match tick {
            ..=1_100 => usize::from(served),
            _ => 1 + usize::from(tick.is_multiple_of(2)),
        };
        let refused = refused(64, comes);
        assert!((400..=600).contains(&refused), "{refused} of 1,350");
    }

    #[test]
    fn a_closed_loop_that_comes_in_waves_is_served() {
        // All of 500 come at once when the last of them was served.
        let wave = |tick: u64, _| if tick.is_multiple_of(501) { 500 } else { 0 };
        assert_eq!(refused(500, wave), 0);
    }

    #[test]
    fn of_calls_that_come_faster_than_they_are_served_the_rest_is_refused() {
        // Half as many again as it serves; with a closed loop beside them, too.
        for callers in [1, 64] {
            let refused = refused(callers, |tick, _| 1 + usize::from(tick % 2 == 0));
            assert!((400..=600).contains(&refused), "{refused} of 1,500");
        }
    }
}
