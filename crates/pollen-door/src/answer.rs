//! How the end of a call looks over HTTP: headers, problem documents, status codes.

use arrayvec::ArrayString;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use pollen_plane::{
    CallError, Principal, Reply, Spent, Trace,
    hex::{digits, hex},
};

/// Headers that an answer has at most, hyper's two included.
const HEADERS: usize = 8;
/// RFC 9457.
const PROBLEM: &str = "application/problem+json";
const NODE: HeaderName = HeaderName::from_static("pollen-node");
const ATTEMPTS: HeaderName = HeaderName::from_static("pollen-attempts");
const GUEST_STATUS: HeaderName = HeaderName::from_static("pollen-guest-status");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Of the W3C's draft of trace context for responses.
const TRACE_RESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// The answer to a call that ended.
pub(crate) fn http_reply(
    reply: Reply,
    trace: Option<&Trace>,
    principal: Principal,
) -> Response<Full<Bytes>> {
    let timing = server_timing(&reply.spent, reply.total_us);
    let mut response = match reply.result {
        Ok((output, 0)) => plain(StatusCode::OK, "application/octet-stream", output),
        Ok((output, status)) => {
            let code = StatusCode::INTERNAL_SERVER_ERROR;
            let mut response = plain(code, "application/octet-stream", output);
            response.headers_mut().insert(GUEST_STATUS, HeaderValue::from(status));
            response
        }
        // A seed that stopped being public meanwhile.
        Err(error) if principal == Principal::Anonymous && &*error.slug == "denied" => {
            return problem(&no_such_seed(), None, 0);
        }
        Err(error) => problem(&error, reply.node.as_ref(), reply.attempts),
    };
    let headers = response.headers_mut();
    if let Some(node) = &reply.node {
        insert(headers, NODE, &digits(node));
    }
    headers.insert(ATTEMPTS, HeaderValue::from(u16::from(reply.attempts)));
    insert(headers, SERVER_TIMING, timing.as_bytes());
    if let Some(trace) = trace {
        insert(headers, TRACE_RESPONSE, trace.text().as_str().as_bytes());
    }
    response
}

/// `queue;dur=0.000, run;dur=0.004, total;dur=0.031`: milliseconds, as the header wants them, and
/// before them `wake;dur=` when the seed was loaded for this call.
fn server_timing(spent: &Spent, total_us: u32) -> Timing {
    let mut text = Timing::new();
    if spent.wake_us > 0 {
        push_time(&mut text, "wake;dur=", spent.wake_us);
        push(&mut text, ", ");
    }
    push_time(&mut text, "queue;dur=", spent.queue_us);
    push_time(&mut text, ", run;dur=", spent.run_us);
    push_time(&mut text, ", total;dur=", total_us);
    text
}

/// The longest, of four times of 4,294,967.295 ms, has 87 bytes.
type Timing = ArrayString<96>;

fn push(text: &mut Timing, part: &str) {
    let is_whole = text.try_push_str(part).is_ok();
    debug_assert!(is_whole, "a server-timing header is too long: {text}");
}

/// Microseconds as milliseconds with three places. By hand: the formatter of floats costs more
/// than the guest of a small call.
fn push_time(text: &mut Timing, name: &str, us: u32) {
    push(text, name);
    // At least one digit before the point and three behind it.
    let mut digits = *b"0000000.000";
    let mut rest = us;
    let mut first = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        if *digit == b'.' {
            continue;
        }
        if rest == 0 && at < POINT - 1 {
            break;
        }
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        first = at;
    }
    push(text, digits.get(first..).and_then(|it| str::from_utf8(it).ok()).unwrap_or_default());
}

/// Where the point stands in `0000000.000`.
const POINT: usize = 7;

