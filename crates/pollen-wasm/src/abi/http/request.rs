//! The request that a guest is given: a call's request head and its input.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, header::HOST};
use pollen_wire::http::RequestHead;

use crate::error::SandboxError;

/// The request of a call; a refusal of one that has no such head.
pub(super) fn of(head: &[u8], body: Bytes) -> Result<Request<Full<Bytes>>, SandboxError> {
    let refused = |reason: String| {
        SandboxError::refused("bad-request", reason, "ask for it over HTTP, at /http/NAME/")
    };
    if head.is_empty() {
        return Err(refused("the seed answers requests of HTTP, and this call is none".into()));
    }
    let read = RequestHead::decode(head)
        .map_err(|error| refused(format!("the head of the request cannot be read: {error}")))?;
    let mut builder = Request::builder().method(read.method).uri(read.path);
    builder = builder.header(HOST, read.authority);
    for (name, value) in read.fields {
        // The authority says it.
        if !name.eq_ignore_ascii_case("host") {
            builder = builder.header(name, value);
        }
    }
    let request = builder.body(Full::new(body));
    request.map_err(|error| refused(format!("the head of the request is not valid: {error}")))
}
