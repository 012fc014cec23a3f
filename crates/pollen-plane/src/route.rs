//! The caller's side of a call: resolve, choose, try, retry, follow a tail call.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use pollen_net::Link;
use pollen_wasm::TailCall;
use pollen_wire::{Id, call::CallHeader};

use crate::{
    Principal, Reply, Request, SeedRef, Trace,
    call::{CALLS, CallError, HOPS},
    candidates::Next,
    host::{Arrived, execute, left_us, no_such_function},
    metrics::{count, micros32},
    percall::{Attempt, Retry, classify_retry},
    plane::Plane,
    remote,
    tables::{SeedEntry, Tables},
    tail,
    trace::{Began, Ended, OpenSpan},
};

/// How long a call waits for a replica of a seed that runs nowhere and that no rank would wake.
const COLD: Duration = Duration::from_secs(10);
/// How long a call waits for a link to a replica that is alive and not linked.
const REACH: Duration = Duration::from_secs(5);
/// Retries of a call that names no number.
const RETRIES: u8 = 3;
/// How long a peer that said it is full is left alone.
const SATURATED: Duration = Duration::from_millis(100);

/// One attempt's result, wherever it ran.
struct Tried {
    result: Result<(Bytes, i32, Option<TailCall>), CallError>,
    node: Id,
    remote: bool,
    queue_us: u32,
    run_us: u32,
    rtt_us: u32,
    wake_us: u32,
    calls_used: u32,
}

impl Tried {
    /// The place refused because the seed is not loaded there: the row that named it is old.
    fn is_stale(&self) -> bool {
        self.result.as_ref().is_err_and(|e| !e.may_have_executed && e.slug == "seed-not-found")
    }
}

