//! Where this node is, as the endpoint tells its peers; and a direct path that is looked for again
//! while a link goes through other members.
//!
//! The endpoint offers its bound addresses and those of the interfaces by itself. It looks for a
//! direct path when an address is new to it, and else once a minute. So one that leads nowhere is
//! offered for a moment (docs/decisions/the-mesh-is-the-relay.md).

use std::{
    net::SocketAddr,
    pin::pin,
    time::{Duration, Instant},
};

use crate::net::Net;

/// After the loss of a direct path it is looked for at these times, and then each time the last of
/// them passes again.
const LOOKS: [Duration; 3] =
    [Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];
/// The address that leads nowhere is offered for so long.
const OFFERED: Duration = Duration::from_millis(500);
/// Ports of our own address on which nothing answers (discard, and one that nobody has). Two: one
/// that was offered within the last seconds is no news.
const PORTS: [u16; 2] = [9, 1];

impl Net {
    /// Others see this node at these addresses: peers are told to try a direct path to there.
    pub fn set_seen(&self, addresses: Vec<SocketAddr>) {
        *self.seen().lock() = addresses.into_iter().collect();
        let net = self.clone();
        tokio::spawn(async move {
            let mut offered = net.offered().lock().await;
            // The newest, whoever of several comes first.
            let seen = net.seen().lock().clone();
            for gone in offered.difference(&seen) {
                net.endpoint().remove_external_addr(gone).await;
            }
            for new in seen.difference(&offered) {
                net.endpoint().add_external_addr(*new).await;
            }
            *offered = seen;
        });
    }

    /// Has a direct path looked for while links that this side dialled go through other members;
    /// ends with its runtime.
    pub(crate) async fn nudge(self) {
        let mut last = Instant::now();
        let mut count = 0;
        loop {
            let mut moved = pin!(self.moved().notified());
            moved.as_mut().enable();
            let on_mesh = self.greeted().into_iter().filter(|link| link.dialled());
            let on_mesh = on_mesh.map(|link| link.on_path()).filter(|path| path.address.is_none());
            let due = on_mesh.map(|path| next_look(path.since, last)).min();
            let Some(due) = due else {
                moved.await;
                continue;
            };
            if tokio::time::timeout_at(due.into(), moved).await.is_ok() {
                continue;
            }
            last = Instant::now();
            self.look_again(count).await;
            count += 1;
        }
    }

    /// One look serves all links.
    async fn look_again(&self, count: usize) {
        let own = self.endpoint().addr().ip_addrs().next().map(SocketAddr::ip);
        let (Some(own), Some(port)) = (own, PORTS.get(count % PORTS.len())) else { return };
        let nowhere = SocketAddr::new(own, *port);
        self.endpoint().add_external_addr(nowhere).await;
        tokio::time::sleep(OFFERED).await;
        self.endpoint().remove_external_addr(&nowhere).await;
    }
}

/// When a link that is on the mesh since `since` is due for a look, after the last one.
fn next_look(since: Instant, last: Instant) -> Instant {
    let [.., every] = LOOKS;
    let first = LOOKS.iter().map(|look| since + *look).find(|at| *at > last);
    first.unwrap_or_else(|| {
        let passed = last.saturating_duration_since(since).as_secs() / every.as_secs();
        since + every * u32::try_from(passed + 1).unwrap_or(u32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_direct_path_is_looked_for_after_2_4_8_and_then_every_8_seconds() {
        let since = Instant::now();
        let mut last = since;
        let looks: Vec<u64> = std::iter::from_fn(|| {
            last = next_look(since, last);
            Some((last - since).as_secs())
        })
        .take(6)
        .collect();
        assert_eq!(looks, [2, 4, 8, 16, 24, 32]);
    }

    #[test]
    fn a_look_for_another_link_does_not_put_off_the_next() {
        let since = Instant::now();
        let last = since + Duration::from_millis(4_100);
        assert_eq!(next_look(since, last), since + Duration::from_secs(8));
    }
}
