//! What a call is told that does not pass the gate, names no function, or whose content nobody sent.

use pollen_net::NetError;

use crate::{
    call::CallError,
    counters::count,
    hex::hex,
    plane::Plane,
    tables::{PeerRow, SeedEntry, SeedRow},
};

/// Why a caller does not pass. A member reads the seed's spec anyway, a stranger does not.
#[cold]
pub(crate) fn denied(plane: &Plane, row: &SeedRow, member: Option<&PeerRow>) -> CallError {
    count(&plane.counters().denied);
    let name = &row.name;
    let reason = format!("the gate of seed \"{name}\" does not let this caller pass");
    let Some(peer) = member else {
        let remedy = "ask for the property that the seed's --allow-prop names";
        return CallError::refused("denied", reason, remedy);
    };
    if row.matches(peer) {
        let text = &row.options.allow_if;
        let reason = format!("the policy of seed \"{name}\" is not true of this caller: {text}");
        // A spec that is being replaced has no name.
        let what = if name.is_empty() { hex(&row.seed) } else { name.to_string() };
        let remedy = format!("pln why call {what}");
        return CallError::refused("denied", reason, &remedy);
    }
    let wanted: Vec<_> =
        row.options.allow.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let flags = wanted.join(" --prop ");
    let wanted = wanted.join(", ");
    let remedy = format!(
        "it asks for {wanted}; for a new token, on an admin's node: pln invite --prop {flags}"
    );
    CallError::refused("denied", reason, &remedy)
}

/// Why a node that may read a blob cannot: it was sealed before.
#[cold]
pub(crate) fn not_a_recipient(row: &SeedRow) -> CallError {
    let name = &row.name;
    let reason = format!("blob \"{name}\" was not sealed for this node");
    let publisher = &hex(&row.publisher)[..8];
    let remedy = format!("node {publisher} published it; there: pln reseal {name}");
    CallError::refused("not-a-recipient", reason, &remedy)
}

pub(crate) fn no_such_function(entry: &SeedEntry, function: &str) -> CallError {
    let exports: Vec<&str> = entry.row.functions.iter().map(|name| &**name).collect();
    let reason = format!("seed \"{}\" has no function \"{function}\"", entry.row.name);
    let remedy = format!("call one of: {}", exports.join(", "));
    CallError::refused("function-not-found", reason, &remedy)
}

/// Why a content is not here.
pub(crate) fn not_had(error: &NetError) -> CallError {
    if error.is_own() {
        return CallError::of_store(error);
    }
    // The same words whether it is not here or here for others.
    let reason = match error {
        NetError::Missing => "no holder of the content sent it; none could be asked".to_owned(),
        _ => format!("no holder of the content sent it; the last one: {error}"),
    };
    let remedy = "start a node that had it, or seed it again: pln seed FILE NAME";
    CallError::refused("unreachable", reason, remedy)
}
