//! The generator of calls behind `pln load`: an open loop at a constant rate, or a closed loop.
//!
//! Closed loop: who is refused comes back when it was told to. Open loop: latency counts from when a
//! call was due, not from when it could be sent, so that a stall is not hidden (no coordinated
//! omission). Times go into an HDR histogram of microseconds.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use pollen_plane::{CallError, MAX_ANSWER, Plane, SeedRef, ServiceAsk};
use pollen_tunnel::Tunnels;
use serde::Serialize;
use tokio::{sync::watch, task::JoinSet};

/// Time that each call of [`Workloads::run`] is given; the seed's own limit may be shorter.
const BUDGET: Duration = Duration::from_secs(60);

/// How to call a seed.
#[derive(Debug, Clone, Copy)]
pub struct WorkPlan {
    /// Calls a second, open loop; `None` is closed loop.
    pub rate: Option<u32>,
    /// Calls under way at the most.
    pub concurrency: usize,
    /// How long to start calls that count; those under way are then awaited.
    pub duration: Duration,
    /// How long to start calls before, in the same manner, that count for nothing.
    pub warm_up: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct WorkReport {
    /// Calls that ended well.
    pub ok: u64,
    /// Calls that failed, by slug.
    pub failed: BTreeMap<String, u64>,
    /// Calls that began late or never, as the concurrency was used up (open loop only).
    pub missed: u64,
    /// Seconds from the first start that counts to the last end.
    pub seconds: f64,
    /// Calls that ended well, a second.
    pub rate: f64,
    /// Latency of those that ended well, microseconds, by percentile.
    pub latency_us: Latency,
    /// What a service said in those that ended well, bytes.
    pub bytes_in: u64,
}

/// Percentiles, microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// The workloads under way on a node, by the names that those who began them gave; cheap to clone.
#[derive(Clone, Default)]
pub struct Workloads(Arc<Mutex<Vec<Workload>>>);

/// A workload by its name, and what ends it.
type Workload = (String, watch::Sender<bool>);

impl Workloads {
    fn begin(&self, name: &str) -> watch::Receiver<bool> {
        let (end, ended) = watch::channel(false);
        let mut held = self.0.lock();
        held.retain(|(_, end)| !end.is_closed());
        held.push((name.to_owned(), end));
        ended
    }

    /// Ends the workloads of this name, or all; how many there were. Calls under way are cancelled.
    pub fn end(&self, name: Option<&str>) -> usize {
        let held = self.0.lock();
        let meant: Vec<_> = held
            .iter()
            .filter(|(known, sender)| !sender.is_closed() && name.is_none_or(|name| name == known))
            .collect();
        for (_, sender) in &meant {
            sender.send_replace(true);
        }
        meant.len()
    }

    /// Calls a seed from this node, or asks a service, and blocks until it is over, or ended by its
    /// `name`.
    pub fn run(
        &self,
        plane: &Plane,
        tunnels: &Tunnels,
        name: &str,
        target: Target<'_>,
        input: Bytes,
        plan: WorkPlan,
    ) -> WorkReport {
        let ended = self.begin(name);
        if target.service.is_empty() {
            plane.handle().block_on(call(plane, target, input, plan, ended))
        } else {
            plane.handle().block_on(ask(tunnels, target.service, input, plan, ended))
        }
    }
}

/// What a workload goes to.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// A seed, which is called as this node.
    pub seed: &'a str,
    /// Of it; empty is the only export.
    pub function: &'a str,
    /// A service in its place, unless empty.
    pub service: &'a str,
}

async fn call(
    plane: &Plane,
    target: Target<'_>,
    input: Bytes,
    plan: WorkPlan,
    ended: watch::Receiver<bool>,
) -> WorkReport {
    let seed = SeedRef::parse(target.seed);
    let function = target.function;
    let function: Option<Arc<str>> = (!function.is_empty()).then(|| function.into());
    run(plan, ended, |_lane| {
        let (plane, seed) = (plane.clone(), seed.clone());
        let (function, input) = (function.clone(), input.clone());
        move || {
            let (seed, function, input) = (seed.clone(), function.clone(), input.clone());
            let request = plane.request(seed, function, input, Instant::now(), BUDGET);
            let plane = plane.clone();
            async move { plane.call(request).await.result.map(|_| 0).map_err(Failed::from) }
        }
    })
    .await
}

