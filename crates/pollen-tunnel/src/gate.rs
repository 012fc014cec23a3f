//! Who may reach a service of this node.
//!
//! Decides: whether a member passes, by the row that the brain pushed.
//! Does not know: how the member came.
//! Invariants: a peer that is no member learns nothing of the services here.
//! Source: docs/internals/seam.md#tunnels.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use pollen_net::Refusal;
use pollen_plane::tables::{Entry, PeerRow, ServedRow, Tables};
use pollen_wire::Id;

use crate::refusal::refused;

/// Who comes: a member, and of a guest who published its seed. Both must be let in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who {
    pub(crate) caller: Id,
    pub(crate) publisher: Option<Id>,
}

impl Who {
    /// The row of the service, if all of them may reach it.
    pub(crate) fn judge(
        &self,
        tables: &Tables,
        service: &str,
        datagrams: bool,
    ) -> Result<Arc<Entry<ServedRow>>, Refusal> {
        let entry = judge(tables, &self.caller, service, datagrams)?;
        if let Some(publisher) = &self.publisher {
            judge(tables, publisher, service, datagrams).map_err(|refusal| Refusal {
                reason: format!("for the publisher of the guest's seed: {}", refusal.reason),
                ..refusal
            })?;
        }
        Ok(entry)
    }
}

/// The row of the service, if this member may reach it.
fn judge(
    tables: &Tables,
    caller: &Id,
    service: &str,
    datagrams: bool,
) -> Result<Arc<Entry<ServedRow>>, Refusal> {
    let Some(peer) = tables.peers.get(caller) else {
        let remedy = "ask for a new token: pln invite, on an admin's node";
        return Err(refused("denied", "this node does not know the caller as a member", remedy));
    };
    let found = tables.served.named(service).filter(|entry| entry.row.datagrams == datagrams);
    let Some(entry) = found else {
        let reason = format!("this node does not serve \"{service}\"");
        return Err(refused("service-not-found", reason, "pln status services"));
    };
    if !entry.row.lets(&peer.row) {
        entry.local.refused.fetch_add(1, Relaxed);
        return Err(denied(&entry.row, &peer.row));
    }
    Ok(entry.clone())
}

/// Whether a tunnel that was let in may go on: to the same target, through the gate as it is now.
pub(crate) fn may_stay(tables: &Tables, caller: &Id, opened: &ServedRow) -> bool {
    let row = tables.served.get(&opened.key).map(|entry| &entry.row);
    let row = row.filter(|row| row.target == opened.target && row.datagrams == opened.datagrams);
    let peer = tables.peers.get(caller);
    row.zip(peer).is_some_and(|(row, peer)| row.lets(&peer.row))
}

fn denied(row: &ServedRow, peer: &PeerRow) -> Refusal {
    let name = &row.name;
    if row.matches(peer) {
        let reason = format!("the policy of service \"{name}\" is not true of this caller");
        return refused("denied", reason, "ask whoever serves it");
    }
    let pair = |(key, value): &(String, String)| format!("{key}={value}");
    let wanted: Vec<_> = row.allow.iter().map(pair).collect();
    let reason = format!("the gate of service \"{name}\" does not let this caller pass");
    let remedy = format!(
        "it asks for {}; for a new token, on an admin's node: pln invite --prop {}",
        wanted.join(", "),
        wanted.join(" --prop ")
    );
    refused("denied", reason, &remedy)
}
