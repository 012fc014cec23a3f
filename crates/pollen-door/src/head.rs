//! The head of an HTTP/1 request, read before hyper reads it.
//!
//! Decides: whether a head is taken, and with which status it is refused.
//! Does not know: sockets, tasks, what a path means.
//! Invariants: a head that is taken has one framing that no two readers see differently; the parser is
//!     the one that hyper uses.
//! Source: RFC 9112 (3, 5, 6.1, 6.3), RFC 9110 (15.5). hyper answers a few of these with a bare
//!     status and closes the others without a word; it takes `Content-Length` beside
//!     `Transfer-Encoding`.

use std::mem::MaybeUninit;

use httparse::Error as Fault;
use hyper::{StatusCode, Uri};

use crate::limits::{HEAD_MAX, HEADERS_MAX, LINE_MAX};

/// How the body of a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// With a chunk of length 0.
    Chunked,
}

/// Why a request is answered without being read on; the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) slug: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) remedy: &'static str,
    /// Not HTTP at all: nobody there would read an answer.
    pub(crate) is_mute: bool,
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// Empty lines alone, which may stand before a request (RFC 9112, 2.2).
    Blank,
    /// A head that is not whole yet.
    Partial,
    /// A head of so many bytes.
    Whole(usize, Framing),
    Refused(Refusal),
}

const fn refusal(status: StatusCode, reason: &'static str, remedy: &'static str) -> Refusal {
    Refusal { status, slug: "bad-request", reason, remedy, is_mute: false }
}

const PLAIN_HTTP: &str = "send HTTP/1.1 without TLS: POST /call/<seed>/<function>";
const LENGTH_ONCE: &str =
    "send one Content-Length in decimal digits, or Transfer-Encoding: chunked";

/// The head did not come in time.
pub(crate) const SLOW_HEAD: Refusal = Refusal {
    slug: "deadline",
    ..refusal(
        StatusCode::REQUEST_TIMEOUT,
        "the head of the request did not come within 10 s",
        "send the head at once",
    )
};

/// Reads what stands at the beginning of `bytes`.
pub(crate) fn scan(bytes: &[u8]) -> Scan {
    let Some(start) = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')) else {
        return Scan::Blank;
    };
    let text = bytes.get(start..).unwrap_or_default();
    if let Some(refused) = foreign(text) {
        return Scan::Refused(refused);
    }
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(text, &mut headers);
    let judged = match parsed {
        Ok(httparse::Status::Partial) => return partial(text),
        Ok(httparse::Status::Complete(length)) if length > HEAD_MAX => Err(too_large()),
        Ok(httparse::Status::Complete(length)) => {
            let method = request.method.unwrap_or_default();
            let framing = check_line(method, request.path.unwrap_or_default())
                .and_then(|()| framing(request.headers, request.version == Some(0)));
            framing.map(|framing| (start + length, framing))
        }
        Err(fault) => Err(of_fault(fault, text)),
    };
    match judged {
        Ok((length, framing)) => Scan::Whole(length, framing),
        Err(refused) => Scan::Refused(refused),
    }
}

/// What came, for a line of the log: the first bytes, escaped.
pub(crate) fn shown(bytes: &[u8]) -> String {
    bytes.get(..bytes.len().min(24)).unwrap_or_default().escape_ascii().to_string()
}

/// Other protocols, by their first bytes.
fn foreign(text: &[u8]) -> Option<Refusal> {
    let told = |reason, remedy| Some(refusal(StatusCode::BAD_REQUEST, reason, remedy));
    let mute = |refused: Option<Refusal>| refused.map(|it| Refusal { is_mute: true, ..it });
    match text {
        [0x16] | [0x16, 0x03, ..] => {
            mute(told("a TLS hello came to a port of plain HTTP", PLAIN_HTTP))
        }
        [b'P', b'R', b'O', b'X', b'Y', b' ', ..] => told(
            "a PROXY protocol header came before the request",
            "switch the PROXY protocol off for this upstream",
        ),
        [first, ..] if !(0x21..0x7f).contains(first) => {
            mute(told("what came is not HTTP", PLAIN_HTTP))
        }
        _ => None,
    }
}

