//! Reading the body of a request.
//!
//! Decides: how large it may be, how slowly it may come, and until when.
//! Does not know: what it is for.
//! Invariants: what is buffered is covered by the client's account; nothing is read of a body whose
//!     announced length is over the limit.
//! Source: RFC 9110 (10.1.1, 15.5.9, 15.5.14), `limits.rs`.

use std::{future::poll_fn, io, pin::pin, task::Poll, time::Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    StatusCode,
    body::{Body, Incoming},
};
use pollen_plane::CallError;
use tokio::{
    sync::mpsc,
    time::{error::Elapsed, timeout_at},
};

use crate::{
    limits::{PART, RATE_BYTES, RATE_WINDOW},
    visitors::{Account, Hold},
};

/// Under which terms a body is read.
pub(crate) struct Terms {
    /// Bytes.
    pub(crate) most: usize,
    pub(crate) ends: Instant,
    pub(crate) account: Account,
    /// A stranger's body must keep up a rate.
    pub(crate) has_rate: bool,
    /// The error of a body over `most`.
    pub(crate) too_large: fn(usize) -> CallError,
}

/// Why there is no body. The rest of it is not read: the connection closes behind the answer.
pub(crate) struct NoBody {
    pub(crate) status: StatusCode,
    pub(crate) error: CallError,
    pub(crate) kind: Kind,
}

/// What the counters distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    TooLarge,
    Slow,
    NoRoom,
    Broken,
}

/// The whole body, and its place in the account.
pub(crate) async fn read(body: &mut Incoming, terms: &Terms) -> Result<(Bytes, Hold), NoBody> {
    let announced = body.size_hint().lower();
    if announced > terms.most as u64 {
        return Err(too_large(terms));
    }
    let mut hold = Hold::default();
    let mut parts = Parts::default();
    // Without a rate the window is not looked at, nor the clock.
    let ends = if terms.has_rate { Instant::now() + RATE_WINDOW } else { terms.ends };
    let mut window = Window { ends, bytes: 0 };
    while let Some(frame) = next(body, terms, &mut window).await? {
        let Ok(data) = frame.into_data() else { continue };
        let length = parts.length + data.len();
        if length > terms.most {
            return Err(too_large(terms));
        }
        if !terms.account.try_cover(&mut hold, length) {
            let waits = Instant::now();
            if !terms.account.cover(&mut hold, length).await {
                return Err(no_room());
            }
            // Time that the client waited for us is not its slowness.
            window.ends += waits.elapsed();
        }
        parts.push(data);
    }
    Ok((parts.join(), hold))
}

/// Passes the body on part by part, as its receiver takes them; nothing is buffered. A body that breaks
/// off ends it with an error there, too.
pub(crate) async fn pass(
    body: &mut Incoming,
    terms: &Terms,
    to: mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), NoBody> {
    let mut window = Window { ends: terms.ends, bytes: 0 };
    loop {
        match next(body, terms, &mut window).await {
            Ok(None) => return Ok(()),
            Ok(Some(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                // A receiver that is gone says itself why.
                if to.send(Ok(data)).await.is_err() {
                    return Ok(());
                }
            }
            Err(none) => {
                let _ = to.send(Err(io::Error::other(none.error.reason.clone()))).await;
                return Err(none);
            }
        }
    }
}

/// What came so far. In parts of one size, so that many unfinished bodies take what came of them
/// and leave no holes; one that came at once is not copied.
#[derive(Default)]
struct Parts {
    first: Bytes,
    rest: Vec<BytesMut>,
    length: usize,
}

impl Parts {
    fn push(&mut self, data: Bytes) {
        if self.length == 0 {
            self.length = data.len();
            self.first = data;
            return;
        }
        if self.rest.is_empty() {
            // It is a piece of a larger buffer, which is free when this is copied.
            let first = std::mem::take(&mut self.first);
            self.append(&first);
        }
        self.append(&data);
        self.length += data.len();
    }

    fn append(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = self.rest.last().map_or(0, |part| PART - part.len());
            if room == 0 {
                self.rest.push(BytesMut::with_capacity(PART));
            }
            let Some(part) = self.rest.last_mut() else { return };
            let (here, later) = data.split_at(data.len().min(PART - part.len()));
            part.extend_from_slice(here);
            data = later;
        }
    }

    fn join(mut self) -> Bytes {
        match self.rest.len() {
            0 => self.first,
            1 => self.rest.pop().unwrap_or_default().freeze(),
            _ => {
                let mut whole = BytesMut::with_capacity(self.length);
                self.rest.drain(..).for_each(|part| whole.extend_from_slice(&part));
                whole.freeze()
            }
        }
    }
}

