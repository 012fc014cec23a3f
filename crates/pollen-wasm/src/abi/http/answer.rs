//! The answer of a guest on its way to the caller, while the guest runs.
//!
//! Decides: what goes at once and what waits for more. Does not know: how a piece leaves the guest
//! (`command/pipes.rs`).
//! Invariants: of a body no more is held here than [`PIECE`] and what the guest may write ahead. An
//! answer that ends before anything had to wait is output like any other: nothing was streamed, so the
//! call may still be tried elsewhere.
//! Refused: trailers. Few clients read them, and they would have to stand behind the body.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::Body;
use pollen_wire::frame::MAX_HEAD;
use pollen_wire::http::{AnswerHead, MAX_FIELDS, PREFIX};
use tokio::sync::oneshot;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::abi::command::pipes::Pipes;
use crate::error::SandboxError;

/// Bytes of an answer that are put together before they go.
const PIECE: usize = 64 << 10;

type Response = hyper::Response<HyperOutgoingBody>;
type Set = Result<Response, ErrorCode>;

/// The caller's end of an answer.
pub(super) struct Answering {
    set: oneshot::Receiver<Set>,
    pipes: Pipes,
    /// The guest has returned: what is not there by now never comes.
    is_over: AtomicBool,
    /// Of a HEAD request: only the head of the answer goes.
    is_head: bool,
}

impl Answering {
    /// The two ends: this one, and where the guest sets its answer.
    pub(super) fn new(pipes: Pipes, is_head: bool) -> (Self, oneshot::Sender<Set>) {
        let (sender, set) = oneshot::channel();
        (Self { set, pipes, is_over: AtomicBool::new(false), is_head }, sender)
    }

    /// Delivers while `guest` runs, and the rest behind it. How the guest ended; the last bytes of the
    /// answer, or why there is none. Nothing is delivered any more of a guest that was cut off.
    pub(super) async fn beside<E>(
        mut self,
        guest: impl Future<Output = Result<(), E>>,
    ) -> (Result<(), E>, Option<Result<Bytes, SandboxError>>) {
        let Self { set, pipes, is_over, is_head } = &mut self;
        let is_over = &*is_over;
        let mut guest = pin!(guest);
        let mut delivery = pin!(deliver(set, pipes, is_over, *is_head));
        let mut delivered = None;
        let ended = poll_fn(|cx| {
            let ended = guest.as_mut().poll(cx);
            if ended.is_pending()
                && delivered.is_none()
                && let Poll::Ready(rest) = delivery.as_mut().poll(cx)
            {
                delivered = Some(rest);
            }
            ended
        })
        .await;
        is_over.store(true, Ordering::Relaxed);
        if ended.is_ok() && delivered.is_none() {
            delivered = Some(delivery.await);
        }
        (ended, delivered)
    }
}

/// The next of something that a guest makes; none when it is not there and the guest is over, or nobody
/// waits. Without tokio's budget, by which it would seem not to be there.
async fn next<T>(
    is_over: &AtomicBool,
    waits: bool,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    let polled = poll_fn(|cx| match poll(cx) {
        Poll::Ready(made) => Poll::Ready(Some(made)),
        Poll::Pending if waits && !is_over.load(Ordering::Relaxed) => Poll::Pending,
        Poll::Pending => Poll::Ready(None),
    });
    tokio::task::unconstrained(polled).await
}

fn failed(reason: impl Into<String>) -> SandboxError {
    SandboxError::ran("guest-failed", reason, "")
}

