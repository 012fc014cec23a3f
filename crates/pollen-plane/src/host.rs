//! The callee's side of a call: gate, admission, the guest, and what the guest may ask for.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use parking_lot::Mutex;
use pollen_rules::{numbers::HOPS, split};
use pollen_wasm::{Call, Host, HostFuture, LogLevel, NoReply, Output, Sharded, WriteFuture};
use pollen_wire::Id;

use crate::{
    asking::{SERVICE, ask, no_reply},
    beside::Beside,
    call::{CallError, Principal, Request, Spent, over_limit, parse_uri},
    counters::{SeedCounters, count, micros, micros32},
    draw::call_id,
    events::Event,
    hex::hex,
    outlet::{Extras, Outlet},
    plane::Plane,
    queue::Ask,
    reading::{BLOB, read},
    refused::{denied, no_such_function},
    slots::Slot,
    spans::{Began, Ended, OpenSpan},
    tables::SeedEntry,
    trace::Trace,
    trees::Below,
};

/// A call that arrived at the node that is to run it.
pub(crate) struct Arrived {
    pub(crate) id: [u8; 16],
    pub(crate) entry: Arc<SeedEntry>,
    pub(crate) function: Arc<str>,
    pub(crate) input: Bytes,
    /// The seed may be loaded for it.
    pub(crate) wake: bool,
    pub(crate) deadline: Instant,
    pub(crate) hops: u8,
    pub(crate) calls_left: u32,
    pub(crate) retries: u8,
    pub(crate) principal: Principal,
    /// The seed for which the caller says it speaks; information only.
    pub(crate) acting: Option<Id>,
    pub(crate) origin: Id,
    /// Of a call that a guest of this node made: where that one notes what its calls took.
    pub(crate) above: Option<Arc<Below>>,
    /// Its span at the node where it runs.
    pub(crate) trace: Trace,
    /// A request head, and the way of a streamed reply.
    pub(crate) extras: Option<Arc<Extras>>,
}

/// How it went.
pub(crate) struct Ran {
    pub(crate) result: Result<Output, CallError>,
    pub(crate) spent: Spent,
}

impl Ran {
    pub(crate) fn refused(error: CallError) -> Self {
        Self { result: Err(error), spent: Spent::ONE_CALL }
    }
}

/// Counts a call as in flight until dropped, also when its future is.
struct InFlight<'a>(&'a Sharded);

