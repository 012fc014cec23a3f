//! What the muscles tell of themselves: the metrics page, telemetry, the watchdog's last words.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use serde::Serialize;

use crate::{
    counters::{BOUNDS_US, OutcomesView, TimesView, micros},
    events::{Event, PeerSample, SeedSample, ServiceSample, raw},
    hex::hex,
    plane::Plane,
    tables::{SeedEntry, ServiceCounters, Tables},
};

/// How often the brain gets telemetry.
const TELEMETRY: Duration = Duration::from_millis(500);

/// After so many guests were dropped for being idle, their memory goes back to the system.
const GIVE_BACK: usize = 16;

/// What the metrics page says of one spec.
#[derive(Debug, Serialize)]
pub struct SeedView {
    name: String,
    version: String,
    called: OutcomesView,
    executed: OutcomesView,
    checked: OutcomesView,
    in_flight: u64,
}

/// A number, or what is told of each seed.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Metric {
    /// A counter or gauge of the node.
    Number(u64),
    /// Counters by a label of ours.
    Counts(BTreeMap<&'static str, u64>),
    /// One entry a spec in the tables.
    Seeds(Vec<SeedView>),
    /// Upper bounds, microseconds.
    Bounds([u64; BOUNDS_US.len()]),
    /// A histogram by these bounds.
    Times(TimesView),
}

impl Plane {
    /// Counters and gauges by name, for the metrics page and `status`.
    pub fn metrics(&self) -> Vec<(&'static str, Metric)> {
        let counters = self.counters();
        let sandbox = self.sandbox().metrics();
        let (dropped, stalls) = self.events().losses();
        let numbers = [
            ("door_calls", counters.door_calls.sum()),
            ("link_calls", counters.link_calls.sum()),
            ("door_streams", counters.door_streams.load(Relaxed)),
            ("link_streams", counters.link_streams.load(Relaxed)),
            ("door_chunk_bytes", counters.door_chunk_bytes.load(Relaxed)),
            ("link_chunk_bytes", counters.link_chunk_bytes.load(Relaxed)),
            ("retries", counters.retries.load(Relaxed)),
            ("overloaded", counters.overloaded.load(Relaxed)),
            ("duplicates", counters.duplicates.load(Relaxed)),
            ("denied", counters.denied.load(Relaxed)),
            ("cancelled", counters.cancelled.load(Relaxed)),
            ("unresolved", counters.unresolved.load(Relaxed)),
            ("queued_us", counters.queued_us.load(Relaxed)),
            ("running", self.slots().running()),
            ("queued", self.slots().queued()),
            ("links", self.net().linked().len() as u64),
            ("link_connections", self.net().connections() as u64),
            ("events_waiting", self.events().len() as u64),
            ("events_dropped", dropped),
            ("control_stalls", stalls),
            ("spans_dropped", self.spans().dropped()),
            ("brain_age_ms", u64::from(self.brain_age())),
            ("tables_generation", self.tables().load().generation),
            ("guest_memory_bytes", sandbox.memory_bytes),
            ("guest_instances", sandbox.instances as u64),
            ("guest_idle", sandbox.idle as u64),
            ("pool_memories", sandbox.pool_memories as u64),
            ("mappings", sandbox.mappings),
            ("page_table_bytes", sandbox.page_table_bytes),
            ("compiles", sandbox.compiles),
            ("code_cache_hits", sandbox.cache_hits),
        ];
        let numbers = numbers.into_iter().map(|(name, value)| (name, Metric::Number(value)));
        let seeds = self.tables().load().seeds().map(|entry| view(entry)).collect();
        let more = [
            ("seeds", Metric::Seeds(seeds)),
            ("bounds_us", Metric::Bounds(BOUNDS_US)),
            ("wakes", Metric::Times(counters.wakes.view())),
        ];
        numbers.chain(more).collect()
    }