/// Hands an answer on; its last bytes, which were not.
async fn deliver(
    set: &mut oneshot::Receiver<Set>,
    pipes: &Pipes,
    is_over: &AtomicBool,
    is_head: bool,
) -> Result<Bytes, SandboxError> {
    let response = match next(is_over, true, |cx| Pin::new(&mut *set).poll(cx)).await {
        Some(Ok(Ok(response))) => response,
        Some(Ok(Err(code))) => {
            return Err(failed(format!("the handler answered with an error: {code:?}")));
        }
        Some(Err(_)) | None => return Err(failed("the handler returned without an answer")),
    };
    let (head, mut body) = response.into_parts();
    let mut ready = encoded(&head)?;
    if is_head || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&head.status) {
        // No body goes to the client, though a head may tell its length: what is written is dropped.
        while let Some(Some(Ok(_))) =
            next(is_over, true, |cx| Pin::new(&mut body).poll_frame(cx)).await
        {}
        return Ok(ready.into());
    }
    loop {
        // What is there goes before anything is waited for.
        let waits = ready.is_empty();
        match next(is_over, waits, |cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                if ready.len().saturating_add(data.len()) <= PIECE {
                    ready.extend_from_slice(&data);
                } else if !hand_on(pipes, &mut ready, data).await {
                    return Ok(Bytes::new());
                }
            }
            Some(None) if pipes.streams() => return Ok(ready.into()),
            Some(None) => {
                hand_on(pipes, &mut ready, Bytes::new()).await;
                return Ok(Bytes::new());
            }
            None if !is_over.load(Ordering::Relaxed) => {
                if !hand_on(pipes, &mut ready, Bytes::new()).await {
                    return Ok(Bytes::new());
                }
            }
            Some(Some(Err(_))) | None => {
                return Err(failed("the handler ended before the body of its answer did"));
            }
        }
    }
}

/// Hands on what is ready, and `more` behind it; false when nobody takes it.
async fn hand_on(pipes: &Pipes, ready: &mut Vec<u8>, more: Bytes) -> bool {
    for piece in [Bytes::from(std::mem::take(ready)), more] {
        if !piece.is_empty() {
            if !pipes.hand_on(piece) {
                return false;
            }
            pipes.clone().taken().await;
        }
    }
    true
}

/// The head of an answer as it goes to the caller.
fn encoded(head: &hyper::http::response::Parts) -> Result<Vec<u8>, SandboxError> {
    let fields: Vec<_> =
        head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let status = head.status.as_u16();
    if status < 200 {
        return Err(failed(format!(
            "the handler answered with the status {status}, which is no end"
        )));
    }
    if fields.len() > MAX_FIELDS as usize {
        let count = fields.len();
        return Err(failed(format!("the answer has {count} headers; the limit is {MAX_FIELDS}")));
    }
    let mut out = Vec::new();
    AnswerHead { status, fields }.encode(&mut out);
    let length = out.len() - PREFIX;
    if length > MAX_HEAD {
        let reason = format!("the head of the answer is {length} bytes; the limit is {MAX_HEAD}");
        return Err(failed(reason));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;

    use http_body_util::BodyExt;
    use hyper::body::Frame;

    use crate::engine::registry::Registry;

    /// A body that its guest broke off, as of a HEAD request whose `Content-Length` is told.
    struct Broken;

    impl Body for Broken {
        type Data = Bytes;
        type Error = <HyperOutgoingBody as Body>::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(Some(Err(ErrorCode::HttpResponseBodySize(Some(0)).into())))
        }
    }

    fn delivered(status: u16, is_head: bool) -> Result<Bytes, SandboxError> {
        let pipes = Pipes::new(Arc::new(Registry::new(1 << 20)), 1 << 20);
        let (sender, mut set) = oneshot::channel();
        let response =
            hyper::Response::builder().status(status).body(Broken.boxed_unsync()).unwrap();
        sender.send(Ok(response)).ok().unwrap();
        let is_over = AtomicBool::new(true);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(deliver(&mut set, &pipes, &is_over, is_head))
    }

    #[test]
    fn where_no_body_goes_its_end_is_no_failure() {
        for (status, is_head) in [(200, true), (204, false), (304, false)] {
            assert!(delivered(status, is_head).unwrap().len() > PREFIX, "{status}");
        }
        assert_eq!("guest-failed", delivered(200, false).unwrap_err().slug());
    }
}
