//! A seed comes to life on this node: for the brain, or for a call that found it cold.
//!
//! Single flight: however many calls and the brain ask for a seed, it is loaded once, by a task of
//! its own, so that a caller who goes away takes nothing from the others
//! (docs/design/protocol.md#placement).

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use futures_util::FutureExt as _;
use pollen_net::PUBLISHED;
use pollen_rules::{Wake, Wakening, admit_wake};
use pollen_wasm::{Bundle, Seed, SeedSettings};
use pollen_wire::{
    Id,
    fetch::{FetchRequest, MAX_MODULE},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    call::CallError,
    events::Event,
    host::Arrived,
    plane::Plane,
    refused::not_had,
    tables::{Flight, SeedEntry, SeedRow, Tables},
};

impl Plane {
    /// Loads a seed for the brain, from `holders` in their order; ends in `LoadFinished`. A load
    /// under way is joined.
    pub fn load_seed(&self, seed: Id, holders: Vec<Id>) {
        let plane = self.clone();
        self.handle().spawn(async move {
            let loaded = match plane.tables().load_full().seed(&seed) {
                Some(entry) => plane.join_or_load(entry, holders).await,
                None => {
                    let reason = "no row was pushed for the seed to load";
                    Err(CallError::refused("internal", reason, ""))
                }
            };
            let (slug, reason) = match loaded {
                Ok(()) => Default::default(),
                Err(error) => (error.slug.into_owned(), error.reason),
            };
            plane.events().emit(Event::LoadFinished { seed, slug, reason }).await;
        });
    }

    async fn join_or_load(
        &self,
        entry: &Arc<SeedEntry>,
        holders: Vec<Id>,
    ) -> Result<(), CallError> {
        let flight = {
            let mut held = entry.local.flight.lock();
            match &*held {
                // A call woke it before the brain asked.
                _ if entry.local.held().is_some() => return Ok(()),
                Some(flight) => flight.clone(),
                None => held.insert(self.begin_load(entry, holders, false)).clone(),
            }
        };
        flight.await
    }

    /// Serves a seed no more; calls in flight end by themselves. Its content is let go, unless it is
    /// to be kept (`keep`) or another row names it. Of a blob that is on its way nothing more comes;
    /// what came stays with `keep`.
    pub fn unload_seed(&self, seed: Id, keep: bool) {
        let tables = self.tables().load_full();
        let Some(entry) = tables.seed(&seed) else { return };
        entry.local.let_go();
        if entry.row.is_blob() {
            entry.local.keeps_part.store(keep, Relaxed);
            entry.local.giving_up.lock().cancel();
        }
        if keep {
            return;
        }
        let contents: Vec<Id> = entry.row.contents().map(|(_, content)| content).collect();
        let (plane, since) = (self.clone(), entry.local.since.0);
        self.handle().spawn(async move {
            for content in contents {
                let mut but = Some(seed);
                // What was uploaded since is for another spec, whose row is on its way.
                while plane.net().content().is_newer(content, since) {
                    tokio::time::sleep(PUBLISHED).await;
                    but = None;
                }
                if is_named(&plane.tables().load(), content, but) {
                    continue;
                }
                if let Err(error) = plane.net().content().unpin(content).await {
                    tracing::warn!(%error, "content could not be let go");
                }
            }
        });
    }

    /// What a call finds that may have to wake its seed; nothing is begun.
    ///
    /// A row that has this node as a replica still is older than the caller's: what it let go last
    /// is what callers wake first.
    pub(crate) fn judge_wake(&self, entry: &SeedEntry, asked: bool, loading: bool) -> Wake {
        let own = self.id();
        admit_wake(&Wakening {
            asked,
            ready: entry.local.loaded.load().is_some(),
            rank: entry.row.wake.contains(&own) || entry.row.replicas.contains(&own),
            leased: self.tables().is_leased(),
            loading: loading || entry.local.is_closed(),
            memory_free: self.memory().free,
            memory_need: entry.row.options.guest.memory_bytes,
        })
    }

