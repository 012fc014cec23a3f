//! What a call sees of the places where it may go: the replicas of a row, or the ranks that would
//! wake its seed. `pollen-rules` chooses among them.

use std::{sync::Arc, time::Instant};

use pollen_net::Link;
use pollen_rules::{
    Action, Attempts, End, Event, Place, View,
    numbers::{FULL, ROW_REPLICAS},
};
use pollen_wire::Id;

use crate::{
    call::{CallError, SeedRef},
    draw::draw,
    plane::Plane,
    refused::no_such_function,
    tables::{SeedEntry, Tables},
    ways::is_usable,
};

/// What a call does next.
pub(crate) enum Next {
    /// To this node; no link means that it is ourselves.
    Try(Id, Option<Arc<Link>>),
    /// Look again when the tables change, when a link comes, or at this time of the call.
    Wait(u64),
    /// It is over.
    End(End),
}

/// A place as a call sees it, and the way there.
type Seen = (Place<Id>, Option<Arc<Link>>);

/// When a call looks: nanoseconds since it began, and whether the row is another one than that of its last
/// attempt.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) now: u64,
    pub(crate) changed: bool,
}

/// How a place is looked at.
#[derive(Clone, Copy)]
struct Sight {
    /// There are other places, so that what it costs to go there counts.
    compared: bool,
    /// The way to some place broke under this call: a link may be closed that is not taken out yet,
    /// and would take all its retries at once. Asking takes the connection's lock.
    again: bool,
}

impl Plane {
    /// Looks at the places of a row and asks the rule where the call goes.
    pub(crate) fn next(
        &self,
        tables: &Tables,
        entry: &SeedEntry,
        attempts: &mut Attempts<Id>,
        moment: Moment,
    ) -> Next {
        let nodes = match entry.row.replicas.as_slice() {
            [] => entry.row.wake.as_slice(),
            replicas => replicas,
        };
        let nodes = nodes.get(..ROW_REPLICAS).unwrap_or(nodes);
        if let [only] = nodes {
            let sight = Sight { compared: false, again: attempts.was_cut() };
            let (place, link) = self.look_at(tables, entry, *only, sight);
            return self.ask(tables, entry, attempts, &[place], &mut [link], moment);
        }
        self.next_of(tables, entry, nodes, attempts, moment)
    }

    /// Of several. On its own, so that a call with one place pays for no room for sixteen.
    #[inline(never)]
    fn next_of(
        &self,
        tables: &Tables,
        entry: &SeedEntry,
        nodes: &[Id],
        attempts: &mut Attempts<Id>,
        moment: Moment,
    ) -> Next {
        let mut places = [Place::default(); ROW_REPLICAS];
        let mut links = [const { None }; ROW_REPLICAS];
        let sight = Sight { compared: true, again: attempts.was_cut() };
        for ((node, place), link) in nodes.iter().zip(&mut places).zip(&mut links) {
            (*place, *link) = self.look_at(tables, entry, *node, sight);
        }
        let places = places.get(..nodes.len()).unwrap_or_default();
        self.ask(tables, entry, attempts, places, &mut links, moment)
    }

    fn ask(
        &self,
        tables: &Tables,
        entry: &SeedEntry,
        attempts: &mut Attempts<Id>,
        places: &[Place<Id>],
        links: &mut [Option<Arc<Link>>],
        moment: Moment,
    ) -> Next {
        let view = View {
            cold: entry.row.replicas.is_empty(),
            idempotent: entry.row.options.idempotent,
            changed: moment.changed,
            places,
            draw: if places.len() > 2 { draw() } else { 0 },
        };
        let step = attempts.poll(Event::Looked(&view), moment.now);
        let node_of = |index: usize| places.get(index).map(|place| place.node);
        if let Some(peer) = step.wanted.and_then(node_of).and_then(|node| tables.peers.get(&node)) {
            self.want(peer);
        }
        match step.action {
            Action::Try(index) => match node_of(index) {
                Some(node) => Next::Try(node, links.get_mut(index).and_then(Option::take)),
                None => Next::End(End::Nobody),
            },
            Action::Wait(until) => Next::Wait(until),
            Action::Look => Next::Wait(moment.now),
            Action::End(end) => Next::End(end),
        }
    }

    fn look_at(&self, tables: &Tables, entry: &SeedEntry, node: Id, sight: Sight) -> Seen {
        let Sight { compared, again } = sight;
        let mut place = Place { node, ..Place::default() };
        if compared {
            place.service_us = entry.local.counters.run_us.load();
        }
        if node == self.id() {
            if compared {
                place.saturated = self.slots().fullness() == FULL;
                place.in_flight = entry.local.counters.in_flight.sum();
            }
            return (place, None);
        }
        let link = self.net().link(node).filter(|link| !again || link.is_admitted());
        place.ejected = !link.as_ref().is_some_and(|link| is_usable(link));
        place.in_flight = link.as_ref().map_or(0, |link| link.calls() as u64);
        match tables.peers.get(&node) {
            Some(peer) => {
                place.price_us = peer.row.price_us;
                let until = *peer.local.saturated_until.lock();
                place.saturated = until.is_some_and(|until| Instant::now() < until);
                place.unlinked = link.is_none();
                place.silent = link.as_ref().is_some_and(|link| link.is_ejected());
            }
            None => place.ejected = true,
        }
        (place, link)
    }
}

pub(crate) fn resolve<'a>(
    tables: &'a Tables,
    seed: &SeedRef,
) -> Result<&'a Arc<SeedEntry>, CallError> {
    let found = match seed {
        SeedRef::Name(name) => tables.named(name),
        SeedRef::Hash(hash) => tables.seed(hash),
    };
    found.ok_or_else(|| {
        let reason = format!("no seed named \"{seed}\" in this node's view of the cluster");
        CallError::refused("seed-not-found", reason, "pln status seeds")
    })
}

pub(crate) fn pick_function(
    entry: &SeedEntry,
    asked: Option<&Arc<str>>,
) -> Result<Arc<str>, CallError> {
    if entry.row.is_blob() {
        return Err(no_function_of_a_blob(entry));
    }
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

/// A file has no functions: what to do with it instead.
fn no_function_of_a_blob(entry: &SeedEntry) -> CallError {
    let name = &entry.row.name;
    let what = if entry.row.is_site() { "site" } else { "blob" };
    let reason = format!("\"{name}\" is a {what}: it is fetched, and not called");
    CallError::refused("function-not-found", reason, &format!("pln fetch {name}"))
}
