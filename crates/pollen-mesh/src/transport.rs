//! The mesh as iroh sees it: one more network, on which a peer has one address.

use std::{
    io,
    num::NonZeroUsize,
    sync::Arc,
    task::{Context, Poll, ready},
};

use iroh::endpoint::transports::{
    CustomEndpoint, CustomSender, CustomTransport, RecvInfo, Transmit,
};
use iroh_base::CustomAddr;
use n0_watcher::Watchable;
use noq_udp::RecvMeta;
use pollen_wire::{
    Id,
    packet::{Short, short},
};

use crate::{forwarder::Mesh, inbox::Inbox};

/// Names this network in iroh's addresses; any number that no other transport of ours has.
const NETWORK: u64 = 0x706f_6c6c_656e;
/// Packets that iroh hands over at once. It takes the least of all networks, so that anything less
/// than what the kernel takes would slow IP down.
const SEGMENTS: NonZeroUsize = match NonZeroUsize::new(64) {
    Some(count) => count,
    None => NonZeroUsize::MIN,
};

/// The address "this peer, through other members".
pub fn address(peer: &Id) -> CustomAddr {
    of_short(short(peer))
}

pub(crate) fn of_short(peer: Short) -> CustomAddr {
    CustomAddr::from_parts(NETWORK, &peer.to_be_bytes())
}

pub(crate) fn peer_of(address: &CustomAddr) -> Option<Short> {
    let peer = (address.id() == NETWORK).then(|| address.data().try_into().ok());
    peer.flatten().map(Short::from_be_bytes)
}

/// The transport to build an endpoint with.
#[derive(Debug, Clone)]
pub struct Transport {
    mesh: Arc<Mesh>,
    here: Watchable<Vec<CustomAddr>>,
}

impl Transport {
    /// Of this node's mesh.
    pub fn new(mesh: Arc<Mesh>) -> Self {
        let here = Watchable::new(vec![of_short(mesh.me())]);
        Self { mesh, here }
    }
}

impl CustomTransport for Transport {
    fn bind(&self) -> io::Result<Box<dyn CustomEndpoint>> {
        Ok(Box::new(self.clone()))
    }
}

impl CustomEndpoint for Transport {
    fn watch_local_addrs(&self) -> n0_watcher::Direct<Vec<CustomAddr>> {
        self.here.watch()
    }

    fn create_sender(&self) -> Arc<dyn CustomSender> {
        Arc::new(Sender(self.mesh.clone()))
    }

    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
        metas: &mut [RecvMeta],
        infos: &mut [RecvInfo],
    ) -> Poll<io::Result<usize>> {
        receive(self.mesh.inbox(), context, buffers, metas, infos)
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        SEGMENTS
    }
}

/// Hands what waits in an inbox over to iroh.
pub(crate) fn receive(
    inbox: &Inbox,
    context: &mut Context<'_>,
    buffers: &mut [io::IoSliceMut<'_>],
    metas: &mut [RecvMeta],
    infos: &mut [RecvInfo],
) -> Poll<io::Result<usize>> {
    let most = buffers.len();
    let count = ready!(inbox.poll(context, most, |at, source, packet| {
        let room = buffers.get_mut(at).and_then(|buffer| buffer.get_mut(..packet.len()));
        let (Some(room), Some(meta), Some(info)) = (room, metas.get_mut(at), infos.get_mut(at))
        else {
            return false;
        };
        room.copy_from_slice(packet);
        // The slot still has what an IP packet left in it.
        *meta = RecvMeta::default();
        (meta.len, meta.stride) = (packet.len(), packet.len());
        *info = RecvInfo::new(of_short(source), None);
        true
    }));
    Poll::Ready(Ok(count))
}

#[derive(Debug)]
struct Sender(Arc<Mesh>);

impl CustomSender for Sender {
    fn is_valid_send_addr(&self, address: &CustomAddr) -> bool {
        peer_of(address).is_some()
    }

    /// Never pending and never an error: either would be a lost packet to iroh that nobody counts.
    fn poll_send(
        &self,
        _: &mut Context<'_>,
        to: &CustomAddr,
        _: Option<&CustomAddr>,
        transmit: &Transmit<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(to) = peer_of(to) {
            let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
            self.0.send(to, transmit.contents, segment);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_peer_and_no_other_network_is_ours() {
        let address = address(&[7; 32]);
        assert_eq!(peer_of(&address), Some(0x0707_0707_0707_0707));
        assert_eq!(peer_of(&CustomAddr::from_parts(1, &[7; 8])), None);
        assert_eq!(peer_of(&CustomAddr::from_parts(NETWORK, &[7; 9])), None);
    }
}
