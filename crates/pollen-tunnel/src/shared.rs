//! What all tunnels of a node share.
//!
//! Decides: how many files they may take, and which lines of the log do not repeat.
//! Does not know: what a tunnel is.
//! Invariants: tunnels leave files for everything else.
//! Source: crates/pollen-tunnel/src/limits.rs.

use std::{
    collections::HashMap,
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use pollen_plane::{Plane, Quiet, files, files_of_tunnels};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{circle::Own, limits::SESSIONS, open::OpenTunnels, owner::Whose, recent::Recent};

/// The tunnels of a node; cheap to clone.
#[derive(Clone)]
pub struct Tunnels(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) plane: Plane,
    pub(crate) open: OpenTunnels,
    pub(crate) listeners: Mutex<HashMap<u64, CancellationToken>>,
    pub(crate) sessions: Recent,
    pub(crate) own: Own,
    /// Datagrams that were lost here.
    pub(crate) dropped: AtomicU64,
    /// Cancelled when the node ends.
    pub(crate) stop: CancellationToken,
    files: Arc<Semaphore>,
    refused: [AtomicU64; REASONS.len()],
    lines: [Quiet; REASONS.len()],
}

/// Why a client of this machine got no tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    User,
    Unsaid,
    Connections,
    Files,
    Provider,
    Proxy,
    Password,
}

impl Reason {
    /// Why a client is turned away; nothing where it is of the user whose daemon this is.
    pub(crate) fn against(whose: Whose) -> Option<Self> {
        match whose {
            Whose::Own => None,
            Whose::Other => Some(Self::User),
            Whose::Unsaid => Some(Self::Unsaid),
        }
    }
}

/// Each reason: its label on the metrics page, and what the log says.
pub(crate) const REASONS: [(Reason, &str, &str); 7] = [
    (Reason::User, "user", "a client of another user came to a listener"),
    (Reason::Unsaid, "unsaid", "the kernel does not say whose a client of a listener is"),
    (Reason::Connections, "connections", "a listener has as many clients as it may"),
    (Reason::Files, "files", "no file is left for a client of a listener"),
    (Reason::Provider, "provider", "no provider took a client of a listener"),
    (Reason::Proxy, "proxy", "a client of the proxy door was refused"),
    (Reason::Password, "password", "a client of the proxy door has no valid password"),
];

impl Shared {
    pub(crate) fn new(plane: Plane) -> Arc<Self> {
        let most = files_of_tunnels(files());
        Arc::new(Self {
            plane,
            open: OpenTunnels::default(),
            listeners: Mutex::default(),
            sessions: Recent::new(SESSIONS),
            own: Own::default(),
            dropped: AtomicU64::new(0),
            stop: CancellationToken::new(),
            files: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            refused: Default::default(),
            lines: Default::default(),
        })
    }

    /// Room for one more socket, given back when the permit is dropped.
    pub(crate) fn file(&self) -> Option<OwnedSemaphorePermit> {
        self.files.clone().try_acquire_owned().ok()
    }

    /// Counts that a client was turned away; a line of the log now and then.
    pub(crate) fn refuse(&self, reason: Reason, service: &str, what: &dyn Display) {
        let at = reason as usize;
        let (Some(count), Some(lines)) = (self.refused.get(at), self.lines.get(at)) else { return };
        count.fetch_add(1, Relaxed);
        if let Some(left_out) = lines.speak() {
            let text = REASONS.get(at).map_or("", |(_, _, text)| text);
            tracing::warn!(%service, %what, left_out, "{text}");
        }
    }

    /// How many were turned away, by label.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS
            .iter()
            .zip(&self.refused)
            .map(|((_, label, _), count)| (*label, count.load(Relaxed)))
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
