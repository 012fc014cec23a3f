//! HTTP at the proxy door: CONNECT, and requests of an absolute URL.
//!
//! Decides: which request is one to a proxy, and what of its head the service is told.
//! Does not know: bodies: what follows the head passes as it is.
//! Invariants: a request in origin form is refused: a page of a browser can send one here, by a name
//!     of its own that leads to this machine. One request a connection: the service is told to close.
//! Source: RFC 9110 section 9.3.6, RFC 9112 section 3.2.2.

use std::io;

use base64::{Engine, engine::general_purpose::STANDARD};
use pollen_net::Refusal;

use super::{
    asked::{Asked, Manners, Reading, foreign, say},
    credentials::Credentials,
    names,
};
use crate::{
    limits::{PROXY_HEAD_BYTES, WRONG},
    opener::Want,
    refusal::refused,
    rest::Rest,
    shared::Shared,
};

const HEADERS: usize = 64;
/// Of one hop only (RFC 9110 section 7.6.1), or meant for this proxy.
const DROPPED: [&str; 4] = ["Proxy-Connection", "Proxy-Authorization", "Keep-Alive", "Connection"];

/// Reads the head of a request.
pub(super) async fn ask(
    shared: &Shared,
    mut read: Reading<'_>,
    credentials: Option<&Credentials>,
) -> io::Result<Asked> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&read.bytes) {
            Ok(httparse::Status::Complete(length)) => {
                let told = header(&request, "Proxy-Authorization");
                if credentials.is_some_and(|held| !may_come(held, told)) {
                    tokio::time::sleep(WRONG).await;
                    say(read.near, &challenge()).await;
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                let host = |host: &str| names::read(&shared.plane.tables().load(), host);
                let judged = judge(&request, host);
                let mut rest = read.after(length);
                return Ok(match judged {
                    Judged::Connect(want) => Asked { want, rest, manners: &Connecting },
                    Judged::Fetch(want, head) => {
                        rest.bytes.splice(..0, head);
                        Asked { want, rest, manners: &Fetching }
                    }
                });
            }
            Ok(httparse::Status::Partial) if read.bytes.len() < PROXY_HEAD_BYTES => {}
            Ok(httparse::Status::Partial) => return Ok(bad("the head is too large")),
            Err(_) => return Ok(bad("the head is not one of HTTP/1.1")),
        }
        read.more().await?;
    }
}

/// What a client is told whose password is wrong or missing: a browser asks its user then.
fn challenge() -> Vec<u8> {
    let remedy = "as in: curl -x socks5h://USER:PASSWORD@HOST:PORT";
    let refusal = refused("denied", "this proxy wants a user and a password", remedy);
    answer(
        "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"pollen\"",
        &refusal,
    )
}

/// Whether a header names a user and a password that may come (RFC 7617).
fn may_come(credentials: &Credentials, told: Option<&str>) -> bool {
    let basic = told.and_then(|told| told.split_once(' '));
    let Some((_, word)) = basic.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic")) else {
        return false;
    };
    let Ok(pair) = STANDARD.decode(word.trim()) else { return false };
    let Some(colon) = pair.iter().position(|byte| *byte == b':') else { return false };
    let (user, password) = pair.split_at(colon);
    credentials.lets(user, password.get(1..).unwrap_or_default())
}

fn bad(reason: &str) -> Asked {
    let want = Err(refused("bad-request", reason, ""));
    Asked { want, rest: Rest::default(), manners: &Fetching }
}

enum Judged {
    Connect(Result<Want, Refusal>),
    /// With the head as the service reads it.
    Fetch(Result<Want, Refusal>, Vec<u8>),
}

fn judge(
    request: &httparse::Request<'_, '_>,
    name: impl Fn(&str) -> Result<Want, Refusal>,
) -> Judged {
    let (method, target) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
    if method == "CONNECT" {
        return Judged::Connect(name(host_of(target)));
    }
    let Some(rest) = strip_scheme(target) else {
        let reason = "a request that is not one to a proxy";
        return Judged::Fetch(Err(foreign(reason)), Vec::new());
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let told = header(request, "host");
    if told.is_some_and(|told| !host_of(told).eq_ignore_ascii_case(host_of(authority))) {
        let refusal = refused("bad-request", "Host and URL name different hosts", "");
        return Judged::Fetch(Err(refusal), Vec::new());
    }
    Judged::Fetch(name(host_of(authority)), head(request, method, authority, path))
}

fn strip_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    scheme.eq_ignore_ascii_case("http").then_some(rest)
}

/// The host in `HOST:PORT`; the port is that of the service in any case. No user name is taken.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn header<'a>(request: &httparse::Request<'_, 'a>, name: &str) -> Option<&'a str> {
    let found = request.headers.iter().find(|held| held.name.eq_ignore_ascii_case(name));
    found.and_then(|held| std::str::from_utf8(held.value).ok())
}