/// The time in which the next bytes must come.
struct Window {
    ends: Instant,
    bytes: u64,
}

type Frame = hyper::body::Frame<Bytes>;

async fn next(
    body: &mut Incoming,
    terms: &Terms,
    window: &mut Window,
) -> Result<Option<Frame>, NoBody> {
    loop {
        let until = if terms.has_rate { terms.ends.min(window.ends) } else { terms.ends };
        match frame_until(body, until).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => {
                // A trickle never lets the time run out: it is measured at each byte as well.
                window.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if terms.has_rate && Instant::now() >= window.ends {
                    turn(window)?;
                }
                return Ok(Some(frame));
            }
            Ok(Some(Err(error))) => {
                let reason = format!("the body broke off: {error}");
                let error = CallError::refused("bad-request", reason, "send the request again");
                let status = StatusCode::BAD_REQUEST;
                return Err(NoBody { status, error, kind: Kind::Broken });
            }
            Err(_) if until < terms.ends => turn(window)?,
            Err(_) => {
                let remedy = "send the body faster, or give more time: Pollen-Timeout";
                return Err(slow("the body did not come within the call's time".into(), remedy));
            }
        }
    }
}

/// The next frame, or `Err` when the time is over first. What is there already costs no timer.
async fn frame_until(
    body: &mut Incoming,
    until: Instant,
) -> Result<Option<Result<Frame, hyper::Error>>, Elapsed> {
    let mut frame = pin!(body.frame());
    if let Poll::Ready(got) = poll_fn(|cx| Poll::Ready(frame.as_mut().poll(cx))).await {
        return Ok(got);
    }
    timeout_at(until.into(), frame).await
}

/// A window is over: the next one, if enough came in it.
fn turn(window: &mut Window) -> Result<(), NoBody> {
    if window.bytes < RATE_BYTES {
        let reason = format!(
            "the body comes too slowly: {} bytes in {} s, under 1 KiB/s",
            window.bytes,
            RATE_WINDOW.as_secs()
        );
        return Err(slow(reason, "collect the body before you send it"));
    }
    *window = Window { ends: Instant::now() + RATE_WINDOW, bytes: 0 };
    Ok(())
}

fn slow(reason: String, remedy: &str) -> NoBody {
    let error = CallError::refused("deadline", reason, remedy);
    NoBody { status: StatusCode::REQUEST_TIMEOUT, error, kind: Kind::Slow }
}

fn too_large(terms: &Terms) -> NoBody {
    let error = (terms.too_large)(terms.most);
    NoBody { status: StatusCode::PAYLOAD_TOO_LARGE, error, kind: Kind::TooLarge }
}

fn no_room() -> NoBody {
    let reason = "the door holds as many bytes of bodies and answers as it may".to_owned();
    let error = CallError::overloaded(reason, 1000);
    NoBody { status: StatusCode::SERVICE_UNAVAILABLE, error, kind: Kind::NoRoom }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_body_are_joined_in_order() {
        for sizes in [vec![], vec![7], vec![1, 2, 3], vec![PART, PART, 1], vec![3 * PART, 5, PART]]
        {
            let mut parts = Parts::default();
            let mut whole = Vec::new();
            for (at, size) in sizes.into_iter().enumerate() {
                let data = vec![u8::try_from(at).unwrap_or(0); size];
                whole.extend_from_slice(&data);
                parts.push(data.into());
            }
            assert_eq!(parts.length, whole.len());
            assert_eq!(parts.join(), whole);
        }
    }
}