/// Each time all of the input is said, and the answer read to its end.
async fn ask(
    tunnels: &Tunnels,
    service: &str,
    input: Bytes,
    plan: WorkPlan,
    ended: watch::Receiver<bool>,
) -> WorkReport {
    let service: Arc<str> = service.into();
    run(plan, ended, |_lane| {
        let (tunnels, service, input) = (tunnels.clone(), service.clone(), input.clone());
        move || {
            let (tunnels, service, input) = (tunnels.clone(), service.clone(), input.clone());
            async move {
                let ask = ServiceAsk { service, publisher: None, input, most: MAX_ANSWER };
                let answered = tokio::time::timeout(BUDGET, tunnels.ask(ask)).await;
                let answered = answered.map_err(|_| "deadline".to_owned())?;
                let answer = answered.map_err(|refusal| refusal.slug)?;
                Ok(answer.len() as u64)
            }
        }
    })
    .await
}

/// Why a call failed.
#[derive(Debug)]
pub struct Failed {
    /// By which the report counts it.
    pub slug: String,
    /// When it was refused because the node was full: how long to stay away.
    pub retry_after: Duration,
}

impl From<String> for Failed {
    fn from(slug: String) -> Self {
        Self { slug, retry_after: Duration::ZERO }
    }
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        let retry_after = Duration::from_millis(error.retry_after_ms.into());
        Self { slug: error.slug.into(), retry_after }
    }
}

struct Tally {
    /// Calls that were due before count for nothing.
    since: Instant,
    histogram: Mutex<Histogram<u64>>,
    failed: Mutex<BTreeMap<String, u64>>,
    missed: AtomicU64,
    heard: AtomicU64,
}

impl Tally {
    fn record(&self, result: &Result<u64, Failed>, due: Instant) {
        match result {
            _ if due < self.since => {}
            Ok(heard) => {
                self.heard.fetch_add(*heard, Relaxed);
                let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.histogram.lock().saturating_record(micros);
            }
            Err(failed) => {
                *self.failed.lock().entry(failed.slug.clone()).or_default() += 1;
            }
        }
    }

    fn miss(&self, due: Instant) {
        if due >= self.since {
            self.missed.fetch_add(1, Relaxed);
        }
    }
}

/// Runs the plan with what `worker` makes, which makes one call: bytes heard, or why it failed.
///
/// `worker` is told the number of the lane it serves, so that it may keep a connection of its own.
/// When `ended` says so before the plan is over, the calls under way are dropped and count for
/// nothing.
pub async fn run<W, C, F>(plan: WorkPlan, ended: watch::Receiver<bool>, worker: W) -> WorkReport
where
    W: Fn(usize) -> C,
    C: FnMut() -> F + Send + 'static,
    F: Future<Output = Result<u64, Failed>> + Send + 'static,
{
    let start = Instant::now();
    let since = start + plan.warm_up;
    let end = since + plan.duration;
    let tally = Arc::new(Tally {
        since,
        histogram: Mutex::new(histogram()),
        failed: Mutex::default(),
        missed: AtomicU64::new(0),
        heard: AtomicU64::new(0),
    });
    let due = Arc::new(Due { start, next: AtomicU64::new(0), rate: plan.rate, end });
    let mut lanes = JoinSet::new();
    for lane in 0..plan.concurrency.max(1) {
        lanes.spawn(run_lane(due.clone(), tally.clone(), worker(lane)));
    }
    let took = tokio::select! {
        () = all_of(&mut lanes) => start.elapsed(),
        () = is_told(ended) => {
            let took = start.elapsed();
            lanes.shutdown().await;
            took
        }
    };
    let begun = took.min(plan.warm_up + plan.duration);
    tally.missed.fetch_add(due.untaken(begun, plan.warm_up), Relaxed);
    report(&tally, took.saturating_sub(plan.warm_up))
}

async fn all_of(lanes: &mut JoinSet<()>) {
    while lanes.join_next().await.is_some() {}
}

/// When nobody is left who could say so, never.
async fn is_told(mut ended: watch::Receiver<bool>) {
    if ended.wait_for(|is_ended| *is_ended).await.is_err() {
        std::future::pending().await
    }
}

/// When each call is due.
struct Due {
    start: Instant,
    next: AtomicU64,
    rate: Option<u32>,
    end: Instant,
}

impl Due {
    /// The time of the next call, or `None` when the plan is over, also for those that are late.
    fn take(&self) -> Option<Instant> {
        if Instant::now() >= self.end {
            return None;
        }
        let due = match self.rate {
            None => Instant::now(),
            Some(rate) => {
                let number = self.next.fetch_add(1, Relaxed);
                self.start
                    + Duration::from_nanos(
                        number.saturating_mul(1_000_000_000) / u64::from(rate.max(1)),
                    )
            }
        };
        (due < self.end).then_some(due)
    }

