//! Files over HTTP: what comes in is kept, and blobs go out. Neither ever stands in memory.
//!
//! Decides: which headers a blob goes out with, and which part of it when one is asked for.
//! Does not know: who may read it, nor where it comes from (`pollen-plane`).
//! Source: RFC 9110 (5.3, 8.8.3, 13.1, 14).

use std::{io, ops::Range, time::Instant};

use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream::BoxStream};
use http_body_util::{Either, Full, StreamBody};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Body as _, Frame, Incoming},
    header::{
        ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
        IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE,
    },
};
use pollen_net::NetError;
use pollen_plane::{
    Blob, ByteRange, CallError, Plane, Principal, SeedRef,
    hex::{hex, parse_hex},
    limits::STORE_REMEDY,
};
use pollen_wire::Id;
use tokio::sync::mpsc;

use crate::{
    address::percent_decoded,
    answer::{no_such_seed, plain, problem},
    body::{self, NoBody, Terms},
    limits::MAX_BUDGET,
    visitors::Account,
};

/// Where blobs are read.
pub(crate) const BLOB: &str = "/blob/";
/// The line of a head that says for whom an upload is sealed.
const RECIPIENTS: &str = "pollen-recipients";
/// Parts of an upload that wait for the disk.
const WAITING: usize = 16;

/// What is sent: bytes that are there, or a file as it is read.
pub(crate) type Sent =
    Either<Full<Bytes>, StreamBody<BoxStream<'static, io::Result<Frame<Bytes>>>>>;

/// Where the bytes of a part are.
pub(crate) enum Source {
    Blob(Blob),
    /// The whole part, in memory.
    Memory(Bytes),
}

/// What is sent of a blob: the bytes of `span`, as a whole of their own.
pub(crate) struct Part<'a> {
    pub(crate) span: Range<u64>,
    /// The entity tag, quoted.
    pub(crate) tag: &'a str,
    pub(crate) media: &'a str,
}

/// What an upload is to be.
pub(crate) enum Upload {
    /// Bytes that are kept as they come.
    Plain,
    /// The same, given away for the specs of all nodes and not for those of this one alone.
    ForAnybody,
    /// Bytes that are sealed for these nodes.
    Sealed(Vec<Id>),
    /// The sealed blob of this name, sealed anew for these nodes; no bytes come.
    Again(String, Vec<Id>),
}

impl Upload {
    /// What a request asks for: `pollen-recipients` has the ids of nodes, and `?reseal=` a name.
    pub(crate) fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, CallError> {
        let mut nodes = Vec::new();
        for line in headers.get_all(RECIPIENTS) {
            for text in line.to_str().unwrap_or_default().split(',').map(str::trim) {
                let node = parse_hex(text).ok_or_else(|| {
                    let reason =
                        format!("{RECIPIENTS} has {text:?}, which is not the id of a node");
                    CallError::refused("bad-request", reason, "give ids of 64 hex digits")
                })?;
                nodes.push(node);
            }
        }
        let query = uri.query().unwrap_or_default();
        let name = query.split('&').find_map(|pair| pair.strip_prefix("reseal="));
        Ok(match name {
            Some(name) => {
                let name = percent_decoded(name).unwrap_or_default().into_owned();
                Self::Again(name, nodes)
            }
            None if nodes.is_empty() && is_for_anybody(query) => Self::ForAnybody,
            None if nodes.is_empty() => Self::Plain,
            None => Self::Sealed(nodes),
        })
    }
}

/// Keeps a body, whatever it is, as it comes or sealed; the answer has its id and size.
pub(crate) async fn upload(
    plane: &Plane,
    account: Account,
    asked: Upload,
    incoming: &mut Incoming,
) -> Result<Response<Full<Bytes>>, NoBody> {
    let content = plane.net().content();
    if let Err(error) = content.check_room(incoming.size_hint().lower()) {
        return Ok(problem(&CallError::of_store(&error), None, 0));
    }
    // Only the owner uploads: nothing is held on an account, and there is no rate.
    let terms = Terms {
        most: usize::MAX,
        ends: Instant::now() + MAX_BUDGET,
        account,
        has_rate: false,
        too_large: |_| CallError::refused("storage-full", "more than any disk holds", STORE_REMEDY),
    };
    let (to, parts) = mpsc::channel(WAITING);
    let kept = async {
        match asked {
            Upload::Plain => {
                let kept = content.add_parts(parts).await;
                kept.map_err(|error| CallError::of_store(&error))
            }
            Upload::ForAnybody => {
                let noted = async {
                    let (id, size) = content.add_parts(parts).await?;
                    content.note_for(id, None).await?;
                    Ok::<_, NetError>((id, size))
                };
                noted.await.map_err(|error| CallError::of_store(&error))
            }
            Upload::Sealed(nodes) => plane.add_sealed(nodes, parts).await,
            Upload::Again(name, nodes) => plane.reseal(&SeedRef::parse(&name), nodes).await,
        }
    };
    let (passed, kept) = tokio::join!(body::pass(incoming, &terms, to), kept);
    passed?;
    Ok(match kept {
        Ok((content, size)) => {
            let answer = serde_json::json!({"content": hex(&content), "size": size});
            plain(StatusCode::OK, "application/json", answer.to_string().into())
        }
        Err(error) => problem(&error, None, 0),
    })
}

