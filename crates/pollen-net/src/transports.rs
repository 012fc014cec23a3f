//! The settings of connections: of links and bulk connections, and of carriers. Their reasons stand in docs/design/protocol.md#transport.

use std::{sync::Arc, time::Duration};

use iroh::{
    Endpoint,
    endpoint::{Incoming, MtuDiscoveryConfig, QuicTransportConfig, ServerConfig, VarInt},
};
use pollen_mesh::{RECEIVE_BUFFER, SEND_BUFFER};
use pollen_rules::numbers::LINK_IDLE_END;

use crate::link::{MAX_CALLS, MAX_STREAMING};

pub(crate) const LINK: &[u8] = b"pollen/1";
pub(crate) const BULK: &[u8] = b"pollen-bulk/1";
pub(crate) const JOIN: &[u8] = b"pollen-join/1";
pub(crate) const MESH: &[u8] = b"pollen-mesh/1";

/// Datagrams that wait on a connection, bytes. 1,400 of the largest: at 5,000 a second a reader may
/// be 0.2 s late.
const DATAGRAMS: usize = 2 * 1024 * 1024;
/// What a stream of a bulk connection may have unread, bytes. With half of it a transfer on loopback
/// takes 15 % more cpu, and over 80 ms a stream carries 3.3 MB/s in place of 6.6. Much more is not
/// safe: a stream with over 1,024 pieces behind a missing one ends its connection (noq 1.4), as 4 MiB
/// did at once.
pub(crate) const BULK_WINDOW: u32 = 512 * 1024;
/// The same of a link's streams.
const LINK_WINDOW: u32 = 256 * 1024;
/// What the streams of one connection may have unread together, bytes. A bulk connection grows by its
/// tunnels.
pub(crate) const WINDOW: u32 = 64 * 1024 * 1024;
/// Readers that never read leave half of a link to all other calls.
const _: () = assert!(MAX_STREAMING * LINK_WINDOW as usize <= WINDOW as usize / 2);
/// A path on which nothing comes for so long is given up, when there is another. The time begins
/// again with what is sent first after a silence, so a cut is noticed after this and one
/// [`KEEP_ALIVE`] at most.
const PATH_IDLE: Duration = Duration::from_millis(2_100);
/// Of bulk connections: what runs on them outlives a path. Who has two paths acknowledges on the
/// better one alone. When that is cut, the other stays alive by pings of both sides, and a ping is
/// put off by what comes. QUIC's repeats come after 60, 120, 240, 480 and 960 ms and so on: the
/// interval must be shorter than a gap among those that lies well before [`PATH_IDLE`], or both
/// paths end together. Connections that began over IP have it as well: they get a second path later.
const BULK_KEEP_ALIVE: Duration = Duration::from_millis(500);
/// Of links. Each ping on a path that only stands by costs the member in the middle 415 bytes. With
/// this 2 of 12 cuts ended both paths of a link; the brain dials another one then.
const LINK_KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How often a path is probed for larger packets. A connection through other members that probed
/// while the carrier beneath it was fresh found none; QUIC's own 10 minutes are long for that.
const MTU_AGAIN: Duration = Duration::from_secs(60);

/// A carrier on which nothing goes is kept alive so seldom: the link beside it keeps the NATs open.
const CARRIER_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Without a packet for so long a carrier ends by itself.
const CARRIER_IDLE_END_MS: u32 = 20_000;

/// Of carriers.
pub(crate) fn of_carriers() -> QuicTransportConfig {
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(Some(RECEIVE_BUFFER))
        .datagram_send_buffer_size(SEND_BUFFER)
        .keep_alive_interval(CARRIER_KEEP_ALIVE)
        .default_path_keep_alive_interval(CARRIER_KEEP_ALIVE)
        .max_idle_timeout(Some(VarInt::from_u32(CARRIER_IDLE_END_MS).into()))
        .build()
}

/// Of links, over IP and through other members.
pub(crate) fn of_links() -> QuicTransportConfig {
    of_streams(LINK_KEEP_ALIVE, LINK_WINDOW)
}

/// Of bulk connections.
pub(crate) fn of_bulk() -> QuicTransportConfig {
    of_streams(BULK_KEEP_ALIVE, BULK_WINDOW)
}

fn of_streams(keep_alive: Duration, window: u32) -> QuicTransportConfig {
    let streams = u32::try_from(MAX_CALLS + 64).unwrap_or(u32::MAX);
    let idle_ms = u32::try_from(LINK_IDLE_END.as_millis()).unwrap_or(u32::MAX);
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.interval(MTU_AGAIN);
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(window))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .datagram_receive_buffer_size(Some(DATAGRAMS))
        .datagram_send_buffer_size(DATAGRAMS)
        .default_path_keep_alive_interval(keep_alive)
        .default_path_max_idle_timeout(PATH_IDLE)
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(Some(VarInt::from_u32(idle_ms).into()))
        .build()
}

/// How carriers and bulk connections are accepted: the endpoint's own settings are those of links.
pub(crate) struct Accept {
    carriers: Arc<ServerConfig>,
    bulk: Arc<ServerConfig>,
}

impl Accept {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        let of = |alpn: &[u8], settings| {
            let builder = endpoint.create_server_config_builder(vec![alpn.to_vec()]);
            Arc::new(builder.set_transport_config(settings).build())
        };
        Self { carriers: of(MESH, of_carriers()), bulk: of(BULK, of_bulk()) }
    }

    /// The settings for who comes; `None`: those of the endpoint. A connection that is not told apart
    /// gets these.
    pub(crate) fn for_whom(&self, incoming: &Incoming) -> Option<Arc<ServerConfig>> {
        let mut alpns = incoming.decrypt().and_then(|first| first.alpns())?;
        let found = alpns.find_map(|alpn| match alpn {
            Ok(alpn) if alpn == MESH => Some(&self.carriers),
            Ok(alpn) if alpn == BULK => Some(&self.bulk),
            _ => None,
        });
        found.cloned()
    }
}