/// A response with a content type.
pub(crate) fn plain(code: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    response.headers_mut().reserve(HEADERS);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// RFC 9457, with the fields of the error table.
pub(crate) fn problem(
    error: &CallError,
    node: Option<&[u8; 32]>,
    attempts: u8,
) -> Response<Full<Bytes>> {
    problem_as(http_status(&error.slug), error, node, attempts)
}

/// As `problem`, with a status that says more than the slug's: what RFC 9110 wants of a request that
/// never became a call.
pub(crate) fn problem_as(
    code: StatusCode,
    error: &CallError,
    node: Option<&[u8; 32]>,
    attempts: u8,
) -> Response<Full<Bytes>> {
    let body = document(code, error, node, attempts);
    let mut response = plain(code, PROBLEM, body.into());
    if error.retry_after_ms > 0 {
        let seconds = error.retry_after_ms.div_ceil(1000);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// As `problem_as`, and the connection closes behind it: what follows was not read.
pub(crate) fn last_words(code: StatusCode, error: &CallError) -> Response<Full<Bytes>> {
    let mut response = problem_as(code, error, None, 0);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// `last_words` as the bytes of HTTP, for a connection that no request is read from.
pub(crate) fn raw(error: &CallError) -> Vec<u8> {
    let code = http_status(&error.slug);
    let body = document(code, error, None, 0);
    let retry = error.retry_after_ms.div_ceil(1000);
    let length = body.len();
    format!(
        "HTTP/1.1 {code}\r\ncontent-type: {PROBLEM}\r\nretry-after: {retry}\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn document(code: StatusCode, error: &CallError, node: Option<&[u8; 32]>, attempts: u8) -> String {
    serde_json::json!({
        "type": format!("urn:pollen:error:{}", error.slug),
        "title": error.reason,
        "status": code.as_u16(),
        "slug": error.slug,
        "remedy": error.remedy,
        "node": node.map(|node| hex(node)),
        "attempts": attempts,
        "may_have_executed": error.may_have_executed,
    })
    .to_string()
}

/// The HTTP column of the error table.
fn http_status(slug: &str) -> StatusCode {
    match slug {
        "usage" | "bad-request" | "module-invalid" | "import-unknown" | "name-invalid" => {
            StatusCode::BAD_REQUEST
        }
        "seed-not-found" | "function-not-found" | "peer-not-found" | "blob-not-found" => {
            StatusCode::NOT_FOUND
        }
        "denied" | "not-a-recipient" | "token-invalid" => StatusCode::FORBIDDEN,
        "unreachable" | "daemon-not-running" | "version-mismatch" => StatusCode::BAD_GATEWAY,
        "overloaded" => StatusCode::SERVICE_UNAVAILABLE,
        "deadline" => StatusCode::GATEWAY_TIMEOUT,
        "input-too-large" => StatusCode::PAYLOAD_TOO_LARGE,
        "hop-limit" | "call-limit" => StatusCode::LOOP_DETECTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        headers.insert(name, value);
    }
}

/// What a client of the TCP door is told of everything that is not public: one answer, so that
/// names and functions of private seeds do not show in it.
pub(crate) fn no_such_seed() -> CallError {
    let remedy = "ask for a seed that was published with --public";
    CallError::refused("seed-not-found", "there is no such seed here", remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_timing_is_in_milliseconds() {
        let expected = "queue;dur=0.000, run;dur=12.034, total;dur=4294967.295";
        let spent = Spent { run_us: 12_034, ..Spent::default() };
        assert_eq!(&server_timing(&spent, u32::MAX), expected);
        let expected = "wake;dur=12.500, queue;dur=0.000, run;dur=0.001, total;dur=13.000";
        let spent = Spent { wake_us: 12_500, run_us: 1, ..Spent::default() };
        assert_eq!(&server_timing(&spent, 13_000), expected);
        let most = u32::MAX;
        let spent = Spent { wake_us: most, queue_us: most, run_us: most, ..Spent::default() };
        assert_eq!(server_timing(&spent, most).len(), 87);
    }
}
