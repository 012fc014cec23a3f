//! How the tunnels of a node begin and end, and what is told of them.
//!
//! Decides: nothing.
//! Does not know: what a tunnel is for.
//! Invariants: a change of the tables is judged at once, and each change once.
//! Source: docs/internals/seam.md#tunnels.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use pollen_net::{Arrived, Refusal};
use pollen_plane::{Metric, Plane, ServiceAsk, TakesTunnels, tables::AnswerView};

use crate::{
    client, datagrams, provider,
    shared::{Shared, Tunnels},
};

/// The tables are looked at after this time even when nobody pushed.
const LOOK: Duration = Duration::from_secs(60);

/// What the call path is given: it hands over what peers ask for.
struct Taker(Arc<Shared>);

impl TakesTunnels for Taker {
    fn serve(&self, arrived: Arrived) {
        let shared = self.0.clone();
        self.0.plane.handle().spawn(async move {
            match arrived.session {
                None => provider::serve(&shared, arrived).await,
                Some(_) => datagrams::serve(&shared, arrived).await,
            }
        });
    }

    fn ask(&self, ask: ServiceAsk) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let shared = self.0.clone();
        Box::pin(async move { client::ask(&shared, ask).await })
    }
}

impl Tunnels {
    /// Of this node, from now on; `Plane::serve_tunnels` may not have been called before.
    pub fn new(plane: Plane) -> Self {
        let shared = Shared::new(plane.clone());
        plane.serve_tunnels(Arc::new(Taker(shared.clone())));
        plane.handle().spawn(watch(shared.clone()));
        Self(shared)
    }

    /// Closes the listeners and cuts every tunnel.
    pub fn close(&self) {
        self.0.stop.cancel();
    }

    /// What each provider of a service said to the last client of this node that was led there.
    pub fn answers(&self, service: &str) -> Vec<AnswerView> {
        let tables = self.0.plane.tables().load();
        tables.services.named(service).map_or_else(Vec::new, |entry| entry.local.answers())
    }

    /// Counters and gauges by name, for the metrics page.
    pub fn metrics(&self) -> Vec<(&'static str, Metric)> {
        let shared = &self.0;
        let refused: BTreeMap<_, _> = shared.refusals().collect();
        vec![
            ("tunnels_open", Metric::Number(shared.open.count() as u64)),
            ("tunnels_cut", Metric::Number(shared.open.cut())),
            ("tunnel_listeners", Metric::Number(shared.listeners.lock().len() as u64)),
            ("tunnel_sessions", Metric::Number(shared.sessions.count() as u64)),
            ("tunnel_datagrams_dropped", Metric::Number(shared.dropped.load(Relaxed))),
            ("tunnel_refused", Metric::Counts(refused)),
        ]
    }
}

async fn watch(shared: Arc<Shared>) {
    let mut seen = 0;
    loop {
        let held = shared.plane.tables();
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = held.changed(seen, Instant::now() + LOOK) => {}
        }
        let tables = held.load_full();
        if tables.generation != seen {
            seen = tables.generation;
            shared.open.judge(&tables);
        }
    }
}