/// A head that goes on: within its limits?
fn partial(text: &[u8]) -> Scan {
    let has_line = text.contains(&b'\n');
    if !has_line && text.len() > LINE_MAX {
        return Scan::Refused(line_too_long());
    }
    if text.len() > HEAD_MAX { Scan::Refused(too_large()) } else { Scan::Partial }
}

fn check_line(method: &str, target: &str) -> Result<(), Refusal> {
    if target.len() > LINE_MAX {
        return Err(line_too_long());
    }
    // What is plainly a path needs no parser.
    if target.starts_with('/') && target.bytes().all(is_unreserved) {
        return Ok(());
    }
    // hyper's own check: what fails it would be answered without a word.
    match Uri::try_from(target) {
        Ok(uri) if has_form(method, target, &uri) => Ok(()),
        _ => Err(refusal(
            StatusCode::BAD_REQUEST,
            "the target of the request is malformed",
            "encode it: POST /call/<seed>/<function>",
        )),
    }
}

/// Whether a target is a path, a whole address, `*` for OPTIONS, or a host for CONNECT (RFC 9112, 3.2).
/// hyper takes `*` and a host for every method, and drops a fragment.
fn has_form(method: &str, target: &str, uri: &Uri) -> bool {
    let is_form = match method {
        "CONNECT" => true,
        "OPTIONS" if target == "*" => true,
        _ => target.starts_with('/') || uri.scheme().is_some(),
    };
    is_form && !target.contains('#')
}

/// Whether a Host is `host` or `host:port`, or empty (RFC 9110, 7.2; RFC 3986, 3.2.2).
fn is_host(value: &[u8]) -> bool {
    let is_literal = value.first() == Some(&b'[');
    let ends = |byte: &u8| *byte == if is_literal { b']' } else { b':' };
    let end = value.iter().position(ends);
    let end = if is_literal { end.map(|end| end + 1) } else { end };
    let (name, port) = value.split_at(end.unwrap_or(value.len()));
    let is_name = match name {
        [b'[', within @ .., b']'] => within.iter().all(|byte| *byte == b':' || is_of_name(*byte)),
        name => name.iter().all(|byte| is_of_name(*byte)),
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_name && is_port
}

/// Of a registered name: unreserved, a part of an escape, or a sub-delimiter.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte)
}

/// Of RFC 3986, 2.3, and what stands between the parts of a path.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~')
}

fn line_too_long() -> Refusal {
    refusal(
        StatusCode::URI_TOO_LONG,
        "the request line is over the limit of 8192 bytes",
        "send the input as the body",
    )
}

fn too_large() -> Refusal {
    refusal(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "the head is over the limit of 65536 bytes",
        "send fewer or shorter headers",
    )
}

fn of_fault(fault: Fault, text: &[u8]) -> Refusal {
    if let Some(refused) = other_version(text) {
        return refused;
    }
    let (reason, remedy) = match fault {
        Fault::TooManyHeaders => {
            return refusal(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the head has over 100 headers",
                "send fewer headers",
            );
        }
        Fault::HeaderName => (
            "a header's name is malformed, or a line is folded",
            "write each header on one line: Name: value",
        ),
        Fault::HeaderValue => {
            ("a header's value holds a control character", "write printable text into headers")
        }
        Fault::NewLine => ("a line of the head ends in no CR LF", "end each line with CR LF"),
        Fault::Token | Fault::Version | Fault::Status => {
            ("the request line is malformed", "POST /call/<seed>/<function> HTTP/1.1")
        }
    };
    refusal(StatusCode::BAD_REQUEST, reason, remedy)
}

