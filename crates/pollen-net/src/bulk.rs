//! Content and tunnels over `pollen-bulk/1`: a connection a peer beside its link, closed when idle.

use std::sync::Arc;

use iroh::endpoint::{Connection, VarInt};
use pollen_wire::{
    Id, close,
    fetch::{FetchRequest, decode_answer, encode_answer},
    frame::MAX_HEADER,
    open::{Asked, Open, Opened},
};

use crate::{
    error::NetError,
    lane::{IDLE, Lane, Session},
    net::{BULK, Net},
    streams::{FIRST_FRAME, read_frame, write_frame},
    tunnel::{Arrived, TunnelStream},
};

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
        let lane = self.lane(peer).await?;
        let _busy = lane.begin();
        let opened = lane.connection.open_bi().await;
        let (mut send, mut recv) = opened.map_err(|e| NetError::lost("asking for content", e))?;
        write_frame(&mut send, |out| request.encode(out)).await?;
        let _ = send.finish();
        let answer = read_frame(&mut recv, MAX_HEADER).await?;
        match decode_answer(&answer) {
            Ok("") => self.content().receive(request.content, most, recv).await,
            Ok(slug) => Err(NetError::Refused(slug.to_owned())),
            Err(e) => Err(NetError::Invalid(format!("the holder's answer was refused: {e}"))),
        }
    }

    /// The connection on which streams to a linked peer are opened.
    pub(crate) async fn lane(&self, peer: Id) -> Result<Arc<Lane>, NetError> {
        let slot = self.lane_slot(peer);
        let mut held = slot.lock().await;
        if let Some(lane) = held.as_ref().filter(|lane| lane.is_fresh()) {
            return Ok(lane.clone());
        }
        let link =
            self.link(peer).ok_or_else(|| NetError::Unreachable("no link to that peer".into()))?;
        let address: Vec<_> = link.address().into_iter().collect();
        let lane = Lane::new(self.connect(peer, &address, BULK).await?);
        *held = Some(lane.clone());
        Ok(lane)
    }

    pub(crate) async fn serve_bulk(self, connection: Connection) {
        let peer = *connection.remote_id().as_bytes();
        let lane = Lane::new(connection);
        loop {
            let came = tokio::time::timeout(IDLE, lane.connection.accept_bi()).await;
            // Membership is looked up for each request: a peer cut off meanwhile gets no more.
            let is_linked = self.link(peer).is_some();
            match came {
                Ok(Ok((send, recv))) if is_linked => {
                    let stream = TunnelStream::new(peer, lane.clone(), lane.begin(), send, recv);
                    tokio::spawn(self.clone().serve_stream(stream));
                }
                Ok(Ok((send, recv))) => {
                    drop(TunnelStream::new(peer, lane.clone(), lane.begin(), send, recv));
                    if lane.is_idle() {
                        break;
                    }
                }
                // What is open goes on, however long nothing new comes.
                Err(_) if !lane.is_idle() => {}
                _ => break,
            }
        }
        lane.connection.close(VarInt::from_u32(close::NOT_A_MEMBER), b"");
    }

    async fn serve_stream(self, mut stream: TunnelStream) {
        let body = match tokio::time::timeout(FIRST_FRAME, read_frame(&mut stream.recv, MAX_HEADER))
            .await
        {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return tracing::debug!(%error, "a bulk stream ended early"),
            Err(_) => return tracing::debug!("no request came on a bulk stream"),
        };
        match Asked::decode(&body) {
            Ok(Asked::Open(open)) => self.take_tunnel(stream, open).await,
            Ok(Asked::Fetch(request)) => {
                if let Err(error) = self.serve_fetch(&request, &mut stream).await {
                    tracing::debug!(%error, "serving content ended early");
                }
            }
            Err(error) => tracing::debug!(%error, "a request on a bulk stream was refused"),
        }
    }

    async fn serve_fetch(
        &self,
        request: &FetchRequest<'_>,
        stream: &mut TunnelStream,
    ) -> Result<(), NetError> {
        let slug = match self.up().may_fetch(&stream.peer(), request) {
            Err(slug) => slug,
            Ok(()) if !self.content().has(request.content).await? => "blob-not-found",
            Ok(()) => "",
        };
        write_frame(&mut stream.send, |out| encode_answer(slug, out)).await?;
        if slug.is_empty() {
            self.content().send(request.content, &mut stream.send).await?;
        }
        let _ = stream.send.finish();
        stream.complete();
        Ok(())
    }

    /// Asks a linked peer for a tunnel; with `datagrams` for a session too. The answer is read by
    /// [`crate::read_answer`], and bytes of the client may be written before it comes.
    ///
    /// `Overloaded` when there are too many, `Unreachable` when the peer is not; nothing was sent then.
    pub async fn open_tunnel(
        &self,
        peer: Id,
        service: &str,
        datagrams: bool,
    ) -> Result<(TunnelStream, Option<Session>), NetError> {
        let lane = self.lane(peer).await?;
        let busy = lane.begin_tunnel()?;
        let number = datagrams.then(|| lane.number());
        let session = number.and_then(|number| lane.session(number));
        let opened = lane.connection.open_bi().await;
        let (send, recv) = opened.map_err(|e| NetError::lost("opening a tunnel", e))?;
        let mut stream = TunnelStream::new(peer, lane, busy, send, recv);
        let open = Open { service, session: number };
        write_frame(&mut stream.send, |out| open.encode(out)).await?;
        Ok((stream, session))
    }

    /// Hands a peer's OPEN up; a session whose number is taken is refused here.
    pub(crate) async fn take_tunnel(&self, mut stream: TunnelStream, open: Open<'_>) {
        let session = open.session.map(|number| stream.lane.session(number));
        if matches!(session, Some(None)) {
            let reason = "that session exists";
            let refused = Opened { slug: "bad-request", reason, remedy: "" };
            return stream.refuse(&refused).await;
        }
        match stream.lane.begin_tunnel() {
            Ok(busy) => stream.busy = busy,
            Err(error) => {
                let reason = error.to_string();
                let refused = Opened { slug: error.slug(), reason: &reason, remedy: "" };
                return stream.refuse(&refused).await;
            }
        }
        let service = open.service.to_owned();
        self.up().tunnel(Arrived { service, session: session.flatten(), stream });
    }
}
