//! Content and tunnels over `pollen-bulk/1`: a connection a peer beside its link, closed when idle.

use std::sync::Arc;

use iroh::endpoint::{Connection, RecvStream, VarInt};
use pollen_wire::{
    Id, close,
    fetch::{FetchAnswer, FetchRequest},
    frame::MAX_HEADER,
    open::{Asked, Open, Opened},
};
use tokio::sync::OwnedMutexGuard;

use crate::{
    arriving::Part,
    error::NetError,
    lane::{Busy, LEFT, Lane, Session},
    link::Link,
    net::{Aim, Net},
    slot::Slot,
    streams::{FIRST_FRAME, read_frame, write_frame},
    transports::BULK,
    tunnel::{Arrived, Carries, TunnelStream},
};

/// What a holder gives.
pub(crate) struct Given {
    /// Bytes of the whole; none from a holder of before pieces, which sends all of it.
    pub(crate) size: Option<u64>,
    /// Groups that it leaves out, from the begin of the piece.
    pub(crate) skip: u32,
    pub(crate) recv: RecvStream,
    /// As long as it is held the connection stays.
    pub(crate) busy: Busy,
}

impl Net {
    /// Asks a linked peer for content, or a piece of it: its answer, and the stream that the bytes come
    /// on. The answer says how large the whole is, unless the peer is of before pieces.
    ///
    /// `Refused` carries the holder's slug; any other error is worth trying another holder for.
    pub(crate) async fn ask_content(
        &self,
        peer: Id,
        request: FetchRequest<'_>,
    ) -> Result<Given, NetError> {
        let (lane, busy) = self.lane(peer).await?;
        let opened = lane.connection.open_bi().await;
        let (mut send, mut recv) = opened.map_err(|e| NetError::lost("asking for content", e))?;
        write_frame(&mut send, |out| request.encode(out)).await?;
        let _ = send.finish();
        let answer = read_frame(&mut recv, MAX_HEADER).await?;
        match FetchAnswer::decode(&answer) {
            Ok(FetchAnswer { slug: "", skip, .. }) if skip > request.skip => {
                let asked = request.skip;
                let reason = format!("a holder left out {skip} groups of a piece, and not {asked}");
                Err(NetError::Corrupt(reason))
            }
            Ok(FetchAnswer { slug: "", size, skip }) => Ok(Given { size, skip, recv, busy }),
            Ok(FetchAnswer { slug, .. }) => Err(NetError::Refused(slug.to_owned())),
            Err(e) => Err(NetError::Invalid(format!("the holder's answer was refused: {e}"))),
        }
    }

    /// The connection on which streams to a linked peer are opened, and a place on it. All who come
    /// while it is dialled wait for one dial, and share its failure.
    async fn lane(&self, peer: Id) -> Result<(Arc<Lane>, Busy), NetError> {
        let held = self.lane_slot(peer).lock_owned().await;
        if let Some(begun) = held.begin() {
            return Ok(begun);
        }
        let link =
            self.link(peer).ok_or_else(|| NetError::Unreachable("no link to that peer".into()))?;
        if let Some(error) = held.error(link.id()) {
            return Err(error);
        }
        // A task of its own: who gives up waiting does not end it for the others.
        let dialled = tokio::spawn(self.clone().dial_lane(held, link)).await;
        dialled.unwrap_or_else(|e| Err(NetError::lost("dialling for a stream", e)))
    }

    async fn dial_lane(
        self,
        mut held: OwnedMutexGuard<Slot>,
        link: Arc<Link>,
    ) -> Result<(Arc<Lane>, Busy), NetError> {
        let peer = link.peer();
        let addresses: Vec<_> = link.address().into_iter().collect();
        let by_mesh = addresses.is_empty() || self.has_hops(&peer);
        let aim = Aim { addresses: &addresses, by_mesh };
        let begun = self.connect(peer, aim, BULK).await.and_then(|connection| {
            let lane = Lane::new(connection);
            let closed = || NetError::Unreachable("the peer closed the connection".into());
            let busy = lane.begin().ok_or_else(closed)?;
            Ok((lane, busy))
        });
        let (lane, busy) = begun.inspect_err(|error| held.fail(link.id(), error))?;
        tokio::spawn(lane.clone().end_idle());
        *held = Slot::Held(lane.clone());
        drop(held);
        self.bulk_begun().notify_waiters();
        Ok((lane, busy))
    }

