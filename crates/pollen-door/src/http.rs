//! Requests that a component answers: `/http/<seed>/...`, whatever the method.
//!
//! Decides: what of a request reaches the component, and what of its answer the client.
//! Does not know: where the component runs, nor what it answers.
//! Invariants: of an answer that is streamed a client holds what its account covers, piece by piece, and
//!     the guest waits for the next; a client that goes away ends the guest.
//! Source: docs/design/protocol.md#http-through-a-call; RFC 9110 (7.6.1, 9.2.2), 9112.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{Full, StreamBody};
use hyper::{
    HeaderMap, Method, Request as HttpRequest, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue},
};
use pollen_plane::{
    CallError, Extras, Outlet, Plane, Principal, Reply, Request, SeedRef, Sending, Sink,
};
use pollen_wire::{
    frame::MAX_HEAD,
    http::{AnswerHead, RequestHead},
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    address::percent_decoded,
    answer::{no_such_seed, problem, problem_as},
    contents::Sent,
    limits::{FREE_BYTES, PART},
    reading::unknown_path,
    visitors::{Account, Hold},
};

/// Where components answer.
pub(crate) const HTTP: &str = "/http/";
/// What a component puts before its own paths to write a link that comes back to it.
const PREFIX: &str = "x-forwarded-prefix";
/// Lines that are of one connection alone (RFC 9110, 7.6.1), beside those that `Connection` names.
const OF_CONNECTION: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];
/// Lines that are for the door.
const OF_DOOR: [&str; 2] = ["pollen-timeout", "pollen-idempotent"];

/// The answer to a request that no component answers.
type Refused = Box<Response<Full<Bytes>>>;

/// What a path under [`HTTP`] means.
struct Target<'a> {
    seed: SeedRef,
    /// The path up to the seed's name, as it was sent.
    prefix: &'a str,
    /// The rest, as it was sent.
    path: &'a str,
}

impl<'a> Target<'a> {
    fn of(path: &'a str) -> Result<Self, CallError> {
        let rest = path.strip_prefix(HTTP).unwrap_or_default();
        let name = rest.split('/').next().unwrap_or_default();
        let decoded = percent_decoded(name).filter(|name| !name.is_empty());
        let seed = SeedRef::parse(&decoded.ok_or_else(unknown_path)?);
        let (prefix, path) = path.split_at_checked(HTTP.len() + name.len()).unwrap_or((path, ""));
        Ok(Self { seed, prefix, path: if path.is_empty() { "/" } else { path } })
    }
}

/// An answer on its way.
struct Answer {
    pieces: mpsc::Receiver<Bytes>,
    call: AbortOnDropHandle<Reply>,
    /// How the call ended; pieces that it wrote may still be there.
    ended: Option<Reply>,
    account: Account,
}

/// What comes of an answer next.
enum Next {
    Piece(Bytes),
    /// The call is over; its output is the last piece.
    Ended(Reply),
}

/// A request that was read.
pub(crate) struct Asked<'a> {
    pub(crate) plane: &'a Plane,
    pub(crate) account: &'a Account,
    pub(crate) seed: &'a SeedRef,
    /// It is a file, which answers nothing.
    pub(crate) is_blob: bool,
    pub(crate) method: &'a Method,
    pub(crate) head: Bytes,
}

/// Which seed a path means.
pub(crate) fn seed_of(path: &str) -> Result<SeedRef, CallError> {
    Target::of(path).map(|target| target.seed)
}

/// Whether a component is to answer. At the Host of a site only one of the same publisher: its scripts
/// have the site's origin, and get its cookies.
pub(crate) fn is_asked(plane: &Plane, site: Option<&str>, path: &str) -> bool {
    if !path.starts_with(HTTP) {
        return false;
    }
    let (Some(site), Ok(seed)) = (site, seed_of(path)) else { return true };
    let tables = plane.tables().load();
    let asked = match &seed {
        SeedRef::Name(name) => tables.named(name),
        SeedRef::Hash(hash) => tables.seed(hash),
    };
    let asked = asked.map(|entry| entry.row.publisher);
    asked == tables.named(site).map(|entry| entry.row.publisher)
}