impl<'a> InFlight<'a> {
    fn new(counter: &'a Sharded) -> Self {
        counter.add(1);
        Self(counter)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// Runs a call here, or says why not. Dropping the future cancels the guest.
///
/// `counters` are those of the call's seed, borrowed from the caller: the guest takes the call away.
pub(crate) async fn execute(plane: &Plane, counters: &SeedCounters, call: Arrived) -> Ran {
    let _in_flight = InFlight::new(&counters.in_flight);
    let is_member = matches!(call.principal, Principal::Node(_));
    let span = plane.spans().wants(&call.trace).then(|| {
        let began = Began::new(call.trace, &call.entry.row, &call.function, Instant::now());
        OpenSpan::begin(plane.spans(), plane.id(), began, true)
    });
    let ran = match check(plane, &call) {
        Ok(()) => match (**call.entry.local.loaded.load()).clone() {
            Some(seed) => run(plane, seed, call).await,
            // Boxed: it is rare, and the future of every call would grow by it.
            None => Box::pin(wake_and_run(plane, call)).await,
        },
        Err(error) => Ran::refused(error),
    };
    let took = Duration::from_micros(u64::from(ran.spent.run_us));
    let slug = match &ran.result {
        Ok(output) if output.status != 0 => "guest-status",
        Ok(_) => "",
        Err(error) => &error.slug,
    };
    let has_run = ran.result.as_ref().map_or_else(|error| error.may_have_executed, |_| true);
    counters.executed.count(slug, has_run.then_some(took));
    if ran.spent.queue_us > 0 {
        plane.counters().queued_us.fetch_add(u64::from(ran.spent.queue_us), Relaxed);
    }
    if let Some(span) = span {
        span.end(Ended {
            slug: slug.to_owned().into(),
            node: Some(plane.id()),
            attempts: 1,
            spent: ran.spent,
        });
    }
    match &ran.result {
        Ok(_) => counters.run_us.record(took),
        Err(error) => {
            // Anybody may call a public seed with what it must fail on.
            if is_member && error.slug.starts_with("guest-") {
                count(&counters.faults);
            }
            if error.slug == "overloaded" {
                count(&plane.counters().overloaded);
            }
        }
    }
    ran
}

async fn wake_and_run(plane: &Plane, call: Arrived) -> Ran {
    let asked = Instant::now();
    let woken = plane.wake(&call).await;
    let wake_us = micros32(asked.elapsed()).max(1);
    let mut ran = match woken {
        Ok(seed) => run(plane, seed, call).await,
        Err(error) => Ran::refused(error),
    };
    ran.spent.wake_us = wake_us;
    ran
}

/// The gate and the export, in the order in which a stranger may learn of them.
fn check(plane: &Plane, call: &Arrived) -> Result<(), CallError> {
    let row = &call.entry.row;
    if plane.is_closing() {
        return Err(CallError::shutting_down());
    }
    match call.principal {
        Principal::Anonymous if row.lets_stranger() => {}
        Principal::Anonymous => return Err(denied(plane, row, None)),
        Principal::Node(id) => {
            let tables = plane.tables().load();
            let peer = tables.peers.get(&id).map(|entry| &entry.row);
            if !peer.is_some_and(|peer| row.lets(peer)) {
                return Err(denied(plane, row, peer));
            }
        }
    }
    if !row.functions.iter().any(|function| **function == *call.function) {
        return Err(no_such_function(&call.entry, &call.function));
    }
    Ok(())
}

/// Runs an admitted or admissible call here: the slot, the guest, what its tree took.
pub(crate) async fn run(plane: &Plane, seed: Arc<pollen_wasm::Seed>, call: Arrived) -> Ran {
    let asked = Instant::now();
    let deadline =
        call.deadline.min(asked + Duration::from_millis(call.entry.row.options.timeout_ms));
    let nested = call.hops < HOPS;
    let local = &call.entry.local;
    let least = plane.least_guest();
    let memory_need = seed.reserve_bytes();
    let ask = Ask {
        depth: u64::from(nested),
        is_child: call.above.is_some(),
        memory_need,
        tree_need: memory_need.max(least).saturating_add(local.below.bytes()),
        deadline,
        service_us: local.counters.run_us.load(),
    };
    let (slot, queue_us) = match plane.slots().take(&ask, asked).await {
        Ok((slot, waited)) => (slot, micros32(waited)),
        Err(error) => return Ran::refused(error),
    };
    let inner = Call {
        function: call.function.clone(),
        input: call.input.clone(),
        identity: call.principal.identity(),
        deadline,
        nested,
    };
    let host = Arc::new(GuestHost {
        plane: plane.clone(),
        slot: Mutex::new(slot),
        pauses: AtomicBool::new(false),
        calls_left: Mutex::new(call.calls_left),
        calls_used: AtomicU32::new(1),
        beside: AtomicU32::new(0),
        failed: Mutex::default(),
        below: OnceLock::new(),
        deadline,
        call,
    });
    // The count of a seed's users is on a line that all calls write: touched no more than needed.
    let above = host.call.above.as_ref().map(|above| (above, seed.clone()));
    let outcome = plane.sandbox().call(seed, inner, host.clone()).await;
    let below = host.below.get().map_or(0, |below| below.bytes());
    host.call.entry.local.below.note(below);
    if let Some((above, seed)) = above {
        above.note(seed.reserve_bytes().max(least).saturating_add(below));
    }
    Ran {
        result: outcome.result.map_err(|error| host.explained(CallError::from(&error))),
        spent: Spent {
            queue_us,
            run_us: micros32(outcome.run),
            calls_used: host.calls_used.load(Relaxed),
            ..Spent::default()
        },
    }
}

/// What one call's guest can reach.
struct GuestHost {
    plane: Plane,
    call: Arrived,
    deadline: Instant,
    slot: Mutex<Slot>,
    /// It gave the slot back for what its guest waits for, not for a nested call.
    pauses: AtomicBool,
    calls_left: Mutex<u32>,
    calls_used: AtomicU32,
    /// Calls under way that it made beside others.
    beside: AtomicU32,
    /// Why the last nested call that failed did.
    failed: Mutex<Option<String>>,
    /// Memory that the calls it made took here, once it made one.
    below: OnceLock<Arc<Below>>,
}

/// How a remedy begins that hands on why a nested call failed.
const BELOW: &str = "a call that it made failed: ";

impl GuestHost {
    /// Hands a line of the guest to the brain's log.
    fn line(&self, level: LogLevel, text: &str) {
        let (trace_id, span_id) = self.call.trace.names();
        self.plane.events().log(Event::Log {
            level: level_name(level).to_owned(),
            source: "guest".to_owned(),
            seed: self.call.entry.row.name.to_string(),
            call: hex(&self.call.id),
            trace_id,
            span_id,
            text: text.to_owned(),
        });
    }

    /// A guest only sees that its request failed, and so does a chain of them: the error of the
    /// outermost says what the innermost was told, and names the seed.
    fn explained(&self, mut error: CallError) -> CallError {
        let name = &self.call.entry.row.name;
        error.remedy = error.remedy.replace("--seed NAME", &format!("--seed {name}"));
        if error.slug == "guest-failed"
            && let Some(below) = self.failed.lock().take()
        {
            error.remedy = format!("{BELOW}{below}\n{}", error.remedy);
        }
        error
    }

    fn outlet(&self) -> Option<&Outlet> {
        self.call.extras.as_ref()?.outlet.as_ref()
    }

    /// What becomes of the guest after a request that failed.
    fn missed(&self, uri: &str, error: CallError) -> NoReply {
        self.note_failed(uri, &error);
        let told = format!("[{}] {uri}: {}", error.slug, error.reason);
        no_reply(uri, error, told)
    }

    /// A request made by the guest: of a service, a blob, or another seed.
    async fn asked(&self, uri: &str, input: Bytes, beside: bool) -> Result<Bytes, CallError> {
        let (service, blob) = (uri.strip_prefix(SERVICE), uri.strip_prefix(BLOB));
        if service.is_none() && blob.is_none() {
            return self.child(uri, input, beside).await;
        }
        let row = &self.call.entry.row;
        {
            let mut left = self.calls_left.lock();
            let after = left.checked_sub(1);
            *left = after.ok_or_else(|| over_limit("call-limit", &row.name, uri))?;
        }
        self.calls_used.fetch_add(1, Relaxed);
        match (service, blob) {
            (Some(service), _) => ask(&self.plane, row, service, input).await,
            (None, blob) => read(&self.plane, row, blob.unwrap_or_default(), &input).await,
        }
    }

    fn note_failed(&self, uri: &str, error: &CallError) {
        let first = error.remedy.lines().next().unwrap_or_default();
        let below = first.strip_prefix(BELOW).map_or_else(
            || match &*error.slug {
                // These name the address themselves.
                "hop-limit" | "call-limit" => format!("[{}] {}", error.slug, error.reason),
                slug => format!("[{slug}] {uri}: {}", error.reason),
            },
            str::to_owned,
        );
        *self.failed.lock() = Some(below);
    }

    /// A call made by the guest: as this node, on behalf of its seed, within what is left. What a call
    /// `beside` others may make is a part of that: half of it when it is the only one under way, else
    /// a 64th, so that as many can begin.
    async fn child(&self, uri: &str, input: Bytes, beside: bool) -> Result<Bytes, CallError> {
        let (seed, function) = parse_uri(uri)?;
        let under_way = beside.then(|| Beside::new(&self.beside));
        let share = {
            let mut left = self.calls_left.lock();
            let mut share = split(self.call.hops, *left, self.call.retries)
                .map_err(|slug| over_limit(slug, &self.call.entry.row.name, uri))?;
            share.calls /= under_way.as_ref().map_or(1, Beside::part);
            *left -= share.calls + 1;
            share
        };
        let request = Request {
            id: call_id(),
            seed,
            function: Some(function),
            input,
            deadline: self.deadline,
            hops: share.hops,
            calls_left: share.calls,
            retries: share.retries,
            idempotent: false,
            principal: Principal::Node(self.plane.id()),
            acting: Some(self.call.entry.row.seed),
            origin: self.call.origin,
            below: Some(self.below.get_or_init(Arc::default).clone()),
            trace: self.call.trace.child(),
            began: Instant::now(),
            extras: None,
        };
        let reply = self.plane.call(request).await;
        self.calls_used.fetch_add(reply.spent.calls_used, Relaxed);
        // What the child and those below it did not use comes back.
        let unused = (share.calls + 1).saturating_sub(reply.spent.calls_used);
        *self.calls_left.lock() += unused;
        reply.result.map(|(output, _status)| output)
    }
}

impl Host for GuestHost {
    fn request(&self, uri: String, input: Bytes) -> HostFuture<'_> {
        Box::pin(async move {
            self.slot.lock().suspend();
            let result = self.asked(&uri, input, false).await;
            self.slot.lock().resume();
            result.map_err(|error| self.missed(&uri, error))
        })
    }

    fn begin(self: Arc<Self>, uri: String, input: Bytes) -> HostFuture<'static> {
        Box::pin(async move {
            let result = self.asked(&uri, input, true).await;
            result.map_err(|error| self.missed(&uri, error))
        })
    }