    /// Calls of an open loop that were due by `until`, counted from its begin, and that nobody came
    /// to; those due in its `warm_up` aside.
    fn untaken(&self, until: Duration, warm_up: Duration) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        let due_by = |time: Duration| {
            let due = time.as_nanos() * u128::from(rate.max(1)) / 1_000_000_000;
            u64::try_from(due).unwrap_or(u64::MAX)
        };
        let taken = self.next.load(Relaxed).max(due_by(warm_up));
        due_by(until).saturating_sub(taken)
    }
}

async fn run_lane<C, F>(due: Arc<Due>, tally: Arc<Tally>, mut call: C)
where
    C: FnMut() -> F,
    F: Future<Output = Result<u64, Failed>>,
{
    while let Some(at) = due.take() {
        if due.rate.is_some() {
            if Instant::now() < at {
                tokio::time::sleep_until(at.into()).await;
            } else if at.elapsed() > Duration::from_millis(10) {
                tally.miss(at);
            }
        }
        let result = call().await;
        tally.record(&result, at);
        if let (None, Err(Failed { retry_after, .. })) = (due.rate, &result)
            && !retry_after.is_zero()
        {
            let until = due.end.min(Instant::now() + *retry_after);
            tokio::time::sleep_until(until.into()).await;
        }
        // A call that ends without waiting would keep the other lanes from their turn.
        tokio::task::yield_now().await;
    }
}

/// Three digits up to an hour; both are constants within the library's bounds.
#[allow(clippy::expect_used)]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("constant bounds")
}

fn report(tally: &Tally, elapsed: Duration) -> WorkReport {
    let histogram = tally.histogram.lock();
    let ok = histogram.len();
    let at = |quantile| histogram.value_at_quantile(quantile);
    WorkReport {
        ok,
        failed: tally.failed.lock().clone(),
        missed: tally.missed.load(Relaxed),
        seconds: elapsed.as_secs_f64(),
        rate: f64::from(u32::try_from(ok).unwrap_or(u32::MAX)) / elapsed.as_secs_f64().max(1e-9),
        latency_us: Latency {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
        },
        bytes_in: tally.heard.load(Relaxed),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LONG: WorkPlan = WorkPlan {
        rate: None,
        concurrency: 3,
        duration: Duration::from_secs(600),
        warm_up: Duration::ZERO,
    };

    async fn ended_after_calls(plan: WorkPlan) -> WorkReport {
        let (workloads, made) = (Workloads::default(), Arc::new(AtomicU64::new(0)));
        let (ended, other) = (workloads.begin("mine"), workloads.begin("other"));
        let count = made.clone();
        let running = tokio::spawn(run(plan, ended, move |_lane| {
            let count = count.clone();
            move || {
                let number = count.fetch_add(1, Relaxed);
                async move {
                    if number >= 5 {
                        std::future::pending::<()>().await;
                    }
                    Ok(7)
                }
            }
        }));
        while made.load(Relaxed) < 5 + u64::from(plan.rate.is_none()) {
            tokio::task::yield_now().await;
        }
        assert_eq!(workloads.end(Some("nobody's")), 0);
        assert_eq!(workloads.end(Some("mine")), 1);
        let report = running.await.unwrap();
        assert!(!*other.borrow());
        assert_eq!(workloads.end(None), 1);
        report
    }

    #[tokio::test]
    async fn a_workload_ends_when_told_and_reports_what_was_done() {
        let report = ended_after_calls(LONG).await;
        assert_eq!((report.ok, report.failed.len(), report.missed), (5, 0, 0));
        assert_eq!(report.bytes_in, 35);
        assert!(report.seconds < 60.0);
    }

    #[tokio::test]
    async fn an_ended_open_loop_misses_nothing_that_was_not_due_yet() {
        let report = ended_after_calls(WorkPlan { rate: Some(1_000), ..LONG }).await;
        assert!(report.ok >= 5 && report.missed < 60_000, "{report:?}");
    }

    #[tokio::test]
    async fn what_is_due_while_it_warms_up_counts_for_nothing() {
        let warm = WorkPlan { warm_up: Duration::from_secs(600), ..LONG };
        for rate in [None, Some(1_000)] {
            let report = ended_after_calls(WorkPlan { rate, ..warm }).await;
            assert_eq!((report.ok, report.failed.len(), report.missed), (0, 0, 0), "{report:?}");
            assert!(report.seconds == 0.0 && report.bytes_in == 0);
        }
    }

    #[test]
    fn of_an_open_loop_those_due_after_it_are_counted() {
        let since = Instant::now();
        let second = Duration::from_secs(1);
        let due =
            |next| Due { start: since, next: AtomicU64::new(next), rate: Some(10), end: since };
        assert_eq!(due(10).untaken(3 * second, second), 20);
        assert_eq!(due(0).untaken(3 * second, second), 20);
        assert_eq!(due(25).untaken(3 * second, second), 5);
        assert_eq!(due(31).untaken(3 * second, second), 0);
    }
}
