//! Content over `pollen-bulk/1`: a connection a peer that carries nothing else, closed when idle.

use std::time::Duration;

use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use pollen_wire::{
    Id, close,
    fetch::{FetchRequest, decode_answer, encode_answer},
    frame::MAX_HEADER,
};

use crate::{
    error::NetError,
    net::{BULK, Net},
    streams::{FIRST_FRAME, read_frame, write_frame},
};

/// An idle bulk connection is closed after this time.
const IDLE: Duration = Duration::from_secs(30);

impl Net {
    /// Fetches content from a linked peer into the store; nothing is done when it is held.
    ///
    /// `Refused` carries the holder's slug; any other error is worth trying another holder for.
    pub async fn fetch(
        &self,
        peer: Id,
        request: FetchRequest<'_>,
        most: u64,
    ) -> Result<(), NetError> {
        if self.content().has(request.content).await? {
            return Ok(());
        }
        let connection = self.bulk(peer).await?;
        let (mut send, mut recv) =
            connection.open_bi().await.map_err(|e| NetError::lost("asking for content", e))?;
        write_frame(&mut send, |out| request.encode(out)).await?;
        let _ = send.finish();
        let answer = read_frame(&mut recv, MAX_HEADER).await?;
        match decode_answer(&answer) {
            Ok("") => self.content().receive(request.content, most, recv).await,
            Ok(slug) => Err(NetError::Refused(slug.to_owned())),
            Err(e) => Err(NetError::Invalid(format!("the holder's answer was refused: {e}"))),
        }
    }

    async fn bulk(&self, peer: Id) -> Result<Connection, NetError> {
        let slot = self.bulk_slot(peer);
        let mut held = slot.lock().await;
        if let Some(connection) = held.as_ref().filter(|c| c.close_reason().is_none()) {
            return Ok(connection.clone());
        }
        let link =
            self.link(peer).ok_or_else(|| NetError::Unreachable("no link to that peer".into()))?;
        let address: Vec<_> = link.address().into_iter().collect();
        let connection = self.connect(peer, &address, BULK).await?;
        *held = Some(connection.clone());
        Ok(connection)
    }

    pub(crate) async fn serve_bulk(self, connection: Connection) {
        let peer = *connection.remote_id().as_bytes();
        while let Ok(Ok((send, recv))) = tokio::time::timeout(IDLE, connection.accept_bi()).await {
            // Membership is looked up for each request: a peer cut off meanwhile gets no more.
            if self.link(peer).is_none() {
                break;
            }
            let net = self.clone();
            tokio::spawn(async move {
                if let Err(error) = net.serve_fetch(peer, send, recv).await {
                    tracing::debug!(%error, "serving content ended early");
                }
            });
        }
        connection.close(VarInt::from_u32(close::NOT_A_MEMBER), b"");
    }

    async fn serve_fetch(
        &self,
        peer: Id,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), NetError> {
        let body = tokio::time::timeout(FIRST_FRAME, read_frame(&mut recv, MAX_HEADER))
            .await
            .map_err(|_| NetError::Unreachable("no request came".into()))??;
        let request = FetchRequest::decode(&body)
            .map_err(|e| NetError::Invalid(format!("a content request was refused: {e}")))?;
        let slug = match self.up().may_fetch(&peer, &request) {
            Err(slug) => slug,
            Ok(()) if !self.content().has(request.content).await? => "blob-not-found",
            Ok(()) => "",
        };
        write_frame(&mut send, |out| encode_answer(slug, out)).await?;
        if slug.is_empty() {
            self.content().send(request.content, &mut send).await?;
        }
        let _ = send.finish();
        Ok(())
    }
}
