//! A provider is found for a client of this machine.
//!
//! Decides: who is asked next.
//! Does not know: where the client came from.
//! Invariants: bytes of the client go to another provider only when the one before refused them.
//! Source: docs/internals/seam.md#tunnels.

use std::{
    future::{pending, poll_fn},
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use pollen_net::{Carries, NetError, Refusal, SendStream, TunnelStream, read_answer};
use pollen_plane::{
    Way,
    tables::{Entry, ServiceRow, Tables},
};
use pollen_rules::numbers::REACH;
use pollen_wire::Id;

use crate::{
    carry::Broken,
    circle,
    gate::Who,
    limits::{ANSWER, EARLY, ROW_PROVIDERS, WANTED},
    open::Bond,
    pump::{self, Far, Held},
    refusal::{crowded, lost, refused, unknown},
    rest::Rest,
    shared::Shared,
    socket::Socket,
    target,
};

/// What a client wants.
#[derive(Debug, Clone)]
pub struct Want {
    /// The service.
    pub service: Arc<str>,
    /// The only node that is asked for it; else whoever serves it.
    pub node: Option<Id>,
    /// By UDP.
    pub datagrams: bool,
    /// Of a guest: who published its seed.
    pub publisher: Option<Id>,
    /// Of a client of a listener: the mark of its socket.
    pub mark: Option<Id>,
}

impl Want {
    /// A stream of whoever serves it, or of one node.
    pub fn stream(service: impl Into<Arc<str>>, node: Option<Id>) -> Self {
        Self { service: service.into(), node, datagrams: false, publisher: None, mark: None }
    }
}

const LATE: &str = "the provider did not answer";

/// A provider took longer than it may.
pub(crate) fn late() -> Refusal {
    lost(&NetError::Unreachable(LATE.to_owned()))
}

/// A tunnel that a provider has opened.
pub(crate) struct Found {
    pub(crate) node: Id,
    pub(crate) far: Far,
    pub(crate) rest: Rest,
    pub(crate) bonds: Vec<Bond>,
}

/// Why there is no tunnel.
pub enum Missed {
    /// The client is to be told.
    Refused(Refusal),
    /// The client was reset: nobody is there to be told.
    Left,
}

impl From<Refusal> for Missed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Asks one provider after another. Without a client's socket `rest` is all that is said.
pub(crate) async fn find(
    shared: &Shared,
    want: &Want,
    near: Option<&Socket>,
    mut rest: Rest,
) -> Result<Found, Missed> {
    let mut search = Search::new(shared, want);
    loop {
        let node = search.next().await?;
        rest.sent = 0;
        let asked = if node == shared.plane.id() {
            ask_here(shared, want).await
        } else {
            ask_there(shared, want, node, near, &mut rest).await
        };
        match asked {
            Ok((far, bonds)) => {
                search.took(node);
                return Ok(Found { node, far, rest, bonds });
            }
            Err(Asked::Refused(refusal)) => search.refused(node, refusal),
            Err(Asked::Lost(refusal)) => {
                search.refused(node, refusal.clone());
                return Err(Missed::Refused(refusal));
            }
            Err(Asked::Left) => return Err(Missed::Left),
        }
    }
}

/// The providers of a service, one after the other.
pub(crate) struct Search<'a> {
    shared: &'a Shared,
    want: &'a Want,
    until: Instant,
    tried: Vec<Id>,
    last: Option<Refusal>,
}

/// What a look at the tables says.
enum Next {
    Try(Id),
    /// These are alive and not linked.
    Wait(Vec<Id>),
    End(Refusal),
}

impl<'a> Search<'a> {
    pub(crate) fn new(shared: &'a Shared, want: &'a Want) -> Self {
        Self { shared, want, until: Instant::now() + REACH, tried: Vec::new(), last: None }
    }

    /// This one did not take the client, and is not asked for it any more.
    pub(crate) fn refused(&mut self, node: Id, refusal: Refusal) {
        self.note(node, Some(refusal.clone()));
        self.tried.push(node);
        self.last = Some(refusal);
    }

    /// This one took the client.
    pub(crate) fn took(&self, node: Id) {
        self.note(node, None);
    }

