//! Requests that a guest begins and waits for together, so that they run at the same time.
//!
//! Decides: how many of them are under way, and which of them ended. Does not know: what they ask for.
//! Invariants: at most [`MOST`] are under way, the rest begin in their order; each has a task of its own,
//! so that none waits for the guest to look after it, and all end with the call. What is held for
//! them, questions and answers, is charged to the guest.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{Id, JoinError, JoinSet};

use crate::engine::budget::Quota;
use crate::envelope::{Host, NoReply};

/// Requests of one guest that are under way at once. Raising it takes memory on the nodes that answer.
/// Guess: a page that asks 50 others is served at once.
const MOST: usize = 64;

/// What a request costs beside its bytes. Guess: a task and its future.
const OVERHEAD: u64 = 1 << 10;

/// A reply, or why there is none.
pub(crate) type Reply = Result<Bytes, NoReply>;

struct Asked {
    number: u64,
    uri: String,
    input: Bytes,
}

/// The requests of one guest.
#[derive(Default)]
pub(crate) struct Begun {
    last: u64,
    waiting: VecDeque<Asked>,
    tasks: JoinSet<Reply>,
    /// Their numbers, and what each was charged for its question.
    under_way: HashMap<Id, (u64, u64)>,
    ended: Vec<(u64, Reply)>,
    charged: u64,
}

impl Begun {
    /// Begins a request, at once or when its turn comes; its number.
    pub(crate) fn start(
        &mut self,
        host: &Arc<dyn Host>,
        uri: String,
        input: Bytes,
        quota: &mut impl Quota,
    ) -> u64 {
        self.last += 1;
        let number = self.last;
        if self.charge(cost(uri.len() + input.len()), quota) {
            self.waiting.push_back(Asked { number, uri, input });
            self.begin_next(host);
        } else {
            self.refuse(number, "there is no memory for the request");
        }
        number
    }

    /// The number of a request that cannot be made, for a reason that the guest reads by waiting.
    pub(crate) fn refused(&mut self, reason: &str) -> u64 {
        self.last += 1;
        self.refuse(self.last, reason);
        self.last
    }

    fn refuse(&mut self, number: u64, reason: &str) {
        self.ended.push((number, Err(reason.to_owned().into())));
    }

    fn charge(&mut self, bytes: u64, quota: &mut impl Quota) -> bool {
        let granted = quota.charge(bytes);
        self.charged += if granted { bytes } else { 0 };
        granted
    }

    fn release(&mut self, bytes: u64, quota: &mut impl Quota) {
        self.charged = self.charged.saturating_sub(bytes);
        quota.release(bytes);
    }

    fn begin_next(&mut self, host: &Arc<dyn Host>) {
        while self.under_way.len() < MOST
            && let Some(Asked { number, uri, input }) = self.waiting.pop_front()
        {
            let cost = cost(uri.len() + input.len());
            let task = self.tasks.spawn(host.clone().begin(uri, input));
            self.under_way.insert(task.id(), (number, cost));
        }
    }

    /// Whether there is one to be handed out without waiting.
    pub(crate) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Waits until at least one has ended or the time is over; those that ended, in that order. With
    /// none begun and no time it waits for ever. The guest's `host` begins those that still wait.
    pub(crate) async fn wait(
        &mut self,
        host: Option<&Arc<dyn Host>>,
        time: Option<Duration>,
        quota: &mut impl Quota,
    ) -> Vec<(u64, Reply)> {
        let mut timer = time.map(|time| Box::pin(tokio::time::sleep(time)));
        poll_fn(|cx| {
            self.gather(host, cx, quota);
            if !self.ended.is_empty() {
                return Poll::Ready(());
            }
            match &mut timer {
                Some(timer) => timer.as_mut().poll(cx),
                None => Poll::Pending,
            }
        })
        .await;
        let ended = std::mem::take(&mut self.ended);
        let held: u64 = ended.iter().map(|(_, reply)| reply_cost(reply)).sum();
        self.release(held, quota);
        ended
    }

    fn gather(
        &mut self,
        host: Option<&Arc<dyn Host>>,
        cx: &mut Context<'_>,
        quota: &mut impl Quota,
    ) {
        while let Poll::Ready(Some(joined)) = self.tasks.poll_join_next_with_id(cx) {
            let (id, reply) = parts(joined);
            let Some((number, cost)) = self.under_way.remove(&id) else { continue };
            self.release(cost, quota);
            let fits = self.charge(reply_cost(&reply), quota);
            let full = || Err("there is no memory for the reply".to_owned().into());
            self.ended.push((number, if fits { reply } else { full() }));
            if let Some(host) = host {
                self.begin_next(host);
            }
        }
    }

    /// Ends all of them: the call is over.
    pub(crate) fn clear(&mut self, quota: &mut impl Quota) {
        if self.last == 0 {
            return;
        }
        quota.release(self.charged);
        *self = Self::default();
    }
}

fn cost(bytes: usize) -> u64 {
    OVERHEAD + bytes as u64
}

fn reply_cost(reply: &Reply) -> u64 {
    reply.as_ref().map_or(0, |bytes| bytes.len() as u64)
}

fn parts(joined: Result<(Id, Reply), JoinError>) -> (Id, Reply) {
    match joined {
        Ok(ended) => ended,
        Err(error) => (error.id(), Err("[internal] the request was cut off".to_owned().into())),
    }
}
