//! A guest asks a service of a member: it says its input and its end, and the answer is all that comes.
//!
//! Decides: which services a guest may ask. Does not know: who serves them, and the way there.
//! Invariants: a service that the spec does not name is never looked up. Asking for one that may not
//!     be asked ends the call. Source: docs/design/guest-abi.md#services.

use bytes::Bytes;
use pollen_net::Refusal;
use pollen_wasm::{MAX_ANSWER, NoReply};

use crate::{call::CallError, plane::Plane, tables::SeedRow, tunnels::ServiceAsk};

/// How the address of a service begins.
pub(crate) const SERVICE: &str = "pln://service/";

/// Asks the service of an address. It has the time of the call: when that is over the guest ends, and
/// this is dropped.
pub(crate) async fn ask(
    plane: &Plane,
    row: &SeedRow,
    service: &str,
    input: Bytes,
) -> Result<Bytes, CallError> {
    if !row.options.allow_services.iter().any(|allowed| allowed == service) {
        return Err(not_named(service));
    }
    let Some(tunnels) = plane.tunnels() else { return Err(CallError::shutting_down()) };
    let (service, publisher) = (service.into(), Some(row.publisher));
    let asked = tunnels.ask(ServiceAsk { service, publisher, input, most: MAX_ANSWER });
    asked.await.map_err(of_guest)
}

fn not_named(service: &str) -> CallError {
    let shown: String = service.chars().take(80).collect();
    let reason = format!("the spec does not allow requests to service \"{shown}\"");
    let remedy = format!("seed it with --allow-service {shown}");
    CallError::refused(NOT_ALLOWED, reason, &remedy)
}

const NOT_ALLOWED: &str = "guest-host-refused";

/// What a gate refuses, the guest may not ask for; what else went wrong may be otherwise later.
fn of_guest(refusal: Refusal) -> CallError {
    let Refusal { slug, reason, remedy } = refusal;
    if slug == "denied" {
        return CallError::refused(NOT_ALLOWED, reason, &remedy);
    }
    let may_have_executed = slug == "unreachable";
    CallError { slug: slug.into(), reason, remedy, may_have_executed, retry_after_ms: 0 }
}

/// What becomes of a guest whose request of an address failed: one that may not ask a service ends,
/// any other is told. A seed that was called and ended so is no reason to end its caller.
pub(crate) fn no_reply(uri: &str, error: CallError, told: String) -> NoReply {
    if uri.starts_with(SERVICE) && error.slug == NOT_ALLOWED {
        return NoReply::not_allowed(error.reason, error.remedy);
    }
    NoReply::Told(told)
}
