//! What a host name means at the proxy door: `NAME.pln`, `NAME--NODE.pln`.
//!
//! Decides: which service, and which node of it, a name means.
//! Does not know: what asked for it.
//! Invariants: no name is ever asked of a resolver.
//! Source: docs/design/services.md#by-name.

use pollen_net::Refusal;
use pollen_plane::tables::Tables;
use pollen_wire::Id;

use super::asked::foreign;
use crate::{limits::ROW_PROVIDERS, opener::Want, refusal::refused};

const ENDING: &str = ".pln";
/// Digits of an id that may stand for a node. As in the command line.
const DIGITS: usize = 4;

/// The service that a host name means.
pub(super) fn read(tables: &Tables, host: &str) -> Result<Want, Refusal> {
    let lower = host.trim_end_matches('.').to_ascii_lowercase();
    let Some(name) = lower.strip_suffix(ENDING).filter(|name| !name.is_empty()) else {
        return Err(foreign(&format!("\"{}\"", shown(host))));
    };
    // A service may have the two dashes in its own name.
    let (service, node) = match name.rsplit_once("--") {
        Some((service, node)) if tables.services.named(name).is_none() => (service, Some(node)),
        _ => (name, None),
    };
    let node = node.map(|text| node_of(tables, service, text)).transpose()?;
    Ok(Want::stream(service, node))
}

/// The node of those that serve it whose name this is, or whose id begins so. As `choose` in
/// `pollen.core.services.choosing`; but a host name knows no capital letters.
fn node_of(tables: &Tables, service: &str, text: &str) -> Result<Id, Refusal> {
    let row = tables.services.named(service).map(|entry| &entry.row);
    // A full row may leave providers out: the node says then whether it is one.
    let whole = row.filter(|row| row.providers.len() < ROW_PROVIDERS);
    let is_hex = text.len() >= DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let found: Vec<Id> = tables
        .peers
        .values()
        .map(|peer| &peer.row)
        .filter(|peer| whole.is_none_or(|row| row.providers.contains(&peer.peer)))
        .filter(|peer| {
            let is_named = peer.name.eq_ignore_ascii_case(text);
            is_named || (is_hex && hex(&peer.peer).starts_with(text))
        })
        .map(|peer| peer.peer)
        .collect();
    match found.as_slice() {
        [only] => Ok(*only),
        [] => {
            let reason = format!("no node named \"{}\" that serves it is online", shown(text));
            Err(refused("peer-not-found", reason, "pln status services"))
        }
        _ => {
            let reason = format!("{} nodes are meant by \"{}\"", found.len(), shown(text));
            Err(refused("ambiguous", reason, "use the first digits of an id: pln status nodes"))
        }
    }
}

fn hex(id: &Id) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// At most so much of what a client wrote, without what steers a terminal.
fn shown(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}