    fn rests(&self) {
        self.slot.lock().suspend();
    }

    fn resumes(&self) {
        self.slot.lock().resume();
    }

    fn head(&self) -> Bytes {
        self.call.extras.as_ref().map_or_else(Bytes::new, |extras| extras.head.clone())
    }

    fn streams(&self) -> bool {
        self.outlet().is_some()
    }

    fn write(&self, piece: Bytes) -> WriteFuture<'_> {
        Box::pin(async move {
            match self.outlet() {
                Some(outlet) => outlet.send(piece).await,
                None => false,
            }
        })
    }

    fn waits(&self) {
        self.pauses.store(self.slot.lock().suspend(), Relaxed);
    }

    fn runs(&self) {
        if self.pauses.swap(false, Relaxed) {
            self.slot.lock().resume();
        }
    }

    fn burned(&self) {
        self.slot.lock().burned();
    }

    fn log(&self, level: LogLevel, message: &str) {
        let chatter = &self.call.entry.local.chatter;
        let Some(left_out) = chatter.take(message.len(), Instant::now()) else { return };
        if left_out > 0 {
            self.line(LogLevel::Warn, &format!("{left_out} lines left out: it logs too much"));
        }
        self.line(level, message);
    }

    fn caller_json(&self) -> String {
        let tables = self.plane.tables().load();
        let mut info = serde_json::Map::new();
        if let Principal::Node(peer) = self.call.principal {
            info.insert("peerKey".into(), hex(&peer).into());
            let properties = tables.peers.get(&peer).map(|peer| &*peer.row.properties);
            if let Some(Ok(serde_json::Value::Object(attributes))) =
                properties.map(serde_json::from_str)
                && !attributes.is_empty()
            {
                info.insert("attributes".into(), attributes.into());
            }
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        if let Ok(end) = (SystemTime::now() + left).duration_since(SystemTime::UNIX_EPOCH) {
            let millis = u64::try_from(end.as_millis()).unwrap_or(u64::MAX);
            info.insert("deadlineUnixMs".into(), millis.into());
        }
        let mut unverified = serde_json::Map::new();
        if let Some(acting) = self.call.acting {
            let name =
                tables.seed(&acting).map_or_else(|| hex(&acting), |e| e.row.name.to_string());
            unverified.insert("callingSeed".into(), name.into());
        }
        unverified.insert("originPeerKey".into(), hex(&self.call.origin).into());
        info.insert("unverified".into(), unverified.into());
        serde_json::Value::Object(info).to_string()
    }
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Trace | LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warning",
        LogLevel::Error => "error",
    }
}

/// Time left until a deadline, microseconds.
pub(crate) fn left_us(deadline: Instant) -> u64 {
    micros(deadline.saturating_duration_since(Instant::now()))
}
