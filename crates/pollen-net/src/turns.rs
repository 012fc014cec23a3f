//! Who may begin to read from the store.
//!
//! iroh-blobs 0.104 has a queue of 32 for what begins on one content, and refuses as busy what finds it full:
//! the 33rd reader of a site that came at once had its answer broken off. What waits here for its turn
//! is not refused.
//!
//! Invariants: a turn ends when something came, so that a slow reader keeps nobody waiting.

use std::{future::Future, sync::Arc};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::Semaphore;

/// Turns at once. Half of the queue: others than readers stand there as well.
const TURNS: usize = 16;

#[derive(Clone)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(TURNS)))
    }

    /// A stream that has begun.
    pub(crate) async fn begun<S: Stream + Unpin>(
        self,
        mut items: S,
    ) -> impl Stream<Item = S::Item> {
        let first = self.within(items.next()).await;
        stream::iter(first).chain(items)
    }

    /// What ends within a turn.
    pub(crate) async fn within<T>(&self, what: impl Future<Output = T>) -> T {
        // It is never closed.
        let _turn = self.0.acquire().await;
        what.await
    }
}
