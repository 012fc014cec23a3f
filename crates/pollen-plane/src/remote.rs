//! The caller's end of a call stream.

use std::{borrow::Cow, sync::Arc, time::Instant};

use bytes::Bytes;
use pollen_net::{CallStream, Link, NetError, Streaming};
use pollen_wire::{
    call::{Answered, CallHeader, ReplyHeader, Status},
    frame,
};

use crate::{
    call::{CallError, Spent},
    outlet::Outlet,
    pieces::Pieces,
};

/// Largest output that is taken from a peer, bytes.
pub(crate) const MAX_BODY: usize = 64 * 1024 * 1024;

/// A peer's answer.
pub(crate) struct RemoteReply {
    /// The output, its return code, and whether it is a tail-call marker.
    pub(crate) result: Result<(Bytes, i32, bool), CallError>,
    /// As the peer told it: without the round trip.
    pub(crate) spent: Spent,
    pub(crate) fullness: u8,
}

/// Makes one attempt over a link; what comes in chunks goes by the outlet. Dropping the future resets the
/// stream, which cancels the guest.
pub(crate) async fn attempt(
    link: &Arc<Link>,
    header: &CallHeader<'_>,
    input: Bytes,
    outlet: Option<&Outlet>,
) -> Result<RemoteReply, CallError> {
    let mut stream = link.open_call().await.map_err(|error| not_sent(&error))?;
    let mut sent = false;
    let answered = tokio::select! {
        biased;
        answer = exchange(&mut stream, header, input, outlet, &mut sent) => answer,
        () = link.ejected() => None,
    };
    if let Some(reply) = answered {
        stream.complete();
        return Ok(reply);
    }
    let reason = "the link broke before the reply was whole";
    Err(CallError::refused("unreachable", reason, "check the peer with pln status").executed(sent))
}

/// The turn of a call whose answer comes in chunks, before its deadline; nothing was sent.
pub(crate) async fn turn(
    link: &Link,
    is_stranger: bool,
    deadline: Instant,
) -> Result<Streaming, CallError> {
    match tokio::time::timeout_at(deadline.into(), link.begin_streaming(is_stranger)).await {
        Ok(turn) => turn.map_err(|error| not_sent(&error)),
        Err(_) => Err(CallError::deadline(false)),
    }
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
    outlet: Option<&Outlet>,
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
    let head = match outlet {
        None => pieces.frame(frame::MAX_HEADER).await?,
        // Boxed: the future of every call would grow by it.
        Some(outlet) => Box::pin(hand_on(&mut pieces, outlet)).await?,
    };
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
        fullness: reply.fullness,
    })
}

/// Hands chunks on, one at a time, until the frame of the reply, which it returns.
async fn hand_on(pieces: &mut Pieces<'_>, outlet: &Outlet) -> Option<Bytes> {
    loop {
        let body = pieces.frame(frame::MAX_ANSWER).await?;
        match Answered::decode(&body).ok()? {
            Answered::Reply(_) => return Some(body),
            Answered::Chunk(chunk) => {
                let chunk = body.slice_ref(chunk);
                if !outlet.send(chunk).await {
                    return None;
                }
            }
        }
    }
}
