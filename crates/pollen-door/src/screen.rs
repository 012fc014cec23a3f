//! The stream of one connection, between its socket and hyper.
//!
//! Decides: that hyper sees taken heads alone, how long a head and an answer may take, when a
//!     connection that was answered early is closed.
//! Does not know: routes and calls. A refused head reaches the service as a request of ours that it
//!     answers with the refusal, so that the order of pipelined answers is hyper's business.
//! Invariants: behind a refused head nothing is read as a request; a connection holds at most one
//!     partial head beside hyper's buffers.
//! Source: RFC 9112 (2.2, 9.3.2, 9.6).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use crate::{
    chunks::{Chunks, Step},
    head::{Framing, Refusal, SLOW_HEAD, Scan, scan, shown},
    limits::{HEAD_TIME, LINGER, LINGER_BYTES, RATE_BYTES, RATE_WINDOW},
};

/// What hyper reads in the place of a refused head.
const REFUSED: &[u8] = b"GET /refused HTTP/1.1\r\nconnection: close\r\n\r\n";
const SCRATCH: usize = 8 * 1024;
/// An answer up to this length goes out in one piece.
const JOINED: usize = 1024;

/// What the screen and the service of one connection tell each other.
#[derive(Default)]
pub(crate) struct Told {
    /// The number of the refused request, why, and its first bytes.
    refused: OnceLock<(u64, Refusal, String)>,
    /// Requests that the service got.
    asked: AtomicU64,
    /// Whether the client took its answer too slowly.
    is_slow: OnceLock<()>,
}

impl Told {
    /// Called by the service once a request: whether it is the refused one.
    pub(crate) fn next(&self) -> Option<(Refusal, &str)> {
        let number = self.asked.fetch_add(1, Relaxed) + 1;
        let (at, refusal, text) = self.refused.get()?;
        (*at == number).then_some((*refusal, text))
    }

    /// Whether the connection ended because its client did not read.
    pub(crate) fn is_slow(&self) -> bool {
        self.is_slow.get().is_some()
    }
}

/// What the next byte of the client belongs to.
enum Place {
    Head,
    Body(u64),
    Chunked(Chunks),
    /// To nothing: a head was refused, or a body broke.
    Shut,
}

/// See the module.
pub(crate) struct Screen<S> {
    stream: S,
    told: Arc<Told>,
    place: Place,
    /// Bytes that hyper did not get yet; `ready` of them it may have.
    ahead: BytesMut,
    ready: usize,
    /// Length of the partial head when it was last looked at.
    scanned: usize,
    heads: u64,
    head_ends: Option<Pin<Box<Sleep>>>,
    /// While an answer waits for its client: the end of the window, and the bytes gone in it.
    answer: Option<(Pin<Box<Sleep>>, u64)>,
    lingers: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Screen<S> {
    pub(crate) fn new(stream: S, told: Arc<Told>) -> Self {
        Self {
            stream,
            told,
            place: Place::Head,
            ahead: BytesMut::new(),
            ready: 0,
            scanned: 0,
            heads: 0,
            head_ends: None,
            answer: None,
            lingers: None,
        }
    }

    /// How many of these bytes hyper may have; what is behind them is a partial head, or nothing.
    fn inspect(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match &mut self.place {
                Place::Shut => break,
                Place::Body(left) => {
                    let here = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= here as u64;
                    at += here;
                    if *left == 0 {
                        self.place = Place::Head;
                    }
                }
                Place::Chunked(chunks) => match chunks.advance(rest) {
                    Step::More => return bytes.len(),
                    Step::Ends(length) => {
                        at += length;
                        self.place = Place::Head;
                    }
                    // hyper finds the same fault, and the service answers it.
                    Step::Broken(length) => {
                        at += length;
                        self.place = Place::Shut;
                    }
                },
                Place::Head => match self.look(rest) {
                    Some(length) => at += length,
                    None => break,
                },
            }
        }
        at
    }