    /// The seed of a call that found it not loaded: loaded now, or when the load under way ends. Of
    /// a seed with a check, when the brain opened it.
    pub(crate) async fn wake(&self, call: &Arrived) -> Result<Arc<Seed>, CallError> {
        let entry = &call.entry;
        let flight = {
            let mut held = entry.local.flight.lock();
            match (self.judge_wake(entry, call.wake, held.is_some()), &*held) {
                (Wake::Ready, _) => None,
                (Wake::Join, Some(flight)) => Some(flight.clone()),
                (Wake::Join, None) if entry.local.is_closed() => None,
                (Wake::Load | Wake::Join, _) => {
                    let holders = self.wake_holders(&entry.row);
                    Some(held.insert(self.begin_load(entry, holders, true)).clone())
                }
                (refused, _) => return Err(not_woken(refused, entry)),
            }
        };
        if let Some(flight) = flight {
            match tokio::time::timeout_at(call.deadline.into(), flight).await {
                Ok(loaded) => loaded?,
                Err(_) => return Err(CallError::deadline(false)),
            }
        }
        let loaded = entry.local.wait_open(call.deadline).await;
        loaded.ok_or_else(|| match Instant::now() < call.deadline {
            true if entry.row.options.check.is_empty() => not_woken(Wake::Refuse, entry),
            true => not_passed(entry),
            false => CallError::deadline(false),
        })
    }

    /// Whom to ask for the content: the other ranks, then everybody linked.
    fn wake_holders(&self, row: &SeedRow) -> Vec<Id> {
        let linked = self.net().linked();
        let mut holders: Vec<Id> = linked.iter().map(|link| link.peer()).collect();
        holders.sort_by_key(|peer| (!row.wake.contains(peer), *peer));
        holders
    }

    /// Begins a load; the caller holds the lock of `flight` and keeps what is returned there.
    fn begin_load(&self, entry: &Arc<SeedEntry>, holders: Vec<Id>, is_wake: bool) -> Flight {
        let (told, hears) = oneshot::channel();
        let (plane, entry) = (self.clone(), entry.clone());
        let given_up = CancellationToken::new();
        *entry.local.giving_up.lock() = given_up.clone();
        self.handle().spawn(async move {
            let began = Instant::now();
            let load = plane.load_now(&entry.row, &holders);
            let result = match given_up.run_until_cancelled(load).await {
                Some(result) => result,
                None => Err(plane.give_up(&entry).await),
            };
            let outcome = {
                let mut flight = entry.local.flight.lock();
                *flight = None;
                let is_checked = !entry.row.options.check.is_empty();
                result.map(|loaded| {
                    if let Some(loaded) = loaded {
                        entry.local.hold(loaded, is_checked);
                    }
                })
            };
            let is_loaded = outcome.is_ok();
            let _ = told.send(outcome);
            if is_wake && is_loaded {
                plane.counters().wakes.record(began.elapsed());
                plane.events().emit(Event::SeedWoken { seed: entry.row.seed }).await;
            }
        });
        let stopped = || Err(CallError::shutting_down());
        async move { hears.await.unwrap_or_else(|_| stopped()) }.boxed().shared()
    }

    /// What came of a blob is let go, unless it is to stay or somebody reads it here.
    async fn give_up(&self, entry: &SeedEntry) -> CallError {
        let local = &entry.local;
        let stays = local.keeps_part.load(Relaxed) || local.reading.lock().upgrade().is_some();
        let content = entry.row.content;
        if !stays && let Err(error) = self.net().content().forget(content).await {
            tracing::warn!(%error, "what had come of a content could not be let go");
        }
        let reason = format!("blob \"{}\" is not fetched any more", entry.row.name);
        CallError::refused("unreachable", reason, "")
    }