/// A call so far. `may_have_run`: some guest of it may, whatever its last attempt says.
pub(crate) struct Progress {
    /// Replicas that are not tried again: this call's id may be known there.
    pub(crate) tried: Vec<Id>,
    /// Ranks that did not wake the seed.
    pub(crate) asked: Vec<Id>,
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
        Self {
            tried: Vec::new(),
            asked: Vec::new(),
            attempts: 0,
            retries,
            calls_used: 0,
            may_have_run: false,
            since,
            span: None,
        }
    }

    /// The error as the caller may hear it: of all attempts.
    fn summed(&self, mut error: CallError) -> CallError {
        error.may_have_executed |= self.may_have_run;
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
        let id = crate::plane::call_id();
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
                Err(error) => Err(progress.summed(error)),
                Ok((_, _, Some(tail))) => {
                    progress.may_have_run = true;
                    request.retries = progress.retries;
                    match tail::follow(&mut request, tail, progress.calls_used) {
                        Ok(()) => continue,
                        Err(error) => Err(progress.summed(error)),
                    }
                }
            };
            return Reply {
                result,
                node,
                attempts: progress.attempts,
                queue_us: tried.queue_us,
                run_us: tried.run_us,
                rtt_us: tried.rtt_us,
                total_us: progress.total_us(&request),
                wake_us: tried.wake_us,
                calls_used: progress.calls_used,
            };
        }
    }

    /// Tries replicas until one answers or the retry class says to give up.
    async fn attempts(
        &self,
        request: &Request,
        progress: &mut Progress,
    ) -> Result<Tried, CallError> {
        progress.tried.clear();
        progress.asked.clear();
        let mut patience = None;
        let mut reach = None;
        let mut counted = false;
        let mut in_doubt = false;
        let mut last: Option<Tried> = None;
        loop {
            // Held over the attempt: the guard counts on no line that the threads share.
            let tables = self.tables().load();
            let entry = match resolve(&tables, &request.seed) {
                Ok(entry) => entry,
                Err(error) => {
                    count(&self.counters().unresolved);
                    progress.since = Instant::now();
                    if let Some(span) = progress.span.take() {
                        let (slug, attempts) = (error.slug.clone(), progress.attempts);
                        span.end(Ended { slug, node: None, attempts, queue_us: 0, run_us: 0 });
                    }
                    return Err(error);
                }
            };
            let end = |progress: &mut Progress, ended: Result<Tried, CallError>| {
                self.note_end(entry, request, progress, &ended);
                ended
            };
            let function = match pick_function(entry, request.function.as_ref()) {
                Ok(function) => function,
                Err(error) => return end(progress, Err(error)),
            };
            if let Some(span) = &mut progress.span {
                span.moves_to(&entry.row);
            } else if self.spans().wants(&request.trace) {
                let began = Began::new(request.trace, &entry.row, &function, progress.since);
                progress.span = Some(OpenSpan::begin(self, began, false));
            }
            if !counted {
                // Before any wait: a seed that runs nowhere comes to life by being called.
                entry.local.counters.demand.add(1);
                counted = true;
            }
            let is_cold = entry.row.replicas.is_empty();
            let idempotent = request.idempotent || entry.row.options.idempotent;
            if in_doubt && !idempotent {
                // The old version was idempotent, so a retry was allowed. The version that replaced
                // it is not.
                return end(progress, last.map_or_else(|| Err(nobody(entry)), Ok));
            }
            let (node, link) = match self.next_replica(&tables, entry, progress) {
                Next::Try(node, link) => (node, link),
                Next::Wait if Instant::now() < *reach.get_or_insert_with(|| until(request)) => {
                    let until = reach.unwrap_or(request.deadline);
                    self.await_change(&tables, entry, progress, until).await;
                    continue;
                }
                // The plan finds a host, or the row that named one is about to change.
                _ if is_cold || last.as_ref().is_some_and(Tried::is_stale) => {
                    let now = Instant::now();
                    let patience = *patience.get_or_insert(request.deadline.min(now + COLD));
                    if now < patience {
                        self.tables().changed(tables.generation, patience).await;
                        continue;
                    }
                    return end(progress, last.map_or_else(|| Err(nobody(entry)), Ok));
                }
                _ => return end(progress, last.map_or_else(|| Err(nobody(entry)), Ok)),
            };
            // The first attempt's callee looks at the clock itself.
            if last.is_some() && left_us(request.deadline) == 0 {
                let late = last.map_or_else(|| Err(CallError::deadline(false)), Ok);
                return end(progress, late);
            }
            let attempt = progress.attempts;
            progress.attempts = progress.attempts.saturating_add(1);
            if let Some(span) = &mut progress.span {
                span.tries(node, progress.attempts);
            }
            let tried = match link {
                None => self.try_here(request, entry, function, is_cold, progress.retries).await,
                Some(link) => {
                    let trace = request.trace.text();
                    let header = CallHeader {
                        traceparent: trace.as_str(),
                        wake: is_cold,
                        ..header(request, entry, &function, idempotent, attempt, progress.retries)
                    };
                    self.try_there(request, &tables, entry, node, &link, header).await
                }
            };
            progress.calls_used = progress.calls_used.saturating_add(tried.calls_used);
            let Err(error) = &tried.result else { return end(progress, Ok(tried)) };
            in_doubt |= error.may_have_executed;
            progress.may_have_run |= error.may_have_executed;
            // Ranks are few and each is asked once: that takes nothing from the tree's retries.
            let is_free = is_cold && !error.may_have_executed;
            let retries = if is_free { progress.retries.max(1) } else { progress.retries };
            let judged = classify_retry(&Attempt {
                slug: &error.slug,
                may_have_executed: error.may_have_executed,
                idempotent,
                remote: tried.remote,
                retries: u64::from(retries),
                budget_us: left_us(request.deadline),
            });
            if judged == Retry::GiveUp {
                return end(progress, Ok(tried));
            }
            if is_cold {
                progress.asked.push(node);
            }
            if !is_free {
                progress.retries -= 1;
            }
            // A rank that refused at once forgot the call and may serve it later.
            if !is_free || (tried.remote && tried.wake_us > 0) {
                progress.tried.push(node);
            }
            count(&self.counters().retries);
            last = Some(tried);
        }
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
            OpenSpan::begin(self, Began::new(request.trace, &entry.row, &function, began), false)
        });
        let tried = ended.as_ref().ok();
        span.end(Ended {
            slug: slug.to_owned().into(),
            node: tried.map(|tried| tried.node),
            attempts: progress.attempts,
            queue_us: tried.map_or(0, |tried| tried.queue_us),
            run_us: tried.map_or(0, |tried| tried.run_us),
        });
    }

    /// Waits until a link comes or the tables change, when no replica can be tried before.
    async fn await_change(
        &self,
        tables: &Tables,
        entry: &SeedEntry,
        progress: &Progress,
        until: Instant,
    ) {
        let routed = self.net().routed();
        tokio::pin!(routed);
        routed.as_mut().enable();
        // The link may have come since it was missed.
        if !matches!(self.next_replica(tables, entry, progress), Next::Wait) {
            return;
        }
        tokio::select! {
            () = routed => {}
            () = self.tables().changed(tables.generation, until) => {}
        }
    }

    async fn try_here(
        &self,
        request: &Request,
        entry: &Arc<SeedEntry>,
        function: Arc<str>,
        wake: bool,
        retries: u8,
    ) -> Tried {
        let ran = execute(
            self,
            &entry.local.counters,
            Arrived {
                id: request.id,
                entry: entry.clone(),
                function,
                input: request.input.clone(),
                wake,
                deadline: request.deadline,
                hops: request.hops,
                calls_left: request.calls_left,
                retries,
                principal: request.principal,
                acting: request.acting,
                origin: request.origin,
                above: request.below.clone(),
                trace: request.trace.child(),
            },
        )
        .await;
        // Not loaded here any more: that speaks of the place, as it does from afar.
        let is_gone = ran.result.as_ref().is_err_and(|error| error.slug == "seed-not-found");
        Tried {
            result: ran.result.map(|output| (output.bytes, output.status, output.tail_call)),
            node: self.id(),
            remote: is_gone,
            queue_us: ran.queue_us,
            run_us: ran.run_us,
            rtt_us: 0,
            wake_us: ran.wake_us,
            calls_used: ran.calls_used,
        }
    }

    async fn try_there(
        &self,
        request: &Request,
        tables: &Tables,
        entry: &SeedEntry,
        node: Id,
        link: &Arc<Link>,
        header: CallHeader<'_>,
    ) -> Tried {
        let attempt = remote::attempt(link, &header, request.input.clone());
        let answered = match tokio::time::timeout_at(request.deadline.into(), attempt).await {
            Ok(answered) => answered,
            Err(_) => Err(CallError::deadline(true)),
        };
        let mut tried = Tried {
            result: Err(CallError::deadline(true)),
            node,
            remote: true,
            queue_us: 0,
            run_us: 0,
            rtt_us: micros32(link.rtt()),
            wake_us: 0,
            calls_used: 1,
        };
        match answered {
            Err(error) => tried.result = Err(error),
            Ok(reply) => {
                if reply.load == u8::MAX
                    && let Some(peer) = tables.peers.get(&node)
                {
                    *peer.local.saturated_until.lock() = Some(Instant::now() + SATURATED);
                }
                entry.local.counters.run_us.record(Duration::from_micros(u64::from(reply.run_us)));
                (tried.queue_us, tried.run_us) = (reply.queue_us, reply.run_us);
                (tried.wake_us, tried.calls_used) = (reply.wake_us, reply.calls_used);
                tried.result = reply.result.and_then(|(output, status, is_tail)| {
                    if !is_tail {
                        return Ok((output, status, None));
                    }
                    let tail = tail::decode(&output).ok_or_else(|| {
                        CallError::refused("internal", "a peer sent a broken tail call", "")
                            .executed(true)
                    })?;
                    Ok((Bytes::new(), 0, Some(tail)))
                });
            }
        }
        tried
    }
}

