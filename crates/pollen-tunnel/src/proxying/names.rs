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
use crate::{opener::Want, refusal::refused};

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
    let node = node.map(|text| node_of(tables, text)).transpose()?;
    Ok(Want::stream(service, node))
}

fn node_of(tables: &Tables, text: &str) -> Result<Id, Refusal> {
    let by_name: Vec<Id> = tables
        .peers
        .values()
        .filter(|peer| peer.row.name.eq_ignore_ascii_case(text))
        .map(|peer| peer.row.peer)
        .collect();
    let found = if by_name.is_empty() { by_digits(tables, text) } else { by_name };
    match found.as_slice() {
        [only] => Ok(*only),
        [] => {
            let reason = format!("no node named \"{}\" is online", shown(text));
            Err(refused("peer-not-found", reason, "pln status nodes"))
        }
        _ => {
            let reason = format!("{} nodes are named \"{}\"", found.len(), shown(text));
            Err(refused("ambiguous", reason, "use the first digits of an id: pln status nodes"))
        }
    }
}

fn by_digits(tables: &Tables, text: &str) -> Vec<Id> {
    let is_hex = text.len() >= DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let begins = |id: &Id| {
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        hex.starts_with(text)
    };
    let ids = tables.peers.values().map(|peer| peer.row.peer);
    if is_hex { ids.filter(begins).collect() } else { Vec::new() }
}

/// At most so much of what a client wrote, without what steers a terminal.
fn shown(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}
