//! A call stream piece by piece: what is read of it, and the chunks of a streamed reply.
//!
//! Decides: where a frame ends, and what of a chunk is still to be written when its guest is gone.
//! Does not know: calls. Invariant: a chunk that was begun is written whole before anything else, so the
//! reply of a guest that was dropped while it wrote can be read.
//! Source: docs/internals/seam.md#links.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use pollen_net::{RecvStream, SendStream};
use pollen_wire::{
    call::encode_chunk_head,
    frame::{self, MAX_CHUNK},
};
use tokio::sync::Mutex;

use crate::{
    counters::count,
    outlet::{Sending, Sink},
    plane::Plane,
};

/// Reads length-delimited pieces off a stream, whole chunks at a time.
pub(crate) struct Pieces<'a> {
    recv: &'a mut RecvStream,
    held: Bytes,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(recv: &'a mut RecvStream) -> Self {
        Self { recv, held: Bytes::new() }
    }

    /// Exactly `len` bytes; `None` when the stream ends or breaks before.
    pub(crate) async fn take(&mut self, len: usize) -> Option<Bytes> {
        if self.held.is_empty() && len > 0 {
            self.held = self.recv.read_chunk(usize::MAX).await.ok()??;
        }
        if self.held.len() >= len {
            return Some(self.held.split_to(len));
        }
        // Grows with what arrives, not with what was announced.
        let mut gathered = BytesMut::from(std::mem::take(&mut self.held));
        while gathered.len() < len {
            let mut chunk = self.recv.read_chunk(usize::MAX).await.ok()??;
            let rest = chunk.split_off(chunk.len().min(len - gathered.len()));
            gathered.extend_from_slice(&chunk);
            self.held = rest;
        }
        Some(gathered.freeze())
    }

    /// A frame's body of at most `most` bytes.
    pub(crate) async fn frame(&mut self, most: usize) -> Option<Bytes> {
        let prefix = self.take(frame::PREFIX).await?;
        let length = frame::length(*prefix.first_chunk()?, most).ok()?;
        self.take(length).await
    }

    /// Whether the stream ends here, as it must after a whole message.
    pub(crate) async fn is_over(&mut self) -> bool {
        self.held.is_empty() && matches!(self.recv.read_chunk(1).await, Ok(None))
    }
}

/// The callee's half of a call stream: a reply goes out whole, or behind chunks.
pub(crate) enum Half {
    Whole(SendStream),
    Chunked(Arc<Chunked>),
}

impl Half {
    /// From here on the reply may come in chunks, by the sink that is returned.
    pub(crate) fn chunked(self, plane: &Plane) -> (Self, Option<impl Sink + use<>>) {
        match self {
            Self::Whole(send) => {
                count(&plane.counters().link_streams);
                let way = Mutex::new(Way { send, rest: [Bytes::new(), Bytes::new()] });
                let chunked = Arc::new(Chunked { plane: plane.clone(), way });
                (Self::Chunked(chunked.clone()), Some(Shared(chunked)))
            }
            half @ Self::Chunked(_) => (half, None),
        }
    }

    /// Writes the rest of a chunk and then the reply, and ends the stream.
    pub(crate) async fn finish(self, mut reply: [Bytes; 2]) {
        match self {
            Self::Whole(mut send) => {
                if send.write_all_chunks(&mut reply).await.is_ok() {
                    let _ = send.finish();
                }
            }
            Self::Chunked(chunked) => {
                let mut way = chunked.way.lock().await;
                if way.flush().await && way.send.write_all_chunks(&mut reply).await.is_ok() {
                    let _ = way.send.finish();
                }
            }
        }
    }

    /// Ends the stream without a reply.
    pub(crate) async fn reset(self) {
        match self {
            Self::Whole(mut send) => drop(send.reset(0u32.into())),
            Self::Chunked(chunked) => drop(chunked.way.lock().await.send.reset(0u32.into())),
        }
    }
}

/// A call stream that is written by its guest, chunk by chunk.
pub(crate) struct Chunked {
    plane: Plane,
    way: Mutex<Way>,
}

struct Way {
    send: SendStream,
    /// Of the chunk that was begun last: head and bytes that are not written yet.
    rest: [Bytes; 2],
}

impl Way {
    /// Writes what is left of the chunk; what a dropped future did not write stays. False: it broke.
    async fn flush(&mut self) -> bool {
        let mut rest = &mut self.rest[..];
        while !rest.is_empty() {
            if self.send.write_many_chunks(&mut rest).await.is_err() {
                return false;
            }
        }
        true
    }
}

struct Shared(Arc<Chunked>);

impl Sink for Shared {
    fn send(&self, piece: &Bytes) -> Sending<'_> {
        let piece = piece.slice(..piece.len().min(MAX_CHUNK));
        Box::pin(async move {
            let mut way = self.0.way.lock().await;
            if !way.flush().await {
                return 0;
            }
            let length = piece.len();
            let mut head = Vec::with_capacity(16);
            let announced = u32::try_from(length).unwrap_or(u32::MAX);
            frame::append(&mut head, length, |out| encode_chunk_head(announced, out));
            way.rest = [Bytes::from(head), piece];
            if !way.flush().await {
                return 0;
            }
            let counted = u64::try_from(length).unwrap_or(u64::MAX);
            self.0.plane.counters().link_chunk_bytes.fetch_add(counted, Relaxed);
            length
        })
    }
}
