//! `pollen-call/1` on the local socket: many calls at once for one SDK or CLI process.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use pollen_plane::{CallError, Extras, Outlet, Plane, Reply, Request, SeedRef, Trace};
use pollen_wire::{
    call::cut,
    door::{Answer, Ask, DoorCall, DoorError, DoorReply, PREFACE},
    frame::{self, MAX_DOOR, MAX_HEAD, MAX_INPUT, PREFIX},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    task::AbortHandle,
};

use crate::credit::{self, Chunks, Credit, Outgoing};

/// Calls of one connection that may be under way.
const MAX_CALLS: usize = 16_384;
/// Replies that wait for a client that does not read; then its calls wait.
const REPLIES: usize = 1024;
const READ: usize = 64 * 1024;

/// A call under way: its end, and the credit of its chunks when it streams.
struct UnderWay {
    task: AbortHandle,
    credit: Option<Arc<Credit>>,
}

type Calls = Arc<Mutex<HashMap<u32, UnderWay>>>;

/// One client: its calls, and the way of what is answered.
struct Client {
    plane: Plane,
    calls: Calls,
    answers: mpsc::Sender<Outgoing>,
    /// For chunks that wait for the socket.
    room: Arc<Semaphore>,
}

/// Serves one connection to its end; its calls are cancelled with it.
/// `preface` is what it said first.
pub(crate) async fn serve(plane: Plane, stream: UnixStream, preface: [u8; PREFACE.len()]) {
    let (read, write) = stream.into_split();
    let (answers, queue) = mpsc::channel(REPLIES);
    let writer = tokio::spawn(write_replies(write, queue));
    let client = Client { plane, calls: Calls::default(), answers, room: credit::room() };
    if let Some(reason) = client.read_asks(read, preface).await {
        let mut out = Vec::new();
        frame::append(&mut out, 0, |out| Answer::Goodbye { reason }.encode(out));
        let _ = client.answers.send(Outgoing::new(out, Bytes::new())).await;
    }
    for (_, call) in client.calls.lock().drain() {
        call.task.abort();
    }
    drop(client);
    let _ = writer.await;
}

impl Client {
    /// Reads until the client closes (`None`) or breaks the protocol (the reason).
    async fn read_asks(
        &self,
        mut read: OwnedReadHalf,
        preface: [u8; PREFACE.len()],
    ) -> Option<&'static str> {
        if preface != PREFACE {
            return Some("this is neither pollen-call/1 nor a tunnel");
        }
        let mut buffer = BytesMut::with_capacity(READ);
        loop {
            loop {
                let length = match frame::split(&buffer, MAX_DOOR) {
                    Ok(Some((_, length))) => length,
                    Ok(None) => break,
                    Err(_) => return Some("a frame is over 4 MiB and 128 KiB"),
                };
                let whole = buffer.split_to(length).freeze();
                match Ask::decode(whole.get(PREFIX..)?) {
                    Ok(ask) => self.take(ask, &whole),
                    Err(_) => return Some("a frame is not of the expected shape"),
                }
            }
            buffer.reserve(READ);
            if read.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Does what one frame asks for. An id that is answered already is no error: the two may have crossed.
    fn take(&self, ask: Ask<'_>, frame: &Bytes) {
        match ask {
            Ask::Call(call) => self.start(&call, frame),
            Ask::Cancel { id } => {
                if let Some(call) = self.calls.lock().remove(&id) {
                    call.task.abort();
                }
            }
            Ask::Credit { id, bytes } => {
                if let Some(UnderWay { credit: Some(credit), .. }) = self.calls.lock().get(&id) {
                    credit.give(bytes);
                }
            }
            Ask::Unknown(_) => {}
        }
    }

    fn start(&self, call: &DoorCall<'_>, frame: &Bytes) {
        let started = Instant::now();
        let plane = self.plane.clone();
        plane.counters().door_calls.add(1);
        let id = call.id;
        let checked = check(call, self.calls.lock().len());
        let mut request = request(&plane, call, frame, started);
        let credit = (call.credit > 0).then(|| Credit::new(call.credit));
        request.extras = self.extras(call, frame, credit.as_ref());
        let (answers, mine) = (self.answers.clone(), self.calls.clone());
        // Held over the spawn: the task cannot take its entry out before it is in.
        let mut calls = self.calls.lock();
        let task = tokio::spawn(async move {
            let reply = match checked {
                Ok(()) => plane.call(request).await,
                Err(error) => Reply::refused(error),
            };
            mine.lock().remove(&id);
            let _ = answers.send(encode(&plane, id, &reply)).await;
        });
        calls.insert(id, UnderWay { task: task.abort_handle(), credit });
    }

    /// What most calls do not have.
    fn extras(
        &self,
        call: &DoorCall<'_>,
        frame: &Bytes,
        credit: Option<&Arc<Credit>>,
    ) -> Option<Arc<Extras>> {
        if call.head.is_empty() && credit.is_none() {
            return None;
        }
        let outlet = credit.map(|credit| {
            self.plane.counters().door_streams.fetch_add(1, Relaxed);
            Outlet::new(Chunks {
                plane: self.plane.clone(),
                id: call.id,
                credit: credit.clone(),
                room: self.room.clone(),
                answers: self.answers.clone(),
            })
        });
        Some(Arc::new(Extras { head: frame.slice_ref(call.head), outlet }))
    }
}

fn check(call: &DoorCall<'_>, under_way: usize) -> Result<(), CallError> {
    if call.input.len() > MAX_INPUT {
        let reason = format!("the input is over the limit of {MAX_INPUT} bytes");
        return Err(CallError::refused("input-too-large", reason, "send less at once"));
    }
    if call.head.len() > MAX_HEAD {
        let reason = format!("the request head is {} bytes, the limit {MAX_HEAD}", call.head.len());
        return Err(CallError::refused("input-too-large", reason, "send the rest as input"));
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

fn encode(plane: &Plane, id: u32, reply: &Reply) -> Outgoing {
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
            Outgoing::new(out, output.clone())
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
            Outgoing::new(out, Bytes::new())
        }
    }
}

/// Writes what is ready at once: one system call for the replies of many calls.
async fn write_replies(mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<Outgoing>) {
    const COPY: usize = 16 * 1024;
    let mut ready = Vec::new();
    let mut out = Vec::with_capacity(READ);
    // The room of chunks that are in `out`.
    let mut rooms = Vec::new();
    while queue.recv_many(&mut ready, 64).await > 0 {
        for Outgoing { head, bytes, room } in ready.drain(..) {
            out.extend_from_slice(&head);
            rooms.extend(room);
            if bytes.len() <= COPY {
                out.extend_from_slice(&bytes);
            } else {
                if write.write_all(&out).await.is_err() || write.write_all(&bytes).await.is_err() {
                    return;
                }
                out.clear();
                rooms.clear();
            }
        }
        if write.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        rooms.clear();
    }
}