    /// Tells the brain twice a second how the muscles are; ends with its runtime.
    pub(crate) async fn report(self) {
        let mut tick = tokio::time::interval(TELEMETRY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut turns, mut reaped) = (0u32, 0);
        loop {
            tick.tick().await;
            self.events().telemetry(self.telemetry());
            turns = turns.wrapping_add(1);
            if !turns.is_multiple_of(30) {
                continue;
            }
            let now = self.sandbox().reap();
            reaped += now;
            // While some go at every look, what they took may be taken again soon.
            if reaped >= GIVE_BACK && (now == 0 || reaped >= 8 * GIVE_BACK) {
                reaped = 0;
                let _ = tokio::task::spawn_blocking(crate::trim).await;
            }
        }
    }

    fn telemetry(&self) -> Event {
        let links = self.net().linked();
        let bulk = self.net().bulk_peers();
        let peers = links.iter().map(|link| {
            let (bytes_out, bytes_in) = link.bytes();
            let direct = link.is_direct();
            let via = if direct { None } else { self.net().via(link.peer()) };
            PeerSample {
                peer: link.peer(),
                rtt_us: micros(link.rtt()),
                bytes_out,
                bytes_in,
                direct,
                silent_ms: link.silent_ms(),
                brain_age_ms: link.brain_age_ms(),
                via: raw(via.as_ref().map_or(&[], |via| &via[..])),
                bulk: bulk.contains(&link.peer()),
            }
        });
        let tables = self.tables().load();
        let seeds = tables.seeds().map(|entry| {
            let counters = &entry.local.counters;
            let (good, failures) = counters.executed.good_and_bad();
            SeedSample {
                seed: entry.row.seed,
                calls: counters.demand.sum(),
                failures,
                in_flight: counters.in_flight.sum(),
                queued: self.slots().queued(),
                run_us: counters.run_us.load(),
                good,
                faults: counters.faults.load(Relaxed),
                cancelled: counters.called.cancelled(),
            }
        });
        let (events_dropped, control_stalls) = self.events().losses();
        Event::Telemetry {
            peers: peers.collect(),
            seeds: seeds.collect(),
            memory_bytes: self.memory_taken(),
            events_dropped,
            control_stalls,
            services: samples(&tables),
            mesh: self.net().mesh_counts(),
        }
    }

    /// One line for the watchdog's last words.
    pub(crate) fn state_text(&self) -> String {
        format!(
            "running {}, queued {}, events waiting {}, links {}, generation {}",
            self.slots().running(),
            self.slots().queued(),
            self.events().len(),
            self.0.net.get().map_or(0, |net| net.linked().len()),
            self.tables().load().generation,
        )
    }
}

/// What both ends of the services counted here, by service.
fn samples(tables: &Tables) -> Vec<ServiceSample> {
    let here = tables.services.values().map(|entry| (entry.row.key, entry.local.clone()));
    let there = tables.served.values().map(|entry| (entry.row.key, entry.local.clone()));
    let mut samples: BTreeMap<_, ServiceSample> = BTreeMap::new();
    for (key, counted) in here.chain(there) {
        let ServiceCounters { opened, open, refused, bytes_in, bytes_out, .. } = &*counted;
        let add = |sum: &mut u64, count: &AtomicU64| *sum += count.load(Relaxed);
        let sample = samples.entry(key).or_insert(ServiceSample {
            key,
            opened: 0,
            open: 0,
            refused: 0,
            bytes_in: 0,
            bytes_out: 0,
        });
        add(&mut sample.opened, opened);
        add(&mut sample.open, open);
        add(&mut sample.refused, refused);
        add(&mut sample.bytes_in, bytes_in);
        add(&mut sample.bytes_out, bytes_out);
    }
    samples.into_values().collect()
}

fn view(entry: &SeedEntry) -> SeedView {
    let counters = &entry.local.counters;
    let mut version = hex(&entry.row.seed);
    version.truncate(8);
    SeedView {
        name: counters.name.get().map_or_else(String::new, ToString::to_string),
        version,
        called: counters.called.view(),
        executed: counters.executed.view(),
        checked: counters.checked.view(),
        in_flight: counters.in_flight.sum(),
    }
}