/// A request line whose version is none that is spoken here; without any it is HTTP/0.9.
fn other_version(text: &[u8]) -> Option<Refusal> {
    let line = text.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let (method, target, version) = (words.next()?, words.next()?, words.next());
    let is_other = match version {
        None => method.iter().all(u8::is_ascii_uppercase) && target.first() == Some(&b'/'),
        Some(version) => {
            let is_known = matches!(version, b"HTTP/1.1" | b"HTTP/1.0");
            version.starts_with(b"HTTP/") && !is_known
        }
    };
    is_other.then(|| {
        refusal(
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            "this door speaks HTTP/1.1 and HTTP/1.0",
            "write the version: POST /call/<seed>/<function> HTTP/1.1",
        )
    })
}

/// RFC 9112, 6.3, without its leniences: what two readers could see differently is refused.
fn framing(headers: &[httparse::Header<'_>], is_old: bool) -> Result<Framing, Refusal> {
    let bad = |reason, remedy| refusal(StatusCode::BAD_REQUEST, reason, remedy);
    let (mut length, mut is_chunked, mut hosts, mut is_good_host) = (None, false, 0, true);
    for header in headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let found = read_length(header.value)?;
            if length.is_some_and(|before| before != found) {
                return Err(bad("two Content-Length headers differ", LENGTH_ONCE));
            }
            length = Some(found);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if is_old || is_chunked {
                let reason = "Transfer-Encoding stands twice, or in a request of HTTP/1.0";
                return Err(bad(reason, LENGTH_ONCE));
            }
            if !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                let reason = "a transfer coding other than chunked is not spoken here";
                return Err(refusal(StatusCode::NOT_IMPLEMENTED, reason, LENGTH_ONCE));
            }
            is_chunked = true;
        } else if header.name.eq_ignore_ascii_case("host") {
            hosts += 1;
            is_good_host = is_host(header.value.trim_ascii());
        }
    }
    if hosts > 1 {
        return Err(bad("the head has two Host headers", "send one Host"));
    }
    // RFC 9112, 3.2: also when the target is a whole address.
    if hosts == 0 && !is_old {
        return Err(bad("the head has no Host header", "send Host: <name>, which may be empty"));
    }
    if !is_good_host {
        return Err(bad("the Host header is malformed", "send Host: <name> or <name>:<port>"));
    }
    match (length, is_chunked) {
        (Some(_), true) => Err(bad("Content-Length stands beside Transfer-Encoding", LENGTH_ONCE)),
        (None, true) => Ok(Framing::Chunked),
        (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
    }
}

