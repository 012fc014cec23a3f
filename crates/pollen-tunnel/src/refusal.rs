//! What is said to who gets no tunnel.

use pollen_net::{NetError, Refusal};
use pollen_wire::open::Opened;

/// One of our own.
pub(crate) fn refused(slug: &'static str, reason: impl Into<String>, remedy: &str) -> Refusal {
    Refusal { slug: slug.to_owned(), reason: reason.into(), remedy: remedy.to_owned() }
}

/// There is no such service.
pub(crate) fn unknown(service: &str) -> Refusal {
    let reason = format!("no service named \"{service}\" in this node's view of the cluster");
    refused("service-not-found", reason, "pln status services")
}

/// The way to a peer failed.
pub(crate) fn lost(error: &NetError) -> Refusal {
    let remedy = "pln status shows who is offline";
    Refusal { slug: error.slug().to_owned(), reason: error.to_string(), remedy: remedy.to_owned() }
}

/// The tunnel ended before the answer did.
pub(crate) fn broken(service: &str) -> Refusal {
    let reason = format!("service \"{service}\", or a node on the way, ended the connection");
    refused("unreachable", reason, "pln status services")
}

/// The answer is longer than who asked takes.
pub(crate) fn too_long(service: &str, most: usize) -> Refusal {
    let reason = format!("the answer of service \"{service}\" is over the limit of {most} bytes");
    refused("bad-request", reason, "ask for less at once")
}

/// No file is left for another tunnel.
pub(crate) fn crowded() -> Refusal {
    let reason = "this node has as many tunnels as its open files allow";
    refused("overloaded", reason, "close some, or raise the limit of open files")
}

/// As it goes over the wire.
pub(crate) fn said(refusal: &Refusal) -> Opened<'_> {
    Opened { slug: &refusal.slug, reason: &refusal.reason, remedy: &refusal.remedy }
}
