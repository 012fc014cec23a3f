//! Members as the brain pushes them, and whom a gate lets pass.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use parking_lot::Mutex;
use pollen_rules::{Party, Policy, Words, match_gate};
use pollen_wire::Id;
use serde_json::Value;

use crate::lanes::{Entry, Row};

/// What the muscles know of a member; as `PeerRow` in `pollen.core.effects`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct PeerRow {
    pub peer: Id,
    pub name: String,
    pub properties: Arc<str>,
    pub price_us: u64,
    pub words: Words,
    pub hops: Vec<Id>,
    pub held: Arc<OnceLock<Option<Value>>>,
}

impl PeerRow {
    /// The member as policies read it. Its properties are read at the first call that needs them.
    fn party(&self) -> Party<'_> {
        let held = self
            .held
            .get_or_init(|| serde_json::from_str(&self.properties).ok().filter(Value::is_object));
        Party { words: &self.words, props: held.as_ref() }
    }
}

/// A member with what this node noticed of it.
pub type PeerEntry = Entry<PeerRow>;

impl Row for PeerRow {
    type Local = PeerLocal;

    fn key(&self) -> Id {
        self.peer
    }
}

/// What this node noticed of a member.
#[derive(Default)]
pub struct PeerLocal {
    /// Its last reply said that its queue is full: avoided until this time.
    pub saturated_until: Mutex<Option<Instant>>,
    /// The brain knows until then that calls would use a link to it.
    pub wanted_until: Mutex<Option<Instant>>,
}

/// A policy on who may call a seed or reach a service; the fields are those of `PolicyRow` in `pollen.core.effects`.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct SeedPolicy {
    pub policy: Policy,
    pub lets_strangers: bool,
}

/// Whether a member has the properties that the pairs ask for, and the policy is true of it.
pub(crate) fn lets(
    pairs: &[(String, String)],
    policy: Option<&SeedPolicy>,
    peer: &PeerRow,
) -> bool {
    match_gate(pairs, &peer.properties)
        && policy.is_none_or(|held| held.policy.passes(&peer.party()))
}
