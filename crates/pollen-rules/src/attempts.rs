//! attempts: the life of a call at its caller, from one attempt to the next.
//!
//! A machine without I/O and without a clock. Its driver says what it sees and how an attempt ended,
//! and does what the answer says. Times are nanoseconds on any clock that does not go back.

use std::time::Duration;

use crate::{
    aim::{Met, View, aim},
    numbers::{COLD, REACH, ROW_AGAIN},
    retry::{Attempt, Retry, classify_retry},
};

/// What happened.
#[derive(Debug)]
pub enum Event<'a, N> {
    /// The call begins, the tables changed, a link came, or a time that was waited for: what the
    /// caller sees now.
    Looked(&'a View<'a, N>),
    /// The attempt under way failed. One that is answered ends the call, as does a name that the
    /// tables do not have: there is nothing to decide.
    Failed(Failure<'a>),
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// Of the error table.
    pub slug: &'a str,
    /// The guest may have run.
    pub may_have_executed: bool,
    /// Another host answered, or this one no longer has the seed.
    pub remote: bool,
    /// A part of its output was handed on to the caller.
    pub streamed: bool,
    /// No answer came: the way to the place broke, or there was none.
    pub cut: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Try the place of this index in the view.
    Try(usize),
    /// Look again when the tables change, when a link comes, or at this time.
    Wait(u64),
    /// Look again now.
    Look,
    /// It is over.
    End(End),
}

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As its last attempt did.
    Last,
    /// No attempt was made, as nobody can be reached.
    Nobody,
    /// No attempt was made, as the time is over.
    Deadline,
}

/// What to do, and what to say to the brain beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// To this place of the view a link is wanted.
    pub wanted: Option<usize>,
    /// What to do.
    pub action: Action,
}

/// The attempt under way.
#[derive(Debug, Clone, Copy)]
struct Trying<N> {
    node: N,
    cold: bool,
    idempotent: bool,
}

/// One call of one seed; a tail call that is followed begins with another one.
#[derive(Debug)]
pub struct Attempts<N> {
    deadline: u64,
    idempotent: bool,
    retries: u8,
    /// Replicas that are not tried again: this call's id may be known there.
    tried: Vec<N>,
    /// Replicas to which the way broke, of a call that may run again.
    cut: Vec<N>,
    /// Replicas that had let the seed go; until `again`, or another row, they are not tried.
    gone: Vec<N>,
    again: u64,
    /// Ranks that did not wake the seed.
    asked: Vec<N>,
    trying: Option<Trying<N>>,
    /// Some attempt may have run.
    in_doubt: bool,
    /// How the last attempt failed: whether its row was old.
    last: Option<bool>,
    /// Until when it waits for a way, and for a row.
    reach: Option<u64>,
    patience: Option<u64>,
}

impl<N: Copy + Eq> Attempts<N> {
    /// A call that begins: its end, whether its caller said that it may run twice, its retries.
    pub fn new(deadline: u64, idempotent: bool, retries: u8) -> Self {
        Self {
            deadline,
            idempotent,
            retries,
            tried: Vec::new(),
            cut: Vec::new(),
            gone: Vec::new(),
            again: 0,
            asked: Vec::new(),
            trying: None,
            in_doubt: false,
            last: None,
            reach: None,
            patience: None,
        }
    }

    /// Retries that are left, for the calls beneath it and for a tail call.
    pub fn retries(&self) -> u8 {
        self.retries
    }

    /// Whether the way to a place broke under it.
    pub fn was_cut(&self) -> bool {
        !self.cut.is_empty()
    }

    /// What to do after an event. Total: an attempt that ends without having begun ends the call.
    pub fn poll(&mut self, event: Event<'_, N>, now: u64) -> Step {
        match event {
            Event::Looked(view) => self.look(view, now),
            Event::Failed(failure) => Step { wanted: None, action: self.fail(&failure, now) },
        }
    }

    fn look(&mut self, view: &View<'_, N>, now: u64) -> Step {
        let idempotent = self.idempotent || view.idempotent;
        if self.in_doubt && !idempotent {
            // The old version was idempotent, so a retry was allowed. The version that replaced it
            // is not.
            return Step { wanted: None, action: self.give_up() };
        }
        if view.changed {
            self.again = 0;
        }
        let is_held = !view.cold && now < self.again;
        let gone = if is_held { self.gone.as_slice() } else { &[] };
        let met = match view.cold {
            true => Met { tried: &self.asked, gone, cut: &[] },
            false => Met { tried: &self.tried, gone, cut: &self.cut },
        };
        let aim = aim(view, met);
        let action = match aim.target.and_then(|index| view.places.get(index).map(|p| (index, p))) {
            Some(_) if now >= self.deadline => {
                Action::End(if self.last.is_some() { End::Last } else { End::Deadline })
            }
            Some((index, place)) => {
                self.trying = Some(Trying { node: place.node, cold: view.cold, idempotent });
                Action::Try(index)
            }
            None => match self.wait(aim.may_come, view.cold, now) {
                // A replica that let the seed go may have it again by the same row.
                Some(until) if is_held => Action::Wait(until.min(self.again)),
                Some(until) => Action::Wait(until),
                None => self.give_up(),
            },
        };
        Step { wanted: aim.wanted, action }
    }

    fn wait(&mut self, may_come: bool, cold: bool, now: u64) -> Option<u64> {
        if may_come {
            let reach = *self.reach.get_or_insert(self.deadline.min(after(now, REACH)));
            if now < reach {
                return Some(reach);
            }
        }
        // The plan finds a host, or the row that named one is about to change.
        if cold || self.last == Some(true) {
            let patience = *self.patience.get_or_insert(self.deadline.min(after(now, COLD)));
            if now < patience {
                return Some(patience);
            }
        }
        None
    }

    fn give_up(&self) -> Action {
        Action::End(if self.last.is_some() { End::Last } else { End::Nobody })
    }

    fn fail(&mut self, failure: &Failure<'_>, now: u64) -> Action {
        // What was handed on has run.
        let executed = failure.may_have_executed || failure.streamed;
        self.in_doubt |= executed;
        self.last = Some(!executed && failure.slug == "seed-not-found");
        let Some(trying) = self.trying.take() else { return Action::End(End::Last) };
        if failure.streamed {
            // A second run would begin its output again behind the first one's.
            return Action::End(End::Last);
        }
        // Ranks are few and each is asked once: that takes nothing from the tree's retries.
        let is_gone = self.last == Some(true) && self.gone.contains(&trying.node);
        let is_free = !executed && (trying.cold || is_gone);
        let judged = classify_retry(&Attempt {
            slug: failure.slug,
            may_have_executed: executed,
            idempotent: trying.idempotent,
            remote: failure.remote,
            retries: u64::from(if is_free { self.retries.max(1) } else { self.retries }),
            budget_us: self.deadline.saturating_sub(now) / 1_000,
        });
        if judged == Retry::GiveUp {
            return Action::End(End::Last);
        }
        if trying.cold {
            self.asked.push(trying.node);
        }
        if !is_free {
            self.retries = self.retries.saturating_sub(1);
        }
        // Who refused the call forgot it, and may serve it later.
        if self.last == Some(true) && !trying.cold {
            if !self.gone.contains(&trying.node) {
                self.gone.push(trying.node);
            }
            self.again = after(now, ROW_AGAIN);
        } else if !is_free {
            let is_cut = failure.cut && !trying.cold;
            if is_cut { &mut self.cut } else { &mut self.tried }.push(trying.node);
        }
        Action::Look
    }
}

fn after(now: u64, wait: Duration) -> u64 {
    now.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX))
}