fn read_length(value: &[u8]) -> Result<u64, Refusal> {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        let reason = "Content-Length is not a number";
        return Err(refusal(StatusCode::BAD_REQUEST, reason, LENGTH_ONCE));
    }
    // Digits alone: only a number beyond 64 bits fails.
    let parsed = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
    // The largest of them mean something else to hyper.
    parsed.filter(|length| *length < u64::MAX - 2).ok_or(Refusal {
        slug: "input-too-large",
        ..refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is over every limit",
            "send less at once",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(bytes: &[u8]) -> u16 {
        match scan(bytes) {
            Scan::Refused(refused) => refused.status.as_u16(),
            Scan::Whole(..) => 200,
            Scan::Partial | Scan::Blank => 0,
        }
    }

    fn with(headers: &str) -> u16 {
        status(format!("POST /call/a/b HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n").as_bytes())
    }

    #[test]
    fn a_head_says_where_its_body_ends() {
        let head = b"POST /x HTTP/1.1\r\nhost:\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(scan(head), Scan::Whole(head.len() - 3, Framing::Length(3)));
        let head = b"\r\nPOST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n";
        assert_eq!(scan(head), Scan::Whole(head.len(), Framing::Chunked));
        let head = b"GET / HTTP/1.0\r\n\r\n";
        assert_eq!(scan(head), Scan::Whole(head.len(), Framing::Length(0)));
        assert_eq!(scan(b"POST /x HTTP/1.1\r\ncont"), Scan::Partial);
        assert_eq!(scan(b"\r\n"), Scan::Blank);
    }

    #[test]
    fn what_two_readers_could_frame_differently_is_refused() {
        assert_eq!(with("Content-Length: 3\r\nContent-Length: 3"), 200);
        assert_eq!(with("Content-Length: 3\r\nContent-Length: 4"), 400);
        assert_eq!(with("Content-Length: 3\r\nTransfer-Encoding: chunked"), 400);
        assert_eq!(with("Transfer-Encoding: chunked\r\nContent-Length: 3"), 400);
        assert_eq!(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400);
        assert_eq!(with("Transfer-Encoding: gzip, chunked"), 501);
        for length in ["", "abc", "+5", "-1", "5, 5", "0x5", "5 5"] {
            assert_eq!(with(&format!("Content-Length: {length}")), 400, "{length}");
        }
        assert_eq!(with("Content-Length: 99999999999999999999999"), 413);
        assert_eq!(with(&format!("Content-Length: {}", u64::MAX)), 413);
        assert_eq!(with("Host: a"), 400);
        assert_eq!(with("Host : a"), 400);
        assert_eq!(status(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    }

    #[test]
    fn a_request_has_one_host_that_is_well_formed() {
        for host in ["", "a", "a:1", "a:", "[::1]", "[::1]:80", "a_b.c.", "%2ftmp%2Fsock", "a,b"] {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(status(head.as_bytes()), 200, "{host}");
        }
        for host in
            ["a/b", "a b", "me@a", "a:b", "::1", "[::1", "[::1]80", "[a/b]", "a#b", "\u{fc}"]
        {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(status(head.as_bytes()), 400, "{host}");
        }
        assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status(b"GET http://a/ HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status(b"GET / HTTP/1.0\r\n\r\n"), 200);
    }

    #[test]
    fn a_target_has_one_of_four_forms() {
        for (line, expected) in [
            ("GET /a?b=%20", 200),
            ("GET http://a/b", 200),
            ("GET http://a", 200),
            ("OPTIONS *", 200),
            ("CONNECT a:80", 200),
            ("GET *", 400),
            ("GET a", 400),
            ("GET a:80", 400),
            ("GET /a#b", 400),
            ("GET http://a/b#c", 400),
        ] {
            let head = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(status(head.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn what_is_malformed_has_the_status_of_the_rfc() {
        assert_eq!(with("a: b\r\n c"), 400);
        assert_eq!(with("a: b\0c"), 400);
        assert_eq!(status(b"GET /\0 HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status(b"GET /\r\n"), 505);
        assert_eq!(status(b"GET / HTTP/2.0\r\n\r\n"), 505);
        assert_eq!(status(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
        assert_eq!(status(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9000)).as_bytes()), 414);
        assert_eq!(status(format!("GET /{}", "a".repeat(9000)).as_bytes()), 414);
        assert_eq!(with(&"a: b\r\n".repeat(101)), 431);
        assert_eq!(with(&format!("a: {}", "b".repeat(HEAD_MAX))), 431);
        assert_eq!(status(format!("GET / HTTP/1.1\r\na: {}", "b".repeat(70_000)).as_bytes()), 431);
    }

    #[test]
    fn what_is_no_http_is_told_apart() {
        let is_mute = |bytes: &[u8]| match scan(bytes) {
            Scan::Refused(refused) => refused.is_mute,
            _ => panic!("{bytes:?} is taken"),
        };
        assert!(is_mute(b"\x16\x03\x01\x02\x00\x01"));
        assert!(is_mute(b"\x00\x01"));
        assert!(!is_mute(b"SSH-2.0-x\r\n"));
        assert!(!is_mute(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"));
    }
}
