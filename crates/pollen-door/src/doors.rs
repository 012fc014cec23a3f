//! The doors of a node: `call.sock` for its owner, TCP for strangers.
//!
//! Decides: what a stranger may hold of the node (`limits.rs`), and who is turned away.
//! Does not know: what a call is; `gateway.rs` answers requests, `framed.rs` serves `pollen-call/1`.
//! Invariants: files are left for everything else, whatever comes to the TCP door; every refusal is
//!     counted, and told in the log without filling it.
//! Source: crates/pollen-door/src/limits.rs, at each number.
//!
//! - `listen.rs`: the accept loops; `visitors.rs`: who is inside, and the account of bytes.
//! - `screen.rs`: one connection's stream; `head.rs`, `chunks.rs`: what may pass it.
//! - `body.rs`: a request's body.

use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use pollen_plane::{Metric, Plane, Quiet, files};
use pollen_tunnel::Tunnels;
use tokio_util::sync::CancellationToken;

use crate::{
    address::Hosts,
    limits::{BYTES_LEAST, BYTES_MOST, GIVE_BACK},
    sites::Sites,
    visitors::Visitors,
};

/// Why somebody was turned away at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Connections,
    Address,
    Files,
    NotHttp,
    Malformed,
    SlowHead,
    SlowBody,
    SlowReader,
    Bytes,
    TooLarge,
}

/// Each reason: its label on the metrics page, and what the log says.
const REASONS: [(Reason, &str, &str); 10] = [
    (Reason::Connections, "connections", "the TCP door is full"),
    (Reason::Address, "address", "an address has as many connections as it may"),
    (Reason::Files, "files", "a door could not accept"),
    (Reason::NotHttp, "not_http", "what came to a door is not HTTP"),
    (Reason::Malformed, "malformed", "a door refused a malformed request"),
    (Reason::SlowHead, "slow_head", "the head of a request came too slowly"),
    (Reason::SlowBody, "slow_body", "the body of a request came too slowly"),
    (Reason::SlowReader, "slow_reader", "a client did not read its answer"),
    (Reason::Bytes, "bytes", "a door holds as many bytes as it may"),
    (Reason::TooLarge, "too_large", "the body of a request is over the limit"),
];

/// The open doors; cheap to clone.
#[derive(Clone)]
pub struct Doors(pub(crate) Arc<Shared>);

/// What all connections of a node share.
pub(crate) struct Shared {
    pub(crate) plane: Plane,
    pub(crate) tunnels: Tunnels,
    pub(crate) visitors: Arc<Visitors>,
    pub(crate) sites: Sites,
    pub(crate) hosts: Hosts,
    /// Cancelled when the node drains.
    pub(crate) stop: CancellationToken,
    /// HTTP connections of both doors.
    open: AtomicUsize,
    pub(crate) accepted: AtomicU64,
    refused: [AtomicU64; REASONS.len()],
    lines: [Quiet; REASONS.len()],
}

impl Doors {
    /// Of this node; none is open yet. `memory_bytes` is what guests may have, `hosts` which sites the
    /// TCP door answers with.
    pub fn new(plane: Plane, tunnels: Tunnels, memory_bytes: u64, hosts: Hosts) -> Self {
        let bytes = (memory_bytes / 4).clamp(BYTES_LEAST, BYTES_MOST);
        Self(Arc::new(Shared {
            plane,
            tunnels,
            visitors: Visitors::new(files(), bytes),
            sites: Sites::default(),
            hosts,
            stop: CancellationToken::new(),
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            refused: Default::default(),
            lines: Default::default(),
        }))
    }

    /// Opens no connection any more, lets requests under way end for up to `grace`, and closes idle
    /// connections. Blocks; must not be called from a thread of the runtimes.
    pub fn drain(&self, grace: Duration) {
        self.0.stop.cancel();
        let end = Instant::now() + grace;
        while self.0.open.load(Relaxed) > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Counters and gauges by name, for the metrics page.
    pub fn metrics(&self) -> Vec<(&'static str, Metric)> {
        let shared = &self.0;
        let refused: BTreeMap<&'static str, u64> = REASONS
            .iter()
            .zip(&shared.refused)
            .map(|((_, label, _), count)| (*label, count.load(Relaxed)))
            .collect();
        vec![
            ("door_connections", Metric::Number(shared.visitors.inside() as u64)),
            ("door_connections_most", Metric::Number(shared.visitors.most() as u64)),
            ("door_accepted", Metric::Number(shared.accepted.load(Relaxed))),
            ("door_bytes", Metric::Number(shared.visitors.held() as u64)),
            ("door_refused", Metric::Counts(refused)),
        ]
    }
}

/// An HTTP connection; dropped, it is over.
pub(crate) struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl Shared {
    /// An HTTP connection begins.
    pub(crate) fn opened(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Relaxed);
        Open(self.clone())
    }

    /// Counts that somebody was turned away; a line of the log now and then.
    pub(crate) fn refuse(&self, reason: Reason, from: &dyn Display, what: &str) {
        let at = reason as usize;
        let (Some(count), Some(lines)) = (self.refused.get(at), self.lines.get(at)) else { return };
        count.fetch_add(1, Relaxed);
        let Some(left_out) = lines.speak() else { return };
        let text = REASONS.get(at).map_or("", |(_, _, text)| text);
        match reason {
            Reason::Connections | Reason::Address | Reason::Files | Reason::Bytes => {
                tracing::warn!(%from, %what, left_out, "{text}");
            }
            _ => tracing::info!(%from, %what, left_out, "{text}"),
        }
    }

    /// After a flood the allocator keeps what it took: it is asked for its free pages.
    pub(crate) async fn give_back(self: Arc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            if self.visitors.peak() >= GIVE_BACK && self.visitors.held() < GIVE_BACK / 2 {
                self.visitors.forget_peak();
                // Tens of milliseconds: not on a network thread.
                let _ = tokio::task::spawn_blocking(pollen_plane::trim).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_stands_at_its_own_place() {
        for (at, (reason, ..)) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
    }
}