    pub(crate) async fn serve_bulk(self, connection: Connection) {
        let peer = *connection.remote_id().as_bytes();
        let lane = Lane::new(connection);
        let _counted = match self.count_accepted(&lane.connection, BULK) {
            Some(counted) => counted,
            None => return lane.connection.close(VarInt::from_u32(close::DUPLICATE_LINK), b""),
        };
        self.bulk_begun().notify_waiters();
        let mut wait = LEFT;
        loop {
            let came = tokio::time::timeout(wait, lane.connection.accept_bi()).await;
            match came {
                Ok(Ok((send, recv))) => {
                    let Some(busy) = lane.begin() else { break };
                    let stream = TunnelStream::new(peer, lane.clone(), busy, send, recv);
                    // Membership is looked up for each request: a peer cut off meanwhile gets no more.
                    // One that asks at once may be ahead of its link, or between two of them.
                    if self.is_linked_soon(peer).await {
                        tokio::spawn(self.clone().serve_stream(stream));
                    } else {
                        drop(stream);
                        if lane.is_idle() {
                            break;
                        }
                    }
                }
                Ok(Err(_)) => break,
                // The other side closes it. One that does not is closed here, much later.
                Err(_) => match lane.close_idle(LEFT) {
                    Some(left) => wait = left,
                    None => break,
                },
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
                let Err(error) = self.serve_fetch(&request, &mut stream).await else { return };
                tracing::debug!(%error, "serving content ended early");
                // The reader goes on to another holder.
                drop(stream);
                if let NetError::Unread(_) = error {
                    self.up().suspect(request.content);
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
        let size = match self.up().may_fetch(&stream.peer(), request) {
            Err(slug) => Err(slug),
            Ok(owner) if !self.content().is_for(request.content, owner).await? => {
                Err("blob-not-found")
            }
            Ok(_) => self.content().size(request.content).await?.ok_or("blob-not-found"),
        };
        let part = size.map(|size| Part { piece: request.piece, skip: request.skip, size });
        let part = part.and_then(|part| part.chunks().map(|_| part).ok_or("bad-request"));
        let answer = match part {
            Ok(Part { size, skip, .. }) => FetchAnswer { slug: "", size: Some(size), skip },
            Err(slug) => FetchAnswer { slug, size: None, skip: 0 },
        };
        write_frame(&mut stream.send, |out| answer.encode(out)).await?;
        if let Ok(part) = part {
            self.content().send(request.content, part, &mut stream.send).await?;
        }
        let _ = stream.send.finish();
        stream.complete();
        Ok(())
    }

    /// Asks a linked peer for a tunnel, and where it carries datagrams for a session. The answer is
    /// read by [`crate::read_answer`], and bytes of the client may be written before it comes.
    ///
    /// `Overloaded` when there are too many, `Unreachable` when the peer is not; nothing was sent then.
    pub async fn open_tunnel(
        &self,
        peer: Id,
        service: &str,
        carries: Carries,
    ) -> Result<(TunnelStream, Option<Session>), NetError> {
        let (lane, mut busy) = self.lane(peer).await?;
        busy.begin_tunnel()?;
        busy.let_in();
        let number = (carries == Carries::Datagrams).then(|| lane.number());
        let session = number.and_then(|number| lane.session(number));
        let opened = lane.connection.open_bi().await;
        let (send, recv) = opened.map_err(|e| NetError::lost("opening a tunnel", e))?;
        let mut stream = TunnelStream::new(peer, lane, busy, send, recv);
        let (publisher, mark) = match carries {
            Carries::Guest(publisher) => (Some(publisher), None),
            Carries::Marked(mark) => (None, Some(mark)),
            Carries::Stream | Carries::Datagrams => (None, None),
        };
        let open = Open { service, session: number, publisher, mark };
        write_frame(&mut stream.send, |out| open.encode(out)).await?;
        Ok((stream, session))
    }

    /// Hands a peer's OPEN up.
    async fn take_tunnel(&self, mut stream: TunnelStream, open: Open<'_>) {
        if let Err(error) = stream.busy.begin_tunnel() {
            let reason = error.to_string();
            let refused = Opened { slug: error.slug(), reason: &reason, remedy: "" };
            return stream.refuse(&refused).await;
        }
        let Open { service, session, publisher, mark } = open;
        let service = service.to_owned();
        self.up().tunnel(Arrived { service, session, publisher, mark, stream });
    }
}