/// Has a component answer `call`, whose body is held by `hold`. `whole` binds an output that is not
/// streamed to the client's account.
pub(crate) async fn answer(
    asked: &Asked<'_>,
    call: Request,
    hold: Hold,
    whole: impl Fn(&mut Reply),
) -> Result<Response<Sent>, Refused> {
    let who = call.principal;
    let mut answer = Answer::begin(asked, call, hold);
    // Collected until the head is whole.
    let mut begin = BytesMut::new();
    loop {
        match answer.next().await {
            Next::Piece(piece) => begin.extend_from_slice(&piece),
            Next::Ended(mut reply) => {
                whole(&mut reply);
                return at_once(asked, who, &begin, &reply);
            }
        }
        let Some((mut response, length)) = response_of(&begin)? else { continue };
        let first = begin.split_off(length).freeze();
        if has_no_body(asked.method, response.status()) {
            // What it does behind its head is not cut short.
            let reply = answer.end().await;
            if let Err(error) = &reply.result {
                return Err(Box::new(failed(asked, who, error, &reply)));
            }
        } else {
            *response.body_mut() = streamed(first, answer);
        }
        return Ok(response);
    }
}

/// An answer that was over before its head was whole: `begin` was streamed of it.
fn at_once(
    asked: &Asked<'_>,
    who: Principal,
    begin: &[u8],
    reply: &Reply,
) -> Result<Response<Sent>, Refused> {
    let output = match &reply.result {
        Ok((output, 0)) if begin.is_empty() => output.clone(),
        Ok((output, 0)) => [begin, output].concat().into(),
        Ok((_, status)) => return Err(malformed(&format!("the function returned {status}"))),
        Err(error) => return Err(Box::new(failed(asked, who, error, reply))),
    };
    let Some((mut response, length)) = response_of(&output)? else {
        return Err(malformed("the answer ends within its head"));
    };
    if !has_no_body(asked.method, response.status()) {
        // hyper writes that of the body, and would believe another one.
        response.headers_mut().remove(CONTENT_LENGTH);
        *response.body_mut() = Sent::Left(Full::new(output.slice(length..)));
    }
    Ok(response)
}

/// The answer to a request that no component answered.
fn failed(
    asked: &Asked<'_>,
    who: Principal,
    error: &CallError,
    reply: &Reply,
) -> Response<Full<Bytes>> {
    let (node, attempts) = (reply.node.as_ref(), reply.attempts);
    match &*error.slug {
        // A seed that stopped being public meanwhile.
        "denied" if who == Principal::Anonymous => problem(&no_such_seed(), None, 0),
        "function-not-found" if !asked.is_blob => {
            let seed = asked.seed;
            let reason = format!("the seed \"{seed}\" answers no requests of HTTP");
            let remedy = format!("call one of its functions: POST /call/{seed}/<function>");
            problem(&CallError::refused("function-not-found", reason, &remedy), node, attempts)
        }
        slug if slug.starts_with("guest-") => {
            problem_as(StatusCode::BAD_GATEWAY, error, node, attempts)
        }
        _ => problem(error, node, attempts),
    }
}

impl Answer {
    /// Begins the call of a request.
    fn begin(asked: &Asked<'_>, mut call: Request, hold: Hold) -> Self {
        let (to, pieces) = mpsc::channel(1);
        let account = asked.account.clone();
        let outlet = Outlet::new(Pieces { to, account: account.clone() });
        call.extras = Some(Arc::new(Extras { head: asked.head.clone(), outlet: Some(outlet) }));
        let plane = asked.plane.clone();
        let call = tokio::spawn(async move {
            // Of the body, which is held as long as the call may need it.
            let _hold = hold;
            plane.call(call).await
        });
        Self { pieces, call: AbortOnDropHandle::new(call), ended: None, account }
    }