    /// Looks at what stands where a head should: the bytes that may pass, if any.
    fn look(&mut self, bytes: &[u8]) -> Option<usize> {
        let before = self.scanned;
        let news = bytes.get(before..).unwrap_or_default();
        // A head that comes byte by byte is not parsed at each of them.
        if before > 0 && bytes.len() < 2 * before && !news.contains(&b'\n') {
            return None;
        }
        self.scanned = 0;
        match scan(bytes) {
            Scan::Blank => Some(bytes.len()),
            Scan::Partial => {
                self.scanned = bytes.len();
                None
            }
            Scan::Whole(length, framing) => {
                self.heads += 1;
                self.head_ends = None;
                self.place = match framing {
                    Framing::Length(0) => Place::Head,
                    Framing::Length(length) => Place::Body(length),
                    Framing::Chunked => Place::Chunked(Chunks::default()),
                };
                Some(length)
            }
            Scan::Refused(refusal) => {
                self.refuse(refusal, shown(bytes));
                None
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal, text: String) {
        self.heads += 1;
        let _ = self.told.refused.set((self.heads, refusal, text));
        self.place = Place::Shut;
        self.head_ends = None;
    }

    /// After an inspection of `ahead`, of which so many bytes may pass: what hyper gets next.
    fn settle(&mut self, passes: usize) {
        self.ready = passes;
        if self.is_refused() {
            self.ahead.truncate(passes);
            self.ahead.extend_from_slice(REFUSED);
            self.ready = self.ahead.len();
        }
    }

    fn is_refused(&self) -> bool {
        matches!(self.place, Place::Shut) && self.told.refused.get().is_some()
    }

    /// Bytes went straight into the reader's buffer, behind `before`: takes back what may not pass.
    fn sift(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let Some(got) = buffer.filled().get(before..) else { return };
        let passes = self.inspect(got);
        if let Some(kept) = got.get(passes..).filter(|kept| !kept.is_empty()) {
            self.ahead.extend_from_slice(kept);
            buffer.set_filled(before + passes);
        }
        if !self.ahead.is_empty() {
            self.settle(0);
        }
    }

    /// No byte comes now: whether a head takes too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if !matches!(self.place, Place::Head) || self.ahead.is_empty() {
            return false;
        }
        let timer = self.head_ends.get_or_insert_with(|| Box::pin(sleep(HEAD_TIME)));
        timer.as_mut().poll(cx).is_ready()
    }

    /// Counts what an answer wrote, or how long it waits.
    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
        offered: usize,
    ) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(Ok(length)) if length < offered => {
                if let Some((_, gone)) = &mut self.answer {
                    *gone += length as u64;
                }
            }
            Poll::Ready(_) => self.answer = None,
            Poll::Pending => {
                let (window, gone) =
                    self.answer.get_or_insert_with(|| (Box::pin(sleep(RATE_WINDOW)), 0));
                while window.as_mut().poll(cx).is_ready() {
                    if *gone < RATE_BYTES {
                        let _ = self.told.is_slow.set(());
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                    window.as_mut().reset(Instant::now() + RATE_WINDOW);
                    *gone = 0;
                }
            }
        }
        wrote
    }

    /// Reads and throws away until the client closes, so that no reset destroys the answer.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (ends, drained) = self.lingers.get_or_insert_with(|| (Box::pin(sleep(LINGER)), 0));
        let mut scratch = [0; SCRATCH];
        while *drained < LINGER_BYTES {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    *drained += buffer.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return ends.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Screen<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.ready > 0 {
                let here = this.ready.min(buffer.remaining());
                buffer.put_slice(this.ahead.get(..here).unwrap_or_default());
                this.ahead.advance(here);
                this.ready -= here;
                if this.ahead.is_empty() {
                    this.ahead = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if matches!(this.place, Place::Shut) {
                // The answer is on its way; hyper closes behind it.
                return Poll::Pending;
            }
            let got = if this.ahead.is_empty() {
                let before = buffer.filled().len();
                let got = Pin::new(&mut this.stream).poll_read(cx, buffer)?;
                if got.is_ready() {
                    if buffer.filled().len() == before {
                        return Poll::Ready(Ok(()));
                    }
                    this.sift(buffer, before);
                    if buffer.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                }
                got
            } else {
                let mut scratch = [0; SCRATCH];
                let mut more = ReadBuf::new(&mut scratch);
                let got = Pin::new(&mut this.stream).poll_read(cx, &mut more)?;
                if got.is_ready() {
                    if more.filled().is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    let mut ahead = std::mem::take(&mut this.ahead);
                    ahead.extend_from_slice(more.filled());
                    let passes = this.inspect(&ahead);
                    this.ahead = ahead;
                    this.settle(passes);
                }
                got
            };
            if got.is_pending() {
                if !this.is_late(cx) {
                    return Poll::Pending;
                }
                let text = shown(&this.ahead);
                this.refuse(SLOW_HEAD, text);
                this.ahead.clear();
                this.settle(0);
            }
        }
    }
}

/// Small parts in one: to copy them costs less than the longer way of `writev` through the kernel.
fn join<'a>(
    parts: &[io::IoSlice<'_>],
    length: usize,
    into: &'a mut [u8; JOINED],
) -> Option<&'a [u8]> {
    let joined = into.get_mut(..length)?;
    let mut rest = &mut *joined;
    for part in parts {
        let (here, later) = rest.split_at_mut_checked(part.len())?;
        here.copy_from_slice(part);
        rest = later;
    }
    Some(joined)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Screen<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, wrote, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = parts.iter().map(|part| part.len()).sum();
        let mut joined = [0; JOINED];
        let wrote = match join(parts, offered, &mut joined) {
            Some(bytes) => Pin::new(&mut self.stream).poll_write(cx, bytes),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, parts),
        };
        self.watch(cx, wrote, offered)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingers.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if matches!(self.place, Place::Head) && self.ahead.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        self.linger(cx).map(Ok)
    }
}