fn header<'a>(
    request: &'a Request,
    entry: &SeedEntry,
    function: &'a str,
    idempotent: bool,
    attempt: u8,
    retries: u8,
) -> CallHeader<'a> {
    CallHeader {
        call: request.id,
        seed: entry.row.seed,
        function,
        budget_us: left_us(request.deadline),
        hops: request.hops,
        calls_left: request.calls_left,
        retries,
        idempotent,
        wake: false,
        attempt,
        acting_seed: request.acting,
        origin: request.origin,
        traceparent: "",
        input_len: u32::try_from(request.input.len()).unwrap_or(u32::MAX),
    }
}

fn resolve<'a>(tables: &'a Tables, seed: &SeedRef) -> Result<&'a Arc<SeedEntry>, CallError> {
    let found = match seed {
        SeedRef::Name(name) => tables.named(name),
        SeedRef::Hash(hash) => tables.seed(hash),
    };
    found.ok_or_else(|| {
        let reason = format!("no seed named \"{seed}\" in this node's view of the cluster");
        CallError::refused("seed-not-found", reason, "pln status seeds")
    })
}

fn pick_function(entry: &SeedEntry, asked: Option<&Arc<str>>) -> Result<Arc<str>, CallError> {
    match (asked, entry.row.functions.as_slice()) {
        (Some(name), exports) if exports.contains(name) => Ok(name.clone()),
        (Some(name), _) => Err(no_such_function(entry, name)),
        (None, [only]) => Ok(only.clone()),
        (None, exports) => {
            let names: Vec<&str> = exports.iter().map(|export| &**export).collect();
            let reason = format!("seed \"{}\" has {} functions", entry.row.name, exports.len());
            let remedy = format!("name one of: {}", names.join(", "));
            Err(CallError::refused("function-not-found", reason, &remedy))
        }
    }
}

/// Until when to wait for a link.
fn until(request: &Request) -> Instant {
    request.deadline.min(Instant::now() + REACH)
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
        result: Err(progress.summed(error)),
        node: None,
        attempts: progress.attempts,
        queue_us: 0,
        run_us: 0,
        rtt_us: 0,
        total_us: progress.total_us(request),
        wake_us: 0,
        calls_used: progress.calls_used,
    }
}