    /// What is to run here, held and compiled; of a blob nothing is run.
    async fn load_now(
        &self,
        row: &SeedRow,
        holders: &[Id],
    ) -> Result<Option<Arc<Seed>>, CallError> {
        let refused = |error: &_| CallError::from(error);
        let began = Instant::now();
        for (role, content) in row.contents() {
            self.obtain(row, role, content, holders).await?;
        }
        tracing::debug!(name = %row.name, held = ?began.elapsed(), "the content is held");
        if row.is_blob() {
            return Ok(None);
        }
        let (sandbox, settings) = (self.sandbox(), self.settings(row).await?);
        let compiled = sandbox.load_compiled(row.content, settings.clone()).await;
        if let Some(seed) = compiled.map_err(|error| refused(&error))? {
            return Ok(Some(seed));
        }
        let wasm = self.net().content().read(row.content).await.map_err(|e| not_had(&e))?;
        let loaded = sandbox.load(wasm, row.content, settings).await;
        loaded.map(Some).map_err(|error| refused(&error))
    }

    /// Sees to it that a content of the seed is held here, and stays.
    async fn obtain(
        &self,
        row: &SeedRow,
        role: &str,
        content: Id,
        holders: &[Id],
    ) -> Result<(), CallError> {
        let request = FetchRequest { seed: row.seed, path: role, content, piece: None, skip: 0 };
        let most = if row.is_blob() { u64::MAX } else { MAX_MODULE };
        let fetched = self.net().fetch(holders, request, most, row.publisher).await;
        fetched.map_err(|error| not_had(&error))
    }

    /// How the sandbox is to run it; its bundle is read and unpacked.
    async fn settings(&self, row: &SeedRow) -> Result<SeedSettings, CallError> {
        let mut settings =
            SeedSettings { guest: row.options.guest.clone(), ..SeedSettings::new(&row.name) };
        let Some(content) = row.bundle() else { return Ok(settings) };
        let packed = self.net().content().read(content).await.map_err(|e| not_had(&e))?;
        // Unpacking takes milliseconds: not on a network thread.
        let opened = tokio::task::spawn_blocking(move || Bundle::open(&packed)).await;
        let opened =
            opened.map_err(|error| CallError::refused("internal", error.to_string(), ""))?;
        settings.bundle = Some(Arc::new(opened.map_err(|error| CallError::from(&error))?));
        settings.functions = row.functions.iter().map(ToString::to_string).collect();
        Ok(settings)
    }
}

/// Whether a row names the content, but that of one seed.
fn is_named(tables: &Tables, content: Id, but: Option<Id>) -> bool {
    let names = |row: &SeedRow| row.contents().any(|(_, named)| named == content);
    tables.seeds().any(|entry| but != Some(entry.row.seed) && names(&entry.row))
}

/// Why a call that asked for it was not given a cold seed; nothing was executed.
pub(crate) fn not_woken(verdict: Wake, entry: &SeedEntry) -> CallError {
    let name = &entry.row.name;
    match verdict {
        Wake::Silent => {
            let reason = "this node's brain is silent: it hosts nothing new";
            CallError::refused("unreachable", reason, "see pln logs on that node")
        }
        Wake::Overloaded => {
            let mib = entry.row.options.guest.memory_bytes >> 20;
            let reason =
                format!("no memory is free to wake seed \"{name}\", which needs {mib} MiB");
            CallError::overloaded(reason, 500)
        }
        _ => {
            let reason = format!("seed \"{name}\" is not loaded on this node");
            CallError::refused("seed-not-found", reason, "see pln status seeds")
        }
    }
}

/// Why a call that waited for a check was not run; the next rank may be better off.
fn not_passed(entry: &SeedEntry) -> CallError {
    let name = &entry.row.name;
    let reason = format!("seed \"{name}\" was given up on this node before its check passed");
    CallError::refused("seed-not-found", reason, &format!("see pln why place {name}"))
}
