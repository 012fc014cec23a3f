//! Services as the brain pushes them: who provides which name, and what this node provides.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use parking_lot::Mutex;
use pollen_net::Refusal;
use pollen_rules::match_gate;
use pollen_wire::Id;
use serde::Serialize;
use serde_bytes::ByteBuf;

use crate::{
    counters::micros,
    events::raw,
    lanes::{Entry, Lane, Row, Table},
    members::{PeerRow, SeedPolicy, lets},
};

/// Where a service is; the fields are those of `ServiceRow` in `pollen.core.effects`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ServiceRow {
    pub key: Id,
    pub name: Arc<str>,
    pub providers: Vec<Id>,
    pub datagrams: bool,
    /// Providers that are tried when no other can be.
    pub failing: Vec<Id>,
}

/// What this node provides; as `ServedRow` in `pollen.core.effects`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ServedRow {
    pub key: Id,
    pub name: Arc<str>,
    pub target: Arc<str>,
    pub datagrams: bool,
    pub allow: Vec<(String, String)>,
    pub policy: Option<Arc<SeedPolicy>>,
    pub proxy_header: bool,
    pub idle_ms: u64,
}

impl ServedRow {
    /// Whether a member may reach it: its pairs, and its policy where it has one.
    pub fn lets(&self, peer: &PeerRow) -> bool {
        lets(&self.allow, self.policy.as_deref(), peer)
    }

    /// Whether a member has the properties that its pairs ask for.
    pub fn matches(&self, peer: &PeerRow) -> bool {
        match_gate(&self.allow, &peer.properties)
    }
}

/// Counters of one service on this node, since its row came.
#[derive(Default)]
pub struct ServiceCounters {
    /// Tunnels that were opened.
    pub opened: AtomicU64,
    /// Those that are open.
    pub open: AtomicU64,
    /// Those that a gate or a target refused.
    pub refused: AtomicU64,
    /// Times in a row that the target was not there.
    pub failing: AtomicU64,
    /// Bytes towards the service.
    pub bytes_in: AtomicU64,
    /// Bytes from it.
    pub bytes_out: AtomicU64,
    answers: Mutex<Vec<Answer>>,
}

/// Answers that are kept of one service: as many providers as a row has.
const ANSWERS: usize = 64;

/// What a provider said last.
struct Answer {
    node: Id,
    at: Instant,
    /// None: it took the client.
    refusal: Option<Refusal>,
}

/// What a provider said to the last client of this node; no slug where it took it.
#[derive(Debug, Serialize)]
pub struct AnswerView {
    node: ByteBuf,
    slug: String,
    reason: String,
    ago_ms: u64,
}

impl ServiceCounters {
    /// A provider took a client of this node, or refused it.
    pub fn answered(&self, node: Id, refusal: Option<Refusal>) {
        let mut answers = self.answers.lock();
        answers.retain(|answer| answer.node != node);
        if answers.len() >= ANSWERS {
            answers.remove(0);
        }
        answers.push(Answer { node, at: Instant::now(), refusal });
    }

    /// What each provider said last, the oldest first.
    pub fn answers(&self) -> Vec<AnswerView> {
        let view = |answer: &Answer| {
            let said = answer.refusal.as_ref();
            AnswerView {
                node: raw(&answer.node),
                slug: said.map_or_else(String::new, |refusal| refusal.slug.clone()),
                reason: said.map_or_else(String::new, |refusal| refusal.reason.clone()),
                ago_ms: micros(answer.at.elapsed()) / 1_000,
            }
        };
        self.answers.lock().iter().map(view).collect()
    }
}

impl Row for ServiceRow {
    type Local = ServiceCounters;

    fn key(&self) -> Id {
        self.key
    }
}

impl Row for ServedRow {
    type Local = ServiceCounters;

    fn key(&self) -> Id {
        self.key
    }
}

/// A row that has a name.
pub trait Named: Row {
    /// It.
    fn name(&self) -> &Arc<str>;
}

impl Named for ServiceRow {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Named for ServedRow {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
}

/// The rows of a lane, by key and by name.
pub struct Services<R: Row> {
    table: Table<R>,
    names: HashMap<Arc<str>, Arc<Entry<R>>>,
}

impl<R: Row> Default for Services<R> {
    fn default() -> Self {
        Self { table: Table::default(), names: HashMap::new() }
    }
}

impl<R: Row> Deref for Services<R> {
    type Target = Table<R>;

    fn deref(&self) -> &Table<R> {
        &self.table
    }
}

impl<R: Named> Services<R> {
    /// By name.
    pub fn named(&self, name: &str) -> Option<&Arc<Entry<R>>> {
        self.names.get(name)
    }

    pub(crate) fn after(&self, lane: Lane<R>, is_whole: bool) -> Self {
        let table = self.table.after(lane, is_whole);
        let named = |entry: &Arc<Entry<R>>| (entry.row.name().clone(), entry.clone());
        let names = table.values().map(named).collect();
        Self { table, names }
    }
}
