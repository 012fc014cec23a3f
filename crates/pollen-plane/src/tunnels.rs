//! Whoever serves tunnels (`pollen-tunnel`), which the call path does not know.

use pollen_net::Arrived;

/// Serves tunnels that peers ask for. The call path knows nothing else of them.
pub trait TakesTunnels: Send + Sync {
    /// Takes one; must not block.
    fn serve(&self, arrived: Arrived);
}
