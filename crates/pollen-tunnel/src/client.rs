//! A client of this machine is served.
//!
//! Decides: what becomes of a client that no provider takes.
//! Does not know: how a provider is found.
//! Invariants: a client that gets no tunnel is told so, or is reset.
//! Source: docs/internals/seam.md#tunnels.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use bytes::Bytes;
use pollen_net::Refusal;
use pollen_plane::{ServiceAsk, tables::ServiceCounters};
use pollen_wire::Id;
use tokio_util::sync::CancellationToken;

use crate::{
    open::OpenTunnel,
    opener::{self, Found, Missed, Want},
    pump::{self, Answered, Counts},
    refusal::{broken, crowded, too_long, unknown},
    rest::Rest,
    shared::{Shared, Tunnels},
    socket::Socket,
};

/// A tunnel that is open, and nothing runs in it yet.
pub struct Opened {
    found: Found,
    counters: Arc<ServiceCounters>,
    _file: tokio::sync::OwnedSemaphorePermit,
}

impl Opened {
    /// The node that serves it.
    pub fn node(&self) -> Id {
        self.found.node
    }
}

impl Tunnels {
    /// Opens a tunnel for a client; what it says meanwhile is read, and goes first. A client that is
    /// reset meanwhile ends it: what it said is no whole upload.
    pub async fn open(&self, near: &Socket, want: &Want) -> Result<Opened, Missed> {
        open(&self.0, near, want).await
    }

    /// Says all of a request to a service, and its end; the answer, to the service's end.
    pub async fn ask(&self, ask: ServiceAsk) -> Result<Bytes, Refusal> {
        self::ask(&self.0, ask).await
    }

    /// Runs an open tunnel to its end, or to that of the node.
    pub async fn run(&self, near: Socket, opened: Opened) {
        run(&self.0, near, opened, self.0.stop.child_token()).await;
    }
}

pub(crate) async fn open(shared: &Shared, near: &Socket, want: &Want) -> Result<Opened, Missed> {
    open_after(shared, Some(near), want, Rest::default()).await
}

/// The same of a client that said something already, which goes first; or all of it, where there is
/// no socket to read more of.
pub(crate) async fn open_after(
    shared: &Shared,
    near: Option<&Socket>,
    want: &Want,
    rest: Rest,
) -> Result<Opened, Missed> {
    let counters = {
        let tables = shared.plane.tables().load();
        tables.services.named(&want.service).map(|entry| entry.local.clone())
    };
    let Some(counters) = counters else { return Err(unknown(&want.service).into()) };
    let Some(file) = shared.file() else { return Err(crowded().into()) };
    let found = tokio::select! {
        biased;
        () = left(near) => Err(Missed::Left),
        found = opener::find(shared, want, near, rest) => found,
    };
    if let Err(Missed::Refused(_)) = found {
        counters.refused.fetch_add(1, Relaxed);
    }
    Ok(Opened { found: found?, counters, _file: file })
}

/// Ends when the client was reset.
async fn left(near: Option<&Socket>) {
    match near {
        Some(near) => near.broken().await,
        None => std::future::pending().await,
    }
}

/// Says to a service what is ready, and its end; the answer. Nobody reads it as it comes.
pub(crate) async fn ask(shared: &Shared, ask: ServiceAsk) -> Result<Bytes, Refusal> {
    let want = Want { publisher: ask.publisher, ..Want::stream(ask.service, None) };
    let opened = match open_after(shared, None, &want, Rest::whole(&ask.input)).await {
        Ok(opened) => opened,
        Err(Missed::Refused(refusal)) => return Err(refusal),
        // Without a client nobody leaves.
        Err(Missed::Left) => return Err(broken(&want.service)),
    };
    let Opened { found, counters, _file } = opened;
    let open = OpenTunnel::begin(&shared.open, found.bonds, counters, shared.stop.child_token());
    open.judge(&shared.plane.tables().load());
    let counters = open.counters();
    let counts = Counts { there: &counters.bytes_in, back: &counters.bytes_out };
    match pump::ask(found.far, found.rest, ask.most, &open.cut, counts).await {
        Answered::Whole(answer) => Ok(answer),
        Answered::TooLong => Err(too_long(&want.service, ask.most)),
        Answered::Broken => Err(broken(&want.service)),
    }
}

/// Runs it to its end, or until `cut` says so.
pub(crate) async fn run(shared: &Shared, near: Socket, opened: Opened, cut: CancellationToken) {
    let Opened { found, counters, _file } = opened;
    let open = OpenTunnel::begin(&shared.open, found.bonds, counters, cut);
    // The tables may have changed since the provider was asked.
    open.judge(&shared.plane.tables().load());
    let counters = open.counters();
    let counts = Counts { there: &counters.bytes_in, back: &counters.bytes_out };
    pump::run(near, found.far, found.rest, &open.cut, counts).await;
}
