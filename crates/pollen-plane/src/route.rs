//! The caller's side of a call: does what the rule of attempts says, and follows a tail call.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use pollen_rules::{
    Action, Attempts, End, Event,
    numbers::{CALLS, HOPS, RETRIES},
};
use pollen_wire::Id;

use crate::{
    call::{CallError, Principal, Reply, Request, SeedRef, Spent},
    candidates::{Moment, Next, pick_function, resolve},
    counters::{Awaited, count, micros32},
    draw::call_id,
    plane::Plane,
    refused::denied,
    spans::{Began, Ended, OpenSpan},
    tables::{SeedEntry, Tables},
    tail,
    trace::Trace,
    tries::{Target, Tried, Try},
};

/// A call so far. `may_have_run`: some guest of it may, whatever its last attempt says.
struct Progress {
    attempts: u8,
    retries: u8,
    calls_used: u32,
    may_have_run: bool,
    /// When the call began, or the one before it in a chain of tail calls ended.
    since: Instant,
    /// Its span, when it is sampled and its seed is known.
    span: Option<Box<OpenSpan>>,
}

impl Progress {
    fn begin(retries: u8, since: Instant) -> Self {
        Self { attempts: 0, retries, calls_used: 0, may_have_run: false, since, span: None }
    }

    /// An attempt begins.
    fn tries(&mut self, node: Id) -> Try {
        let number = self.attempts;
        self.attempts = number.saturating_add(1);
        if let Some(span) = &mut self.span {
            span.tries(node, self.attempts);
        }
        Try { number, retries: self.retries }
    }

    /// The error as the caller may hear it: of all attempts, with what it has of the output.
    fn summed(&self, request: &Request, mut error: CallError) -> CallError {
        let streamed = request.streamed();
        error.may_have_executed |= self.may_have_run || streamed > 0;
        if streamed > 0 {
            error.reason = format!("after {streamed} bytes had arrived: {}", error.reason);
        }
        error
    }

    /// All of the time so far, as of the last end.
    fn total_us(&self, request: &Request) -> u32 {
        micros32(self.since.saturating_duration_since(request.began))
    }
}

impl Plane {
    /// A call that begins here, as this node's own, with the limits of a fresh tree of calls.
    pub fn request(
        &self,
        seed: SeedRef,
        function: Option<Arc<str>>,
        input: Bytes,
        began: Instant,
        budget: Duration,
    ) -> Request {
        let id = call_id();
        Request {
            id,
            seed,
            function,
            input,
            deadline: began + budget,
            hops: HOPS,
            calls_left: CALLS,
            retries: RETRIES,
            idempotent: false,
            principal: Principal::Node(self.id()),
            acting: None,
            origin: self.id(),
            below: None,
            trace: Trace::root(id, self.spans().samples()),
            began,
            extras: None,
        }
    }

    /// Makes a call from this node. Dropping the future cancels it wherever it runs.
    pub async fn call(&self, mut request: Request) -> Reply {
        let mut progress = Progress::begin(request.retries, request.began);
        loop {
            let tried = self.attempts(&request, &mut progress).await;
            let node = tried.as_ref().map(|tried| tried.node).ok();
            let tried = match tried {
                Ok(tried) => tried,
                Err(error) => return reply_error(error, &request, &progress),
            };
            let result = match tried.result {
                Ok((output, status, None)) => Ok((output, status)),
                Err(error) => Err(progress.summed(&request, error)),
                Ok((_, _, Some(tail))) => {
                    progress.may_have_run = true;
                    request.retries = progress.retries;
                    match tail::follow(&mut request, tail, progress.calls_used) {
                        Ok(()) => continue,
                        Err(error) => Err(progress.summed(&request, error)),
                    }
                }
            };
            return Reply {
                result,
                node,
                attempts: progress.attempts,
                spent: Spent { calls_used: progress.calls_used, ..tried.spent },
                total_us: progress.total_us(&request),
            };
        }
    }

