//! Connections of `pollen-mesh/1`: a carrier to a neighbour is opened when packets want one, over
//! the IP path that its link has.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use iroh::{
    EndpointAddr, PublicKey, TransportAddr,
    endpoint::{ConnectOptions, Connection, VarInt},
};
use pollen_mesh::{Wanted, carry};
use pollen_wire::{Id, close};

use crate::{
    error::NetError,
    net::Net,
    transports::{self, MESH},
};

/// A neighbour that does not answer for so long is passed over: its link is there.
const ANSWER: Duration = Duration::from_secs(1);
/// How long one who dialled a carrier may be ahead of its link: it was admitted there, and not yet
/// here.
const AHEAD: Duration = Duration::from_secs(1);
impl Net {
    /// Dials the neighbours that packets want; ends with its runtime.
    pub(crate) async fn open_wanted(self, mut wanted: Wanted) {
        while let Some(hop) = wanted.next().await {
            let net = self.clone();
            tokio::spawn(async move {
                match net.dial_carrier(hop).await {
                    Ok(connection) => carry(net.mesh().clone(), connection, true).await,
                    Err(error) => {
                        tracing::debug!(%error, "no carrier");
                        net.mesh().refused(&hop);
                    }
                }
            });
        }
    }

    async fn dial_carrier(&self, hop: Id) -> Result<Connection, NetError> {
        let unreachable = |reason: &str| NetError::Unreachable(reason.to_owned());
        let address = self.link(hop).and_then(|link| link.address());
        let address = address.ok_or_else(|| unreachable("no direct link to that neighbour"))?;
        let id = PublicKey::from_bytes(&hop)
            .map_err(|e| NetError::Invalid(format!("that is not a node's key: {e}")))?;
        let to = EndpointAddr::new(id).with_addrs([TransportAddr::Ip(address)]);
        let options = ConnectOptions::new().with_transport_config(transports::of_carriers());
        let dialled = async {
            let connecting = self.endpoint().connect_with_opts(to, MESH, options).await;
            let connecting = connecting.map_err(|e| NetError::lost("a carrier", e))?;
            connecting.await.map_err(|e| NetError::lost("a carrier", e))
        };
        match tokio::time::timeout(ANSWER, dialled).await {
            Ok(dialled) => dialled,
            Err(_) => Err(unreachable("no answer within 1 s")),
        }
    }

    /// Carries packets for a peer that has a link.
    pub(crate) async fn serve_carrier(self, connection: Connection) {
        let peer = *connection.remote_id().as_bytes();
        let close = |code| connection.close(VarInt::from_u32(code), b"");
        let Some(_counted) = self.count_accepted(&connection, MESH) else {
            return close(close::DUPLICATE_LINK);
        };
        if !self.is_linked_soon(peer).await {
            return close(close::NOT_A_MEMBER);
        }
        carry(self.mesh().clone(), connection, false).await;
    }

    /// Whether a peer has a link, or has one within a second.
    pub(crate) async fn is_linked_soon(&self, peer: Id) -> bool {
        let end = Instant::now() + AHEAD;
        loop {
            let mut routed = pin!(self.routed());
            routed.as_mut().enable();
            if self.link(peer).is_some() {
                return true;
            }
            if tokio::time::timeout_at(end.into(), routed).await.is_err() {
                return false;
            }
        }
    }
}