    /// For whoever asks how a service fares here.
    fn note(&self, node: Id, refusal: Option<Refusal>) {
        if let Some(entry) = self.shared.plane.tables().load().services.named(&self.want.service) {
            entry.local.answered(node, refusal);
        }
    }

    /// The next provider to ask, or the refusal with which it ends.
    pub(crate) async fn next(&mut self) -> Result<Id, Refusal> {
        let plane = &self.shared.plane;
        loop {
            let routed = plane.net().routed();
            tokio::pin!(routed);
            // A link that comes after the look must not be missed.
            routed.as_mut().enable();
            let tables = plane.tables().load_full();
            let unlinked = match self.look(&tables) {
                Next::Try(node) => return Ok(node),
                Next::End(refusal) => return Err(refusal),
                Next::Wait(unlinked) => unlinked,
            };
            for node in unlinked.iter().take(WANTED) {
                tables.peers.get(node).into_iter().for_each(|peer| plane.want(peer));
            }
            tokio::select! {
                () = routed => {}
                () = plane.tables().changed(tables.generation, self.until) => {}
            }
        }
    }

    fn look(&self, tables: &Tables) -> Next {
        let entry = match row(tables, self.want) {
            Ok(entry) => entry,
            Err(refusal) => return Next::End(refusal),
        };
        let ServiceRow { providers, failing, .. } = &entry.row;
        if let Some(only) = self.want.node {
            return self.among(tables, [only]).unwrap_or_else(|| self.end(entry));
        }
        // One that lacks only a link goes before one whose program fails.
        let is_failing = |node: &Id| failing.contains(node);
        let fit = providers.iter().copied().filter(|node| !is_failing(node));
        let rest = providers.iter().copied().filter(is_failing);
        let next = self.among(tables, fit).or_else(|| self.among(tables, rest));
        next.unwrap_or_else(|| self.end(entry))
    }

    /// What can be done with one of these; nothing once all were tried or waited for.
    fn among(&self, tables: &Tables, nodes: impl IntoIterator<Item = Id>) -> Option<Next> {
        let mut unlinked = Vec::new();
        for node in nodes.into_iter().filter(|node| !self.tried.contains(node)) {
            match self.shared.plane.way(tables, node) {
                Way::Here | Way::Link(_) => return Some(Next::Try(node)),
                Way::Unlinked => unlinked.push(node),
                Way::None => {}
            }
        }
        let waits = !unlinked.is_empty() && Instant::now() < self.until;
        waits.then_some(Next::Wait(unlinked))
    }

    fn end(&self, entry: &Entry<ServiceRow>) -> Next {
        Next::End(self.last.clone().unwrap_or_else(|| nobody(entry)))
    }
}

/// The row of the service, if the wanted node is among its providers.
pub(crate) fn row<'a>(
    tables: &'a Tables,
    want: &Want,
) -> Result<&'a Arc<Entry<ServiceRow>>, Refusal> {
    let named = tables.services.named(&want.service);
    let entry = named.ok_or_else(|| unknown(&want.service))?;
    if entry.row.datagrams != want.datagrams {
        let kind = if entry.row.datagrams { "datagrams" } else { "streams" };
        let reason = format!("service \"{}\" is one of {kind}", want.service);
        return Err(refused("service-not-found", reason, "pln status services"));
    }
    // A full row may leave providers out: the node is asked then, and says whether it is one.
    let is_full = entry.row.providers.len() >= ROW_PROVIDERS;
    if !is_full && want.node.is_some_and(|node| !entry.row.providers.contains(&node)) {
        let reason = format!("that node does not serve \"{}\"", want.service);
        return Err(refused("service-not-found", reason, "pln status services"));
    }
    Ok(entry)
}

fn nobody(entry: &Entry<ServiceRow>) -> Refusal {
    let (name, count) = (&entry.row.name, entry.row.providers.len());
    let reason = match count {
        0 => format!("nobody serves \"{name}\" now"),
        _ => format!("none of the {count} that serve \"{name}\" can be reached"),
    };
    refused("unreachable", reason, "pln status services shows who serves it and who is offline")
}