    /// The function to call; a stranger is refused here, since a host sees this node in its place.
    #[inline]
    fn function_for(&self, entry: &SeedEntry, request: &Request) -> Result<Arc<str>, CallError> {
        if request.principal == Principal::Anonymous && !entry.row.lets_stranger() {
            return Err(denied(self, &entry.row, None));
        }
        pick_function(entry, request.function.as_ref())
    }

    /// Tries places until one answers or the rule ends the call. What a local call never awaits is in
    /// boxes of its own: the future is copied when the call begins.
    async fn attempts(
        &self,
        request: &Request,
        progress: &mut Progress,
    ) -> Result<Tried, CallError> {
        let deadline = nanos(request, request.deadline);
        let mut attempts = Attempts::new(deadline, request.idempotent, progress.retries);
        // A call that is tried at once asks no clock.
        let mut now = nanos(request, progress.since);
        let mut counted = false;
        let mut last: Option<Tried> = None;
        // The row of that attempt.
        let mut row: Option<Arc<SeedEntry>> = None;
        loop {
            // Held over the attempt: the guard counts on no line that the threads share.
            let tables = self.tables().load();
            let entry = match resolve(&tables, &request.seed) {
                Ok(entry) => entry,
                Err(error) => return Err(self.note_unresolved(error, progress)),
            };
            let function = match self.function_for(entry, request) {
                Ok(function) => function,
                Err(error) => return self.ended(entry, request, progress, Err(error)),
            };
            self.keep_span(entry, request, &function, progress);
            if !counted {
                // Before any wait: a seed that runs nowhere comes to life by being called.
                entry.local.counters.demand.add(1);
                counted = true;
            }
            let changed = row.as_ref().is_some_and(|row| !Arc::ptr_eq(row, entry));
            let (node, link) =
                match self.next(&tables, entry, &mut attempts, Moment { now, changed }) {
                    Next::Try(node, link) => (node, link),
                    Next::Wait(until) => {
                        Box::pin(self.wait(request, &tables, entry, &mut attempts, until)).await;
                        now = nanos(request, Instant::now());
                        continue;
                    }
                    Next::End(end) => {
                        let ended = last.map_or_else(|| Err(unmade(end, entry)), Ok);
                        return self.ended(entry, request, progress, ended);
                    }
                };
            let attempt = progress.tries(node);
            let tried = match link {
                None => self.try_here(request, entry, function, attempt).await,
                Some(link) => {
                    let to = Target { tables: &tables, entry, node, link: &link };
                    Box::pin(self.try_there(request, to, &function, attempt)).await
                }
            };
            progress.calls_used = progress.calls_used.saturating_add(tried.spent.calls_used);
            let Err(error) = &tried.result else {
                return self.ended(entry, request, progress, Ok(tried));
            };
            progress.may_have_run |= error.may_have_executed;
            now = nanos(request, Instant::now());
            let failure = tried.failure(error, request.streamed() > 0);
            let step = attempts.poll(Event::Failed(failure), now);
            progress.retries = attempts.retries();
            if step.action != Action::Look {
                return self.ended(entry, request, progress, Ok(tried));
            }
            count(&self.counters().retries);
            (last, row) = (Some(tried), Some(entry.clone()));
        }
    }

    /// A name that the tables do not have ends the call at once, and no counters of a seed know it.
    fn note_unresolved(&self, error: CallError, progress: &mut Progress) -> CallError {
        count(&self.counters().unresolved);
        progress.since = Instant::now();
        if let Some(span) = progress.span.take() {
            let (slug, attempts) = (error.slug.clone(), progress.attempts);
            span.end(Ended { slug, node: None, attempts, spent: Spent::default() });
        }
        error
    }