    async fn next(&mut self) -> Next {
        if self.ended.is_none() {
            tokio::select! {
                biased;
                Some(piece) = self.pieces.recv() => return Next::Piece(piece),
                ended = &mut self.call => {
                    self.ended = Some(ended.unwrap_or_else(|_| Reply::refused(lost())));
                }
            }
        }
        match (self.pieces.try_recv(), self.ended.take()) {
            (Ok(piece), ended) => {
                self.ended = ended;
                Next::Piece(piece)
            }
            (Err(_), Some(reply)) => Next::Ended(reply),
            (Err(_), None) => Next::Ended(Reply::refused(lost())),
        }
    }

    /// Drops what else comes; how the call ended.
    async fn end(&mut self) -> Reply {
        loop {
            if let Next::Ended(reply) = self.next().await {
                return reply;
            }
        }
    }
}

/// The way of an answer's pieces to its client.
struct Pieces {
    to: mpsc::Sender<Bytes>,
    account: Account,
}

impl Sink for Pieces {
    fn send(&self, piece: &Bytes) -> Sending<'_> {
        let mut piece = piece.slice(..piece.len().min(PART));
        Box::pin(async move {
            let mut hold = Hold::default();
            // Who has no room goes on in pieces that are not counted.
            if !self.account.cover(&mut hold, piece.len()).await {
                piece.truncate(FREE_BYTES);
            }
            let length = piece.len();
            if self.to.send(hold.bind(piece)).await.is_err() { 0 } else { length }
        })
    }
}

/// The body of an answer whose head was sent: its first bytes, and what comes.
fn streamed(first: Bytes, answer: Answer) -> Sent {
    let parts = stream::unfold((Some(first), Some(answer)), |(first, answer)| async move {
        if let Some(first) = first.filter(|first| !first.is_empty()) {
            return Some((Ok(Frame::data(first)), (None, answer)));
        }
        let mut answer = answer?;
        match answer.next().await {
            Next::Piece(piece) => Some((Ok(Frame::data(piece)), (None, Some(answer)))),
            Next::Ended(reply) => match reply.result {
                Ok((last, _)) => {
                    let mut hold = Hold::default();
                    while !answer.account.cover(&mut hold, last.len()).await {}
                    Some((Ok(Frame::data(hold.bind(last))), (None, None)))
                }
                // The connection breaks off: its reader sees that the body is short.
                Err(error) => {
                    tracing::info!(slug = %error.slug, reason = %error.reason, "an answer broke off");
                    Some((Err(io::Error::other(error.reason.to_string())), (None, None)))
                }
            },
        }
    });
    Sent::Right(StreamBody::new(Box::pin(parts)))
}

/// Whether an answer's body is not sent, whatever there is (RFC 9112, 6.3).
fn has_no_body(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
}

/// The request head of a call. The body was read, so that its length is known.
pub(crate) fn head_of(request: &HttpRequest<Incoming>, length: usize) -> Result<Bytes, Refused> {
    let (uri, headers) = (request.uri(), request.headers());
    let target = Target::of(uri.path()).map_err(|error| Box::new(problem(&error, None, 0)))?;
    let path = match uri.query() {
        Some(query) => format!("{}?{query}", target.path),
        None => target.path.to_owned(),
    };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = uri.authority().map(|authority| authority.as_str()).or(host);
    let own = [HOST, CONTENT_LENGTH, EXPECT];
    let passes = |name: &HeaderName| {
        !own.contains(name)
            && name != PREFIX
            && !OF_DOOR.contains(&name.as_str())
            && !is_of_connection(headers, name)
    };
    let lines = headers.iter().filter(|(name, _)| passes(name));
    let mut fields: Vec<(&str, &[u8])> =
        lines.map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let digits = length.to_string();
    if length > 0 || headers.contains_key(CONTENT_LENGTH) {
        fields.push((CONTENT_LENGTH.as_str(), digits.as_bytes()));
    }
    fields.push((PREFIX, target.prefix.as_bytes()));
    let head = RequestHead {
        method: request.method().as_str(),
        scheme: "http",
        authority: authority.unwrap_or("localhost"),
        path: &path,
        fields,
    };
    let mut out = Vec::new();
    head.encode(&mut out);
    if out.len() > MAX_HEAD {
        let reason = format!("the head of the request is over the limit of {MAX_HEAD} bytes");
        let error = CallError::refused("input-too-large", reason, "send fewer or shorter headers");
        let code = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Box::new(problem_as(code, &error, None, 0)));
    }
    Ok(out.into())
}

