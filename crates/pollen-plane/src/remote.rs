//! The caller's end of a call stream.

use std::{borrow::Cow, sync::Arc};

use bytes::{Bytes, BytesMut};
use pollen_net::{CallStream, Link, NetError, RecvStream};
use pollen_wire::{
    call::{CallHeader, ReplyHeader, Status},
    frame,
};

use crate::call::{CallError, Spent};

/// Largest output that is taken from a peer, bytes.
pub(crate) const MAX_BODY: usize = 64 * 1024 * 1024;

/// A peer's answer.
pub(crate) struct RemoteReply {
    /// The output, its return code, and whether it is a tail-call marker.
    pub(crate) result: Result<(Bytes, i32, bool), CallError>,
    /// As the peer told it: without the round trip.
    pub(crate) spent: Spent,
    pub(crate) load: u8,
}

/// Reads length-delimited pieces off a stream, whole chunks at a time.
pub(crate) struct Pieces<'a> {
    recv: &'a mut RecvStream,
    held: Bytes,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(recv: &'a mut RecvStream) -> Self {
        Self { recv, held: Bytes::new() }
    }

    /// Exactly `len` bytes; `None` when the stream ends or breaks before.
    pub(crate) async fn take(&mut self, len: usize) -> Option<Bytes> {
        if self.held.is_empty() && len > 0 {
            self.held = self.recv.read_chunk(usize::MAX).await.ok()??;
        }
        if self.held.len() >= len {
            return Some(self.held.split_to(len));
        }
        // Grows with what arrives, not with what was announced.
        let mut gathered = BytesMut::from(std::mem::take(&mut self.held));
        while gathered.len() < len {
            let mut chunk = self.recv.read_chunk(usize::MAX).await.ok()??;
            let rest = chunk.split_off(chunk.len().min(len - gathered.len()));
            gathered.extend_from_slice(&chunk);
            self.held = rest;
        }
        Some(gathered.freeze())
    }

    /// A frame's body of at most `most` bytes.
    pub(crate) async fn frame(&mut self, most: usize) -> Option<Bytes> {
        let prefix = self.take(frame::PREFIX).await?;
        let length = frame::length(*prefix.first_chunk()?, most).ok()?;
        self.take(length).await
    }

    /// Whether the stream ends here, as it must after a whole message.
    pub(crate) async fn is_over(&mut self) -> bool {
        self.held.is_empty() && matches!(self.recv.read_chunk(1).await, Ok(None))
    }
}

/// Makes one attempt over a link. Dropping the future resets the stream, which cancels the guest.
pub(crate) async fn attempt(
    link: &Arc<Link>,
    header: &CallHeader<'_>,
    input: Bytes,
) -> Result<RemoteReply, CallError> {
    let mut stream = link.open_call().await.map_err(|error| not_sent(&error))?;
    let mut sent = false;
    let answered = tokio::select! {
        biased;
        answer = exchange(&mut stream, header, input, &mut sent) => answer,
        () = link.ejected() => None,
    };
    if let Some(reply) = answered {
        stream.complete();
        return Ok(reply);
    }
    let reason = "the link broke before the reply was whole";
    Err(CallError::refused("unreachable", reason, "check the peer with pln status").executed(sent))
}

fn not_sent(error: &NetError) -> CallError {
    match error {
        NetError::Overloaded(reason) => CallError::overloaded(reason.clone(), 50),
        other => {
            CallError::refused("unreachable", other.to_string(), "check the peer with pln status")
        }
    }
}

async fn exchange(
    stream: &mut CallStream,
    header: &CallHeader<'_>,
    input: Bytes,
    sent: &mut bool,
) -> Option<RemoteReply> {
    let mut head = Vec::with_capacity(256);
    frame::append(&mut head, 0, |out| header.encode(out));
    let mut pieces = [Bytes::from(head), input];
    stream.send.write_all_chunks(&mut pieces).await.ok()?;
    // The callee runs nothing before all of the input is there.
    *sent = true;
    stream.send.finish().ok()?;

    let mut pieces = Pieces::new(&mut stream.recv);
    let head = pieces.frame(frame::MAX_HEADER).await?;
    let reply = ReplyHeader::decode(&head).ok()?;
    let length = usize::try_from(reply.output_len).ok().filter(|length| *length <= MAX_BODY)?;
    let output = pieces.take(length).await?;
    if !pieces.is_over().await {
        return None;
    }
    let result = match reply.status {
        Status::Ok | Status::GuestStatus => Ok((output, reply.guest_status, false)),
        Status::TailCall => Ok((output, 0, true)),
        Status::Failed => Err(CallError {
            slug: Cow::Owned(reply.slug.to_owned()),
            reason: reply.reason.to_owned(),
            remedy: reply.remedy.to_owned(),
            may_have_executed: reply.may_have_executed,
            retry_after_ms: reply.retry_after_ms,
        }),
    };
    Some(RemoteReply {
        result,
        spent: Spent {
            queue_us: reply.queue_us,
            run_us: reply.run_us,
            wake_us: reply.wake_us,
            rtt_us: 0,
            calls_used: reply.calls_used,
        },
        load: reply.load,
    })
}