/// Sends the blob of this name or hash, or one range of it. `?bwlimit=` is how fast it may come from
/// its holders, bytes a second; a stranger has no say in that.
pub(crate) async fn blob(
    plane: &Plane,
    who: Principal,
    request: &Request<Incoming>,
    name: &str,
) -> Response<Sent> {
    let (method, headers) = (request.method(), request.headers());
    let limit = match bwlimit(request.uri().query().unwrap_or_default()) {
        Some(_) if who == Principal::Anonymous => 0,
        Some(limit) => limit,
        None => {
            let remedy = "write the bytes a second, for instance ?bwlimit=1000000";
            let error = CallError::refused("bad-request", "bwlimit is not a number", remedy);
            return problem(&error, None, 0).map(Sent::Left);
        }
    };
    match plane.open_blob(&SeedRef::parse(name), who, limit).await {
        Ok(blob) => {
            let tag = format!("\"{}\"", hex(&blob.content()));
            let media =
                if blob.is_site() { "application/x-tar" } else { "application/octet-stream" };
            let part = Part { span: 0..blob.size(), tag: &tag, media };
            send(method, headers, Source::Blob(blob), part)
        }
        // A stranger learns nothing of what is not public.
        Err(_) if who == Principal::Anonymous => problem(&no_such_seed(), None, 0).map(Sent::Left),
        Err(error) => problem(&error, None, 0).map(Sent::Left),
    }
}

/// Whether an upload is for the specs of all nodes.
fn is_for_anybody(query: &str) -> bool {
    query.split('&').any(|pair| pair == "for=anybody")
}

/// The limit that a query names, bytes a second; 0 without one, `None` for what is no number.
fn bwlimit(query: &str) -> Option<u64> {
    let mut named = query.split('&').filter_map(|pair| pair.strip_prefix("bwlimit="));
    named.next().map_or(Some(0), |text| text.parse().ok())
}

/// Sends a part of a blob, or one range of it; nothing to who has it.
pub(crate) fn send(
    method: &Method,
    headers: &HeaderMap,
    source: Source,
    part: Part<'_>,
) -> Response<Sent> {
    let Part { span, tag, media } = part;
    let size = span.end - span.start;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let mut response = Response::new(Sent::Left(Full::default()));
    let set = |response: &mut Response<Sent>, name, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            response.headers_mut().insert(name, value);
        }
    };
    set(&mut response, ETAG, tag);
    // Lines of one name are one list.
    let has = |name, compares| {
        let mut lists = headers.get_all(name).iter().filter_map(|tags| tags.to_str().ok());
        lists.any(|tags| names(tags, tag, compares))
    };
    if headers.contains_key(IF_MATCH) && !has(IF_MATCH, Compares::Strongly) {
        *response.status_mut() = StatusCode::PRECONDITION_FAILED;
        return response;
    }
    if has(IF_NONE_MATCH, Compares::Weakly) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    set(&mut response, ACCEPT_RANGES, "bytes");
    set(&mut response, CONTENT_TYPE, media);
    let is_same = headers.get(IF_RANGE).is_none_or(|held| held.as_bytes() == tag.as_bytes());
    let asked = text(RANGE).filter(|_| *method == Method::GET && is_same);
    let range = match asked.map_or(ByteRange::All, |range| ByteRange::read(range, size)) {
        ByteRange::All => 0..size,
        ByteRange::Some(range) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let last = range.end - 1;
            set(&mut response, CONTENT_RANGE, &format!("bytes {}-{last}/{size}", range.start));
            range
        }
        ByteRange::None => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            set(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
            return response;
        }
    };
    set(&mut response, CONTENT_LENGTH, &(range.end - range.start).to_string());
    if *method != Method::HEAD {
        *response.body_mut() = body_of(source, span.start, range);
    }
    response
}

/// The bytes within `range` of a part that begins at `start` in its blob.
fn body_of(source: Source, start: u64, range: Range<u64>) -> Sent {
    match source {
        Source::Memory(whole) => {
            let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(whole.len());
            Sent::Left(Full::new(whole.slice(at(range.start)..at(range.end))))
        }
        Source::Blob(blob) => {
            // A body that breaks off closes the connection: its reader sees that it is short.
            let parts = blob.read(start + range.start..start + range.end);
            let parts = parts.map_ok(Frame::data).map_err(|error| {
                tracing::warn!(reason = %error.reason, "a blob broke off while it was sent");
                io::Error::other(error.reason)
            });
            Sent::Right(StreamBody::new(Box::pin(parts)))
        }
    }
}

/// How entity tags are compared (RFC 9110, 8.8.3.2). Ours are strong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compares {
    Strongly,
    /// A weak tag is the strong one with the same text.
    Weakly,
}

/// Whether a list of entity tags has this one.
fn names(tags: &str, tag: &str, compares: Compares) -> bool {
    tags.split(',').map(str::trim).any(|held| {
        let text = held.strip_prefix("W/").filter(|_| compares == Compares::Weakly);
        held == "*" || text.unwrap_or(held) == tag
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_of_bytes() {
        for (query, limit) in [
            ("", Some(0)),
            ("a=b&bwlimit=4096", Some(4096)),
            ("bwlimit=", None),
            ("bwlimit=1M", None),
        ] {
            assert_eq!(bwlimit(query), limit, "{query}");
        }
    }

    #[test]
    fn a_list_of_tags_is_read() {
        for (tags, weakly, strongly) in [
            ("\"a\"", true, true),
            ("\"b\", W/\"a\"", true, false),
            ("\"b\", \"a\"", true, true),
            ("*", true, true),
            ("\"b\"", false, false),
            ("", false, false),
        ] {
            assert_eq!(names(tags, "\"a\"", Compares::Weakly), weakly, "{tags}");
            assert_eq!(names(tags, "\"a\"", Compares::Strongly), strongly, "{tags}");
        }
    }
}