/// The request in origin form. One that asks for another protocol keeps its connection.
fn head(request: &httparse::Request<'_, '_>, method: &str, authority: &str, path: &str) -> Vec<u8> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut out = format!("{method} {slash}{path} HTTP/1.1\r\n").into_bytes();
    let upgrades = header(request, "upgrade").is_some();
    for held in request.headers.iter() {
        let is = |name: &&str| held.name.eq_ignore_ascii_case(name);
        if !DROPPED.iter().any(is) || (upgrades && is(&"Connection")) {
            out.extend_from_slice(held.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(held.value);
            out.extend_from_slice(b"\r\n");
        }
    }
    if header(request, "host").is_none() {
        out.extend_from_slice(format!("Host: {authority}\r\n").as_bytes());
    }
    out.extend_from_slice(if upgrades { b"\r\n" } else { b"Connection: close\r\n\r\n" });
    out
}

struct Connecting;
struct Fetching;

impl Manners for Connecting {
    fn opened(&self) -> Vec<u8> {
        b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec()
    }

    fn refused(&self, refusal: &Refusal) -> Vec<u8> {
        problem(refusal)
    }
}

impl Manners for Fetching {
    fn opened(&self) -> Vec<u8> {
        Vec::new()
    }

    fn refused(&self, refusal: &Refusal) -> Vec<u8> {
        problem(refusal)
    }
}

/// An error as a person reads it; the statuses are those of the table of errors.
fn problem(refusal: &Refusal) -> Vec<u8> {
    let status = match refusal.slug.as_str() {
        "usage" | "bad-request" => "400 Bad Request",
        "denied" => "403 Forbidden",
        "service-not-found" | "peer-not-found" => "404 Not Found",
        "ambiguous" => "409 Conflict",
        "overloaded" => "503 Service Unavailable",
        _ => "502 Bad Gateway",
    };
    answer(status, refusal)
}

fn answer(status: &str, refusal: &Refusal) -> Vec<u8> {
    let mut text = format!("error: {}\n", refusal.reason);
    if !refusal.remedy.is_empty() {
        text += &format!("  {}\n", refusal.remedy);
    }
    text += &format!("  [{}]\n", refusal.slug);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    (head + &text).into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn want(host: &str) -> Result<Want, Refusal> {
        match host.strip_suffix(".pln") {
            Some(name) => Ok(Want::stream(name, None)),
            None => Err(foreign(host)),
        }
    }

    fn judged(text: &str) -> (String, String) {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        assert!(request.parse(text.as_bytes()).unwrap().is_complete());
        let (want, head) = match judge(&request, want) {
            Judged::Connect(want) => (want, b"CONNECT".to_vec()),
            Judged::Fetch(want, head) => (want, head),
        };
        let said = want.map_or_else(|refusal| refusal.slug, |want| want.service.to_string());
        (said, String::from_utf8(head).unwrap())
    }

    #[test]
    fn a_url_becomes_a_path_and_what_is_meant_for_the_proxy_is_left_out() {
        let asked = "GET http://Web.pln:80/a?b HTTP/1.1\r\nHost: web.pln\r\nProxy-Connection: keep-alive\r\nConnection: keep-alive\r\nX: y\r\n\r\n";
        let (service, head) = judged(&asked.replace("Web", "web"));
        assert_eq!(service, "web");
        assert_eq!(head, "GET /a?b HTTP/1.1\r\nHost: web.pln\r\nX: y\r\nConnection: close\r\n\r\n");
        let (_, head) = judged("GET http://web.pln HTTP/1.0\r\n\r\n");
        assert_eq!(head, "GET / HTTP/1.1\r\nHost: web.pln\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn what_a_page_of_a_browser_can_send_is_refused() {
        for asked in [
            "GET / HTTP/1.1\r\nHost: evil.example:1080\r\n\r\n",
            "POST /x HTTP/1.1\r\nHost: web.pln\r\n\r\n",
            "GET https://web.pln/ HTTP/1.1\r\nHost: web.pln\r\n\r\n",
            "GET http://10.0.0.1/ HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n",
            "CONNECT example.com:443 HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(judged(asked).0, "usage", "{asked}");
        }
        let (slug, _) = judged("GET http://web.pln/ HTTP/1.1\r\nHost: evil.example\r\n\r\n");
        assert_eq!(slug, "bad-request");
    }

    #[test]
    fn another_protocol_keeps_its_connection() {
        let asked = "GET http://chat.pln/ws HTTP/1.1\r\nHost: chat.pln\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let (_, head) = judged(asked);
        assert!(head.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), "{head}");
        assert_eq!(
            judged("CONNECT web.pln:443 HTTP/1.1\r\n\r\n"),
            ("web".into(), "CONNECT".into())
        );
    }
}
