//! One direction of a tunnel, from its source to its end.
//!
//! Decides: how much is read at once, and what is copied.
//! Does not know: what the end of a direction means for the other.
//! Invariants: a direction that waits for its source holds no buffer. What the sink does not take is
//!     kept, and nothing more is read meanwhile. Large pieces are handed on and never copied.
//! Source: docs/internals/seam.md#tunnels.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    io::IoSlice,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use pollen_net::{RecvStream, SendStream};

use crate::{
    limits::{PIECES, SCRATCH},
    rest::{Rest, with_buffer},
    socket::Socket,
};

thread_local! {
    /// Memory for the next large piece; it grows anew when pieces of it are still on their way.
    static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// A read of less is copied on: a piece on its way keeps its whole block.
const LARGE: usize = SCRATCH / 4;

/// One of the sides was reset.
pub(crate) struct Broken;

/// Where bytes come from.
pub(crate) enum Source<'a> {
    Socket(&'a Socket),
    Peer(&'a mut RecvStream),
    /// Nothing comes beside what was read before.
    Over,
}

/// Where they go.
pub(crate) enum Sink<'a> {
    Socket(&'a Socket),
    Peer(&'a mut SendStream),
    Kept(&'a mut Kept),
}

/// An answer that is kept.
pub(crate) struct Kept {
    pub(crate) bytes: BytesMut,
    most: usize,
    /// There was more.
    pub(crate) is_over: bool,
}

impl Kept {
    /// So many bytes at most.
    pub(crate) fn new(most: usize) -> Self {
        Self { bytes: BytesMut::new(), most, is_over: false }
    }

    fn take(&mut self, from: &[u8]) -> Result<usize, Broken> {
        self.is_over |= from.len() > self.most - self.bytes.len();
        if self.is_over {
            return Err(Broken);
        }
        self.bytes.extend_from_slice(from);
        Ok(from.len())
    }
}

impl Sink<'_> {
    fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<Result<usize, Broken>> {
        match self {
            Self::Socket(socket) => socket.poll_write(cx, from).map_err(|_| Broken),
            Self::Peer(send) => {
                std::pin::Pin::new(&mut **send).poll_write(cx, from).map_err(|_| Broken)
            }
            Self::Kept(kept) => Poll::Ready(kept.take(from)),
        }
    }

    /// Writes some of the pieces, and takes them off; how many bytes.
    fn poll_pieces(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &mut &mut [Bytes],
    ) -> Poll<Result<usize, Broken>> {
        match self {
            // Polled once and dropped it has written, or waits under the waker.
            Self::Peer(send) => pin!(send.write_many_chunks(pieces)).poll(cx).map_err(|_| Broken),
            Self::Socket(socket) => {
                let mut slices = [IoSlice::new(&[]); PIECES];
                for (slice, piece) in slices.iter_mut().zip(pieces.iter()) {
                    *slice = IoSlice::new(piece);
                }
                let filled = slices.get(..pieces.len().min(PIECES)).unwrap_or_default();
                let written = ready!(socket.poll_write_vectored(cx, filled)).map_err(|_| Broken)?;
                take_off(pieces, written);
                Poll::Ready(Ok(written))
            }
            Self::Kept(kept) => {
                let Some(first) = pieces.first() else { return Poll::Ready(Ok(0)) };
                let taken = kept.take(first)?;
                take_off(pieces, taken);
                Poll::Ready(Ok(taken))
            }
        }
    }

    fn finish(&mut self) -> Result<(), Broken> {
        match self {
            Self::Socket(socket) => socket.finish().map_err(|_| Broken),
            Self::Peer(send) => send.finish().map_err(|_| Broken),
            Self::Kept(_) => Ok(()),
        }
    }
}

/// Takes so many bytes off the front.
fn take_off(pieces: &mut &mut [Bytes], mut written: usize) {
    let mut whole = 0;
    for piece in pieces.iter_mut() {
        if piece.len() > written {
            piece.advance(written);
            break;
        }
        written -= piece.len();
        whole += 1;
    }
    // Their memory goes with them.
    let (gone, others) = std::mem::take(pieces).split_at_mut(whole);
    gone.fill(Bytes::new());
    *pieces = others;
}

/// One direction, to the end of its source; `rest` goes first.
pub(crate) async fn carry(
    source: Source<'_>,
    sink: Sink<'_>,
    rest: Rest,
    count: &AtomicU64,
) -> Result<(), Broken> {
    let Rest { bytes, sent, is_over } = rest;
    // What went before the answer.
    count.fetch_add(sent as u64, Relaxed);
    let mut bytes = Bytes::from(bytes);
    bytes.advance(sent.min(bytes.len()));
    let left = if bytes.is_empty() { VecDeque::new() } else { VecDeque::from([bytes]) };
    let mut way = Way { source, sink, left, is_over, count };
    poll_fn(|cx| {
        loop {
            ready!(way.poll_left(cx))?;
            if way.is_over {
                return Poll::Ready(way.sink.finish());
            }
            ready!(way.poll_more(cx))?;
        }
    })
    .await
}

struct Way<'a> {
    source: Source<'a>,
    sink: Sink<'a>,
    /// What was read and the sink has not taken.
    left: VecDeque<Bytes>,
    /// The source has ended.
    is_over: bool,
    count: &'a AtomicU64,
}

impl Way<'_> {
    /// Writes what was left, and lets its memory go.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.left.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut left = Vec::from(std::mem::take(&mut self.left));
        self.write(cx, &mut left)?;
        if self.left.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Writes what the sink takes; what it does not is left, and the task is woken then.
    fn write(&mut self, cx: &mut Context<'_>, mut pieces: &mut [Bytes]) -> Result<(), Broken> {
        while !pieces.is_empty() {
            match self.sink.poll_pieces(cx, &mut pieces) {
                Poll::Ready(written) => {
                    self.count.fetch_add(written? as u64, Relaxed);
                }
                Poll::Pending => {
                    self.left.extend(pieces.iter_mut().map(std::mem::take));
                    break;
                }
            }
        }
        Ok(())
    }

    /// Reads once and writes what the sink takes of it.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match &mut self.source {
            Source::Over => {
                self.is_over = true;
                Poll::Ready(Ok(()))
            }
            Source::Peer(recv) => {
                let mut pieces = [const { Bytes::new() }; PIECES];
                let read = pin!(recv.read_many_chunks(&mut pieces)).poll(cx);
                match ready!(read).map_err(|_| Broken)? {
                    None => self.is_over = true,
                    Some(count) => self.write(cx, pieces.get_mut(..count).unwrap_or_default())?,
                }
                Poll::Ready(Ok(()))
            }
            Source::Socket(socket) => {
                let socket = *socket;
                if matches!(socket, Socket::Holding(..)) {
                    return with_buffer(|buffer| self.poll_copied(cx, socket, buffer));
                }
                BLOCK.with_borrow_mut(|block| self.poll_block(cx, socket, block))
            }
        }
    }

    fn poll_copied(
        &mut self,
        cx: &mut Context<'_>,
        socket: &Socket,
        buffer: &mut [u8],
    ) -> Poll<Result<(), Broken>> {
        let length = ready!(socket.poll_read(cx, buffer)).map_err(|_| Broken)?;
        Poll::Ready(self.copy(cx, buffer.get(..length).unwrap_or_default()))
    }

    fn poll_block(
        &mut self,
        cx: &mut Context<'_>,
        socket: &Socket,
        block: &mut BytesMut,
    ) -> Poll<Result<(), Broken>> {
        block.reserve(SCRATCH);
        let length = ready!(socket.poll_read_buf(cx, block)).map_err(|_| Broken)?;
        let done = if length < LARGE {
            self.copy(cx, block)
        } else {
            self.write(cx, &mut [block.split().freeze()])
        };
        block.clear();
        Poll::Ready(done)
    }

    /// Nothing is an end.
    fn copy(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> Result<(), Broken> {
        self.is_over |= bytes.is_empty();
        while !bytes.is_empty() {
            match self.sink.poll_write(cx, bytes) {
                Poll::Ready(written) => {
                    let written = written?;
                    self.count.fetch_add(written as u64, Relaxed);
                    bytes = bytes.get(written..).unwrap_or_default();
                }
                Poll::Pending => {
                    self.left.push_back(Bytes::copy_from_slice(bytes));
                    break;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_taken_off_the_front() {
        let words = || ["ab", "cde", "", "f"].map(|word| Bytes::from_static(word.as_bytes()));
        for (written, left) in
            [(0, "ab|cde||f"), (1, "b|cde||f"), (2, "cde||f"), (4, "e||f"), (5, "f"), (6, "")]
        {
            let mut held = words();
            let mut pieces = held.as_mut_slice();
            take_off(&mut pieces, written);
            let words: Vec<_> = pieces.iter().map(|word| String::from_utf8_lossy(word)).collect();
            assert_eq!(words.join("|"), left);
        }
    }
}
