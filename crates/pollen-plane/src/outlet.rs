//! What a call has beside its input and its output: a request head, and the way of a streamed reply.
//!
//! Decides: what counts as handed on to the caller. Does not know: doors and links; each brings a [`Sink`].
//! Invariant: bytes count once the sink took them, so a call that handed nothing on may be tried again.
//! Source: docs/design/protocol.md#streamed-replies.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::{Buf, Bytes};

/// A boxed future of a piece on its way: how many bytes of its front were taken, 0 when no more are.
pub type Sending<'a> = Pin<Box<dyn Future<Output = usize> + Send + 'a>>;

/// Where a reply in pieces goes next: a door's client, or the stream of a link.
pub trait Sink: Send + Sync + 'static {
    /// Takes at least one byte off the front of the piece, when there is room. What it took is on its
    /// way even if the future is dropped; what it did not take is not.
    fn send(&self, piece: &Bytes) -> Sending<'_>;
}

/// The way of a streamed reply to its caller, and how many bytes went it.
pub struct Outlet {
    sink: Box<dyn Sink>,
    sent: AtomicU64,
}

impl Outlet {
    /// A way that nothing went yet.
    pub fn new(sink: impl Sink) -> Self {
        Self { sink: Box::new(sink), sent: AtomicU64::new(0) }
    }

    /// Hands a piece on, as there is room; false when nobody takes it.
    pub(crate) async fn send(&self, mut piece: Bytes) -> bool {
        while !piece.is_empty() {
            let taken = self.sink.send(&piece).await;
            if taken == 0 {
                return false;
            }
            self.sent.fetch_add(u64::try_from(taken).unwrap_or(u64::MAX), Relaxed);
            piece.advance(taken.min(piece.len()));
        }
        true
    }

    /// Bytes that were handed on.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
}

/// What a call has beside its input and its output; most calls have nothing.
pub struct Extras {
    /// Opaque bytes for the guest, at most [`MAX_HEAD`](pollen_wire::frame::MAX_HEAD).
    pub head: Bytes,
    /// For a caller that takes the output in pieces.
    pub outlet: Option<Outlet>,
}

impl fmt::Debug for Extras {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams = self.outlet.is_some();
        f.debug_struct("Extras").field("head", &self.head.len()).field("streams", &streams).finish()
    }
}
