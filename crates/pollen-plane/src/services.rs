//! Services as the brain pushes them: who provides which name, and what this node provides.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, atomic::AtomicU64},
};

use pollen_rules::match_gate;
use pollen_wire::Id;

use crate::{
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
