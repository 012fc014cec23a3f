//! Whoever serves tunnels (`pollen-tunnel`), which the call path does not know.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use pollen_net::{Arrived, Refusal};
use pollen_wire::Id;

/// What is said to a service, all at once: by a guest, or by whoever measures it.
#[derive(Debug, Clone)]
pub struct ServiceAsk {
    /// The service.
    pub service: Arc<str>,
    /// Of a guest: who published its seed, and must be let in as this node must.
    pub publisher: Option<Id>,
    /// All that it says.
    pub input: Bytes,
    /// The largest answer, bytes.
    pub most: usize,
}

/// Serves tunnels that peers ask for. The call path knows nothing else of them.
pub trait TakesTunnels: Send + Sync {
    /// Takes one; must not block.
    fn serve(&self, arrived: Arrived);

    /// Says something to a service, and its end; the answer, up to the service's end. Dropped, it
    /// breaks the tunnel.
    fn ask(&self, ask: ServiceAsk) -> BoxFuture<'static, Result<Bytes, Refusal>>;
}