/// Why a provider did not open it.
enum Asked {
    /// It said so, and the service was not touched.
    Refused(Refusal),
    /// Nobody knows what became of the bytes that were sent.
    Lost(Refusal),
    /// The client was reset meanwhile.
    Left,
}

async fn ask_here(shared: &Shared, want: &Want) -> Result<(Far, Vec<Bond>), Asked> {
    let caller = shared.plane.id();
    let tables = shared.plane.tables().load_full();
    let who = Who { caller, publisher: want.publisher };
    let entry = who.judge(&tables, &want.service, false).map_err(Asked::Refused)?;
    if shared.own.is_back(want.mark, &want.service) {
        entry.local.refused.fetch_add(1, Relaxed);
        return Err(Asked::Refused(circle::refusal(&want.service)));
    }
    let Some(file) = shared.file() else { return Err(Asked::Refused(crowded())) };
    let socket = target::connect(&entry, &caller).await.map_err(|refusal| {
        entry.local.refused.fetch_add(1, Relaxed);
        Asked::Refused(refusal)
    })?;
    let marked = shared.own.enter(&socket, &entry.row.name, want.mark);
    let held = Held { _file: file, _marked: marked };
    Ok((Far::Here(socket, held), Bond::of(&who, &entry)))
}

async fn ask_there(
    shared: &Shared,
    want: &Want,
    node: Id,
    near: Option<&Socket>,
    rest: &mut Rest,
) -> Result<(Far, Vec<Bond>), Asked> {
    let carries = match (want.publisher, want.mark) {
        (Some(publisher), _) => Carries::Guest(publisher),
        (None, Some(mark)) => Carries::Marked(mark),
        (None, None) => Carries::Stream,
    };
    let opened = shared.plane.net().open_tunnel(node, &want.service, carries);
    let opened = tokio::time::timeout(ANSWER, opened).await;
    let opened = opened.map_err(|_| Asked::Refused(late()))?;
    let (mut stream, _) = opened.map_err(|error| Asked::Refused(lost(&error)))?;
    match talk(near, &mut stream, rest).await {
        Ok(Ok(())) => Ok((Far::Peer(Box::new(stream)), vec![Bond::Uses { provider: node }])),
        Ok(Err(refusal)) => Err(Asked::Refused(refusal)),
        // Dropped, the stream is reset.
        Err(Stopped::Near) => Err(Asked::Left),
        Err(Stopped::Peer(error)) if rest.sent == 0 => Err(Asked::Refused(lost(&error))),
        Err(Stopped::Peer(error)) => Err(Asked::Lost(lost(&error))),
    }
}

/// Which side ended the talk before the provider answered.
enum Stopped {
    Near,
    Peer(NetError),
}

/// Sends what the client says until the provider answers.
async fn talk(
    near: Option<&Socket>,
    stream: &mut TunnelStream,
    rest: &mut Rest,
) -> Result<Result<(), Refusal>, Stopped> {
    let TunnelStream { send, recv, .. } = stream;
    let mut answer = pin!(tokio::time::timeout(ANSWER, read_answer(recv)));
    loop {
        tokio::select! {
            biased;
            answered = &mut answer => {
                let late = |_| NetError::Unreachable(LATE.to_owned());
                return answered.map_err(late).flatten().map_err(Stopped::Peer);
            }
            moved = move_early(near, send, rest) => moved?,
        }
    }
}

/// Sends once or reads once; cancelled, it has done neither.
async fn move_early(
    near: Option<&Socket>,
    send: &mut SendStream,
    rest: &mut Rest,
) -> Result<(), Stopped> {
    if !rest.unsent().is_empty() {
        let written = send.write(rest.unsent()).await;
        let lost = |e| Stopped::Peer(NetError::Unreachable(format!("sending to it: {e}")));
        rest.sent += written.map_err(lost)?;
        return Ok(());
    }
    match near {
        Some(near) if !rest.is_over && rest.bytes.len() < EARLY => {
            let read = poll_fn(|cx| pump::poll_early(cx, near, rest, EARLY)).await;
            read.map_err(|Broken| Stopped::Near)
        }
        _ => pending().await,
    }
}