/// A response without its body, and the bytes of its head in an output.
type Begun = (Response<Sent>, usize);

/// The response that the begin of an output says; `None` while more has to come.
fn response_of(output: &[u8]) -> Result<Option<Begun>, Refused> {
    let (head, length) = match AnswerHead::split(output) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(None),
        Err(error) => return Err(malformed(&error.to_string())),
    };
    let mut headers = HeaderMap::with_capacity(head.fields.len());
    for (name, value) in &head.fields {
        let name = HeaderName::from_bytes(name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) else {
            return Err(malformed("a header is not valid"));
        };
        headers.append(name, value);
    }
    let mut response = Response::new(Sent::Left(Full::default()));
    *response.status_mut() =
        StatusCode::from_u16(head.status).map_err(|_| malformed("the status is not valid"))?;
    for (name, value) in &headers {
        if !is_of_connection(&headers, name) {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    Ok(Some((response, length)))
}

/// Whether a line is of one connection alone.
fn is_of_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    let is_named = |line: &HeaderValue| {
        let words = line.to_str().unwrap_or_default().split(',');
        words.into_iter().any(|word| word.trim().eq_ignore_ascii_case(name.as_str()))
    };
    OF_CONNECTION.contains(&name.as_str()) || headers.get_all(CONNECTION).iter().any(is_named)
}

/// A call that ended in no way that there is.
fn lost() -> CallError {
    CallError::refused("internal", "the end of the call was lost", "see the node's log")
        .executed(true)
}

/// What a function gave is no answer of HTTP.
fn malformed(what: &str) -> Refused {
    let reason = format!("what the seed answered is not HTTP: {what}");
    let remedy = "seed a component that exports wasi:http/incoming-handler";
    let error = CallError::refused("guest-failed", reason, remedy).executed(true);
    Box::new(problem_as(StatusCode::BAD_GATEWAY, &error, None, 0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_path_is_cut_behind_the_name() {
        for (path, prefix, rest) in [
            ("/http/api", "/http/api", "/"),
            ("/http/api/", "/http/api", "/"),
            ("/http/api/a%2Fb/", "/http/api", "/a%2Fb/"),
            ("/http/a%70i//x", "/http/a%70i", "//x"),
        ] {
            let target = Target::of(path).unwrap();
            assert_eq!(
                (&*target.seed.to_string(), target.prefix, target.path),
                ("api", prefix, rest)
            );
        }
        for bad in ["/http/", "/http//x", "/http/%zz/"] {
            assert!(Target::of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_of_the_connection_go_no_further() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("close, X-Own"));
        for (name, is_of) in
            [("connection", true), ("x-own", true), ("upgrade", true), ("x-other", false)]
        {
            assert_eq!(is_of_connection(&headers, &HeaderName::from_static(name)), is_of, "{name}");
        }
    }

    #[test]
    fn an_answer_loses_what_is_of_its_connection() {
        let mut out = Vec::new();
        let fields = vec![("upgrade", &b"x"[..]), ("a", b"1"), ("a", b"2")];
        AnswerHead { status: 201, fields }.encode(&mut out);
        let (response, length) = response_of(&out).unwrap().unwrap();
        assert_eq!((response.status(), length), (StatusCode::CREATED, out.len()));
        assert_eq!(response.headers().len(), 2);
        assert_eq!(response.headers().get_all("a").iter().count(), 2);
        let fields = vec![("a b", &b"x"[..])];
        let mut bad = Vec::new();
        AnswerHead { status: 200, fields }.encode(&mut bad);
        let refused = response_of(&bad).err().unwrap();
        assert_eq!(refused.status(), StatusCode::BAD_GATEWAY);
    }
}
