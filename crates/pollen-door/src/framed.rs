//! `pollen-call/1` on the local socket: many calls at once for one SDK or CLI process.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use pollen_plane::{CallError, Plane, Reply, Request, SeedRef, Trace};
use pollen_wire::{
    call::cut,
    door::{Answer, Ask, DoorCall, DoorError, DoorReply, PREFACE},
    frame::{self, MAX_DOOR, MAX_INPUT, PREFIX},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::AbortHandle,
};

/// Calls of one connection that may be under way.
const MAX_CALLS: usize = 16_384;
/// Replies that wait for a client that does not read; then its calls wait.
const REPLIES: usize = 1024;
const READ: usize = 64 * 1024;

type Calls = Arc<Mutex<HashMap<u32, AbortHandle>>>;

/// Serves one connection to its end; its calls are cancelled with it.
pub(crate) async fn serve(plane: Plane, stream: UnixStream) {
    let (read, write) = stream.into_split();
    let (replies, queue) = mpsc::channel(REPLIES);
    let writer = tokio::spawn(write_replies(write, queue));
    let calls = Calls::default();
    if let Some(reason) = read_asks(&plane, read, &replies, &calls).await {
        let mut out = Vec::new();
        frame::append(&mut out, 0, |out| Answer::Goodbye { reason }.encode(out));
        let _ = replies.send((out, Bytes::new())).await;
    }
    for (_, call) in calls.lock().drain() {
        call.abort();
    }
    drop(replies);
    let _ = writer.await;
}

/// Reads until the client closes (`None`) or breaks the protocol (the reason).
async fn read_asks(
    plane: &Plane,
    mut read: OwnedReadHalf,
    replies: &mpsc::Sender<(Vec<u8>, Bytes)>,
    calls: &Calls,
) -> Option<&'static str> {
    let mut buffer = BytesMut::with_capacity(READ);
    while buffer.len() < PREFACE.len() {
        if read.read_buf(&mut buffer).await.ok()? == 0 {
            return None;
        }
    }
    if buffer.get(..PREFACE.len()) != Some(&PREFACE) {
        return Some("this is not pollen-call/1");
    }
    buffer.advance(PREFACE.len());
    loop {
        loop {
            let length = match frame::split(&buffer, MAX_DOOR) {
                Ok(Some((_, length))) => length,
                Ok(None) => break,
                Err(_) => return Some("a frame is over 4 MiB and 128 KiB"),
            };
            let whole = buffer.split_to(length).freeze();
            match Ask::decode(whole.get(PREFIX..)?) {
                Ok(Ask::Call(call)) => start(plane, &call, &whole, replies, calls),
                Ok(Ask::Cancel { id }) => {
                    if let Some(call) = calls.lock().remove(&id) {
                        call.abort();
                    }
                }
                Ok(Ask::Credit { .. } | Ask::Unknown(_)) => {}
                Err(_) => return Some("a frame is not of the expected shape"),
            }
        }
        buffer.reserve(READ);
        if read.read_buf(&mut buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn start(
    plane: &Plane,
    call: &DoorCall<'_>,
    frame: &Bytes,
    replies: &mpsc::Sender<(Vec<u8>, Bytes)>,
    calls: &Calls,
) {
    let started = Instant::now();
    plane.counters().door_calls.add(1);
    let id = call.id;
    let checked = check(call, calls.lock().len());
    let request = request(plane, call, frame, started);
    let (plane, replies, mine) = (plane.clone(), replies.clone(), calls.clone());
    // Held over the spawn: the task cannot take its entry out before it is in.
    let mut calls = calls.lock();
    let task = tokio::spawn(async move {
        let reply = match checked {
            Ok(()) => plane.call(request).await,
            Err(error) => Reply::refused(error),
        };
        mine.lock().remove(&id);
        let _ = replies.send(encode(&plane, id, &reply)).await;
    });
    calls.insert(id, task.abort_handle());
}

fn check(call: &DoorCall<'_>, under_way: usize) -> Result<(), CallError> {
    if call.input.len() > MAX_INPUT {
        let reason = format!("the input is over the limit of {MAX_INPUT} bytes");
        return Err(CallError::refused("input-too-large", reason, "send less at once"));
    }
    if call.budget_ms == 0 {
        return Err(CallError::refused("bad-request", "a call needs a time-out above 0", ""));
    }
    if under_way >= MAX_CALLS {
        let reason = format!("{MAX_CALLS} calls are under way on this connection");
        return Err(CallError::overloaded(reason, 50));
    }
    Ok(())
}

fn request(plane: &Plane, call: &DoorCall<'_>, frame: &Bytes, started: Instant) -> Request {
    let budget = Duration::from_millis(u64::from(call.budget_ms));
    let function = call.function.map(Into::into);
    let input = frame.slice_ref(call.input);
    let mut request = plane.request(SeedRef::parse(call.seed), function, input, started, budget);
    (request.retries, request.idempotent) = (call.retries, call.idempotent);
    if let Some(caller) = call.traceparent.and_then(Trace::parse) {
        request.trace = caller.child();
    }
    request
}

fn encode(plane: &Plane, id: u32, reply: &Reply) -> (Vec<u8>, Bytes) {
    let mut out = Vec::with_capacity(96);
    match &reply.result {
        Ok((output, status)) => {
            let answer = DoorReply {
                id,
                guest_status: (*status != 0).then_some(*status),
                node: reply.node.unwrap_or(plane.id()),
                attempts: reply.attempts,
                queue_us: reply.spent.queue_us,
                run_us: reply.spent.run_us,
                total_us: reply.total_us,
                rtt_us: reply.spent.rtt_us,
                wake_us: reply.spent.wake_us,
                output: &[],
            };
            let length = u32::try_from(output.len()).unwrap_or(u32::MAX);
            frame::append(&mut out, output.len(), |out| answer.encode_head(length, out));
            (out, output.clone())
        }
        Err(error) => {
            let answer = Answer::Error(DoorError {
                id,
                slug: &error.slug,
                reason: cut(&error.reason),
                remedy: cut(&error.remedy),
                node: reply.node,
                attempts: reply.attempts,
                may_have_executed: error.may_have_executed,
                retry_after_ms: error.retry_after_ms,
            });
            frame::append(&mut out, 0, |out| answer.encode(out));
            (out, Bytes::new())
        }
    }
}

/// Writes what is ready at once: one system call for the replies of many calls.
async fn write_replies(mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<(Vec<u8>, Bytes)>) {
    const COPY: usize = 16 * 1024;
    let mut ready = Vec::new();
    let mut out = Vec::with_capacity(READ);
    while queue.recv_many(&mut ready, 64).await > 0 {
        for (head, output) in ready.drain(..) {
            out.extend_from_slice(&head);
            if output.len() <= COPY {
                out.extend_from_slice(&output);
            } else {
                if write.write_all(&out).await.is_err() || write.write_all(&output).await.is_err() {
                    return;
                }
                out.clear();
            }
        }
        if write.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
    }
}
