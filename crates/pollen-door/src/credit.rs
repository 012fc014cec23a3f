//! The chunks of a streamed reply on their way to a client of `pollen-call/1`.
//!
//! Decides: how many bytes of a piece go now. Does not know: calls, nor when the socket takes them.
//! Invariants: a call is never sent more than its client gave credit for; chunks of one connection that
//! wait for its socket are [`CHUNKS_WAITING`] at most.
//! Source: docs/design/protocol.md#streamed-replies.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;
use pollen_plane::{Plane, Sending, Sink};
use pollen_wire::{
    door::encode_chunk_head,
    frame::{self, MAX_CHUNK},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::limits::CHUNKS_WAITING;

/// What goes to a client next: a frame's head, the bytes behind it, and the room that they take.
pub(crate) struct Outgoing {
    pub(crate) head: Vec<u8>,
    pub(crate) bytes: Bytes,
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

impl Outgoing {
    /// Of an answer that takes no room of chunks.
    pub(crate) fn new(head: Vec<u8>, bytes: Bytes) -> Self {
        Self { head, bytes, room: None }
    }
}

/// Bytes of one call that its client still takes.
pub(crate) struct Credit {
    left: Mutex<u64>,
    more: Notify,
}

impl Credit {
    pub(crate) fn new(bytes: u32) -> Arc<Self> {
        Arc::new(Self { left: Mutex::new(u64::from(bytes)), more: Notify::new() })
    }

    /// The client takes so many bytes more.
    pub(crate) fn give(&self, bytes: u32) {
        let mut left = self.left.lock();
        *left = left.saturating_add(u64::from(bytes));
        drop(left);
        self.more.notify_one();
    }

    /// Waits for any credit and takes at most so many bytes of it.
    async fn take(&self, most: usize) -> usize {
        loop {
            {
                let mut left = self.left.lock();
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(most);
                if taken > 0 {
                    *left -= taken as u64;
                    return taken;
                }
            }
            self.more.notified().await;
        }
    }
}

/// The room for chunks of one connection.
pub(crate) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CHUNKS_WAITING))
}

/// The way of one call's chunks.
pub(crate) struct Chunks {
    pub(crate) plane: Plane,
    pub(crate) id: u32,
    pub(crate) credit: Arc<Credit>,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) answers: mpsc::Sender<Outgoing>,
}

impl Sink for Chunks {
    fn send(&self, piece: &Bytes) -> Sending<'_> {
        let piece = piece.slice(..piece.len().min(MAX_CHUNK));
        Box::pin(async move {
            let length = self.credit.take(piece.len()).await;
            let announced = u32::try_from(length).unwrap_or(u32::MAX);
            let Ok(room) = self.room.clone().acquire_many_owned(announced).await else { return 0 };
            let mut head = Vec::with_capacity(24);
            frame::append(&mut head, length, |out| encode_chunk_head(self.id, announced, out));
            let chunk = Outgoing { head, bytes: piece.slice(..length), room: Some(room) };
            if self.answers.send(chunk).await.is_err() {
                return 0;
            }
            let counters = self.plane.counters();
            counters.door_chunk_bytes.fetch_add(u64::from(announced), Relaxed);
            length
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credit_is_taken_in_parts_and_waited_for() {
        let credit = Credit::new(10);
        assert_eq!(credit.take(7).await, 7);
        assert_eq!(credit.take(7).await, 3);
        let waiting = tokio::spawn({
            let credit = credit.clone();
            async move { credit.take(7).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        credit.give(u32::MAX);
        credit.give(u32::MAX);
        assert_eq!(waiting.await.ok(), Some(7));
        assert_eq!(*credit.left.lock(), 2 * u64::from(u32::MAX) - 7);
    }
}