    /// The call's span begins when its seed is known, and follows it to another version.
    fn keep_span(
        &self,
        entry: &SeedEntry,
        request: &Request,
        function: &Arc<str>,
        progress: &mut Progress,
    ) {
        if let Some(span) = &mut progress.span {
            span.moves_to(&entry.row);
        } else if self.spans().wants(&request.trace) {
            let began = Began::new(request.trace, &entry.row, function, progress.since);
            progress.span = Some(OpenSpan::begin(self.spans(), self.id(), began, false));
        }
    }

    fn ended(
        &self,
        entry: &SeedEntry,
        request: &Request,
        progress: &mut Progress,
        ended: Result<Tried, CallError>,
    ) -> Result<Tried, CallError> {
        self.note_end(entry, request, progress, &ended);
        ended
    }

    /// Counts a call of a seed that ended here, and keeps its span when it is sampled.
    fn note_end(
        &self,
        entry: &SeedEntry,
        request: &Request,
        progress: &mut Progress,
        ended: &Result<Tried, CallError>,
    ) {
        let began = std::mem::replace(&mut progress.since, Instant::now());
        let span = progress.span.take();
        let slug = match ended {
            Ok(Tried { result: Err(error), .. }) | Err(error) => &error.slug,
            Ok(Tried { result: Ok((_, 0, _)), .. }) => "",
            Ok(_) => "guest-status",
        };
        let took = progress.since.saturating_duration_since(began);
        entry.local.counters.called.count(slug, Some(took));
        if !self.spans().wants(&request.trace) {
            return;
        }
        let span = span.unwrap_or_else(|| {
            let asked = request.function.as_ref().or_else(|| entry.row.functions.first());
            let function = asked.cloned().unwrap_or_else(|| "".into());
            let began = Began::new(request.trace, &entry.row, &function, began);
            OpenSpan::begin(self.spans(), self.id(), began, false)
        });
        let tried = ended.as_ref().ok();
        span.end(Ended {
            slug: slug.to_owned().into(),
            node: tried.map(|tried| tried.node),
            attempts: progress.attempts,
            spent: tried.map_or_else(Spent::default, |tried| tried.spent),
        });
    }

    /// Waits until the tables change, a link comes, or this time of the call.
    async fn wait(
        &self,
        request: &Request,
        tables: &Tables,
        entry: &SeedEntry,
        attempts: &mut Attempts<Id>,
        until: u64,
    ) {
        let routed = self.net().routed();
        tokio::pin!(routed);
        routed.as_mut().enable();
        // The link may have come since it was missed.
        let now = nanos(request, Instant::now());
        let moment = Moment { now, changed: false };
        if !matches!(self.next(tables, entry, attempts, moment), Next::Wait(_)) {
            return;
        }
        let until = request.began + Duration::from_nanos(until);
        let awaited = Awaited::begin(&entry.local.counters);
        tokio::select! {
            () = routed => {}
            () = self.tables().changed(tables.generation, until) => {}
        }
        awaited.end();
    }
}

/// Time since a call began, as its rule counts it.
fn nanos(request: &Request, at: Instant) -> u64 {
    let since = at.saturating_duration_since(request.began);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Why a call ended without any attempt.
fn unmade(end: End, entry: &SeedEntry) -> CallError {
    match end {
        End::Deadline => CallError::deadline(false),
        End::Last | End::Nobody => nobody(entry),
    }
}

fn nobody(entry: &SeedEntry) -> CallError {
    let ready = entry.row.replicas.len();
    let reason = match ready {
        0 => format!("no replica of \"{}\" is ready", entry.row.name),
        _ => format!("none of the {ready} replicas of \"{}\" can be reached", entry.row.name),
    };
    CallError::refused(
        "unreachable",
        reason,
        "pln status shows where it is loading and who is offline",
    )
}

fn reply_error(error: CallError, request: &Request, progress: &Progress) -> Reply {
    Reply {
        result: Err(progress.summed(request, error)),
        node: None,
        attempts: progress.attempts,
        spent: Spent { calls_used: progress.calls_used, ..Spent::default() },
        total_us: progress.total_us(request),
    }
}
