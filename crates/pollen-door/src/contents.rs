//! Files over HTTP: what comes in is kept, and blobs go out. Neither ever stands in memory.
//!
//! Decides: which headers a blob goes out with, and which part of it when one is asked for.
//! Does not know: who may read it, nor where it comes from (`pollen-plane`).
//! Source: RFC 9110 (8.8.3, 13.1.2, 14).

use std::{io, ops::Range, time::Instant};

use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream::BoxStream};
use http_body_util::{Either, Full, StreamBody};
use hyper::{
    Method, Response, StatusCode,
    body::{Body as _, Frame, Incoming},
    header::{
        ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
        IF_NONE_MATCH, IF_RANGE, RANGE,
    },
};
use pollen_plane::{
    Blob, ByteRange, CallError, Plane, Principal, SeedRef, hex::hex, limits::STORE_REMEDY,
};
use tokio::sync::mpsc;

use crate::{
    answer::{no_such_seed, plain, problem},
    body::{self, NoBody, Terms},
    limits::MAX_BUDGET,
    visitors::Account,
};

/// Where blobs are read.
pub(crate) const BLOB: &str = "/blob/";
/// Parts of an upload that wait for the disk.
const WAITING: usize = 16;

/// What is sent: bytes that are there, or a file as it is read.
pub(crate) type Sent =
    Either<Full<Bytes>, StreamBody<BoxStream<'static, io::Result<Frame<Bytes>>>>>;

/// What is sent of a blob: the bytes of `span`, as a whole of their own.
pub(crate) struct Part<'a> {
    pub(crate) span: Range<u64>,
    /// The entity tag, quoted.
    pub(crate) tag: &'a str,
    pub(crate) media: &'a str,
}

/// Keeps a body, whatever it is; the answer has its id and size.
pub(crate) async fn upload(
    plane: &Plane,
    account: Account,
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
    let passed = body::pass(incoming, &terms, to);
    let (passed, kept) = tokio::join!(passed, content.add_parts(parts));
    passed?;
    Ok(match kept {
        Ok((content, size)) => {
            let answer = serde_json::json!({"content": hex(&content), "size": size});
            plain(StatusCode::OK, "application/json", answer.to_string().into())
        }
        Err(error) => problem(&CallError::of_store(&error), None, 0),
    })
}

/// Sends the blob of this name or hash, or one range of it.
pub(crate) async fn blob(
    plane: &Plane,
    who: Principal,
    method: &Method,
    headers: &HeaderMap,
    name: &str,
) -> Response<Sent> {
    match plane.open_blob(&SeedRef::parse(name), who).await {
        Ok(blob) => {
            let tag = format!("\"{}\"", hex(&blob.content()));
            let media =
                if blob.is_site() { "application/x-tar" } else { "application/octet-stream" };
            let part = Part { span: 0..blob.size(), tag: &tag, media };
            send(method, headers, blob, part)
        }
        // A stranger learns nothing of what is not public.
        Err(_) if who == Principal::Anonymous => problem(&no_such_seed(), None, 0).map(Sent::Left),
        Err(error) => problem(&error, None, 0).map(Sent::Left),
    }
}

/// Sends a part of a blob, or one range of it; nothing to who has it.
pub(crate) fn send(
    method: &Method,
    headers: &HeaderMap,
    blob: Blob,
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
    if text(IF_NONE_MATCH).is_some_and(|tags| names(tags, tag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    set(&mut response, ACCEPT_RANGES, "bytes");
    set(&mut response, CONTENT_TYPE, media);
    let asked = text(RANGE).filter(|_| text(IF_RANGE).is_none_or(|held| held == tag));
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
        // A body that breaks off closes the connection: its reader sees that it is short.
        let range = span.start + range.start..span.start + range.end;
        let parts = blob.read(range).map_ok(Frame::data).map_err(|error| {
            tracing::warn!(reason = %error.reason, "a blob broke off while it was sent");
            io::Error::other(error.reason)
        });
        *response.body_mut() = Sent::Right(StreamBody::new(Box::pin(parts)));
    }
    response
}

/// Whether a list of entity tags has this one.
fn names(tags: &str, tag: &str) -> bool {
    tags.split(',').map(str::trim).any(|held| held == "*" || held.trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_tags_is_read() {
        for (tags, expected) in
            [("\"a\"", true), ("\"b\", W/\"a\"", true), ("*", true), ("\"b\"", false), ("", false)]
        {
            assert_eq!(names(tags, "\"a\""), expected, "{tags}");
        }
    }
}
