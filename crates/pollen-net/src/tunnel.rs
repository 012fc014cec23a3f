//! Tunnels over `pollen-bulk/1`: a stream each, opened here or by a peer. What is at their ends is
//! not known here.

use std::sync::Arc;

use iroh::endpoint::{RecvStream, SendStream, VarInt};
use pollen_wire::{Id, frame::MAX_HEADER, open::Opened};

use crate::{
    error::NetError,
    lane::{Busy, Lane, Session},
    streams::{read_frame, write_frame},
};

/// The local end broke.
pub const BROKEN: u32 = 1;
/// It is not allowed any more.
pub const CUT: u32 = 2;

/// The stream of a tunnel; dropped before both halves ended well, it is reset.
pub struct TunnelStream {
    /// Towards the peer.
    pub send: SendStream,
    /// From the peer.
    pub recv: RecvStream,
    peer: Id,
    pub(crate) lane: Arc<Lane>,
    is_complete: bool,
    pub(crate) busy: Busy,
}

/// What a tunnel is to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// Bytes of a client.
    Stream,
    /// The same of a client of a listener, with the mark of its socket.
    Marked(Id),
    /// Datagrams of a client.
    Datagrams,
    /// Bytes of a guest, whose seed this member published.
    Guest(Id),
}

/// A tunnel that a peer asks for: to be answered, and then the stream is it.
pub struct Arrived {
    /// The service.
    pub service: String,
    /// The number of its session, when it is to carry datagrams: for [`TunnelStream::session`].
    pub session: Option<u64>,
    /// Of one that a guest asks for: who published its seed, as the peer says.
    pub publisher: Option<Id>,
    /// Of a client of a listener: the mark of its socket.
    pub mark: Option<Id>,
    /// The way to the peer.
    pub stream: TunnelStream,
}

/// Why a peer refused a tunnel: a slug of the table of errors, a reason, a remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Refusal {
    pub slug: String,
    pub reason: String,
    pub remedy: String,
}

impl TunnelStream {
    pub(crate) fn new(
        peer: Id,
        lane: Arc<Lane>,
        busy: Busy,
        send: SendStream,
        recv: RecvStream,
    ) -> Self {
        Self { send, recv, peer, lane, is_complete: false, busy }
    }

    /// The node at the other end.
    pub fn peer(&self) -> Id {
        self.peer
    }

    /// The datagrams of a session that a peer opened; `None` when its number is taken. Before this
    /// none of them is kept.
    pub fn session(&self, number: u64) -> Option<Session> {
        self.lane.session(number)
    }

    /// Answers the peer's OPEN.
    pub async fn answer(&mut self, opened: &Opened<'_>) -> Result<(), NetError> {
        if opened.slug.is_empty() {
            self.busy.let_in();
        }
        write_frame(&mut self.send, |out| opened.encode(out)).await
    }

    /// Refuses the peer's OPEN, and waits until the peer has it.
    pub async fn refuse(mut self, refused: &Opened<'_>) {
        if self.answer(refused).await.is_ok() && self.send.finish().is_ok() {
            let _ = self.recv.stop(VarInt::from_u32(0));
            self.is_complete = true;
            let _ = tokio::time::timeout(crate::streams::FIRST_FRAME, self.send.stopped()).await;
        }
    }

    /// Both halves ended well: dropping it resets nothing.
    pub fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Ends both halves at once, with a code that the peer sees.
    pub fn cut(mut self, code: u32) {
        self.end(code);
    }

    fn end(&mut self, code: u32) {
        if !self.is_complete {
            self.is_complete = true;
            let _ = self.send.reset(VarInt::from_u32(code));
            let _ = self.recv.stop(VarInt::from_u32(code));
        }
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        // Left to itself a dropped stream finishes: what was cut short would look whole.
        self.end(BROKEN);
    }
}

/// The peer's answer to an OPEN.
pub async fn read_answer(recv: &mut RecvStream) -> Result<Result<(), Refusal>, NetError> {
    let body = read_frame(recv, MAX_HEADER).await?;
    let opened = Opened::decode(&body)
        .map_err(|e| NetError::Invalid(format!("the answer to a tunnel was refused: {e}")))?;
    if opened.slug.is_empty() {
        return Ok(Ok(()));
    }
    Ok(Err(Refusal {
        slug: opened.slug.to_owned(),
        reason: opened.reason.to_owned(),
        remedy: opened.remedy.to_owned(),
    }))
}
