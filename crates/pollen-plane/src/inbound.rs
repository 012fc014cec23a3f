//! The callee's end of a call stream.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use pollen_net::{Link, RecvStream, SendStream};
use pollen_rules::Wake;
use pollen_wire::{
    call::{CallHeader, ReplyHeader, Status, cut},
    frame::{self, MAX_INPUT},
};

use crate::{
    call::{CallError, Principal},
    counters::count,
    host::{Arrived, Ran, execute},
    loading::not_woken,
    outlet::{Extras, Outlet},
    pieces::{Half, Pieces},
    plane::Plane,
    seen::Seen,
    tail,
    trace::Trace,
};

/// Longest budget that a peer may ask for.
const MAX_BUDGET: Duration = Duration::from_secs(3600);

/// Serves one call of an admitted peer to its end. The caller's STOP_SENDING drops the guest.
pub(crate) async fn serve(plane: Plane, link: Arc<Link>, send: SendStream, mut recv: RecvStream) {
    plane.counters().link_calls.add(1);
    let _serving = link.begin_serving();
    let stopped = send.stopped();
    let mut half = Some(Half::Whole(send));
    let ran = tokio::select! {
        biased;
        ran = answer(&plane, &link, &mut recv, &mut half) => ran,
        _ = stopped => None,
    };
    let Some(half) = half else { return };
    // Not even a whole request, or a caller that went away: there is nobody to tell.
    let Some(ran) = ran else {
        count(&plane.counters().cancelled);
        half.reset().await;
        return;
    };
    let (head, output) = encode(&plane, ran);
    half.finish([Bytes::from(head), output]).await;
}

async fn answer(
    plane: &Plane,
    link: &Arc<Link>,
    recv: &mut RecvStream,
    half: &mut Option<Half>,
) -> Option<Ran> {
    let mut pieces = Pieces::new(recv);
    let head = pieces.frame(frame::MAX_CALL).await?;
    let header = CallHeader::decode(&head).ok()?;
    let length = usize::try_from(header.input_len).ok()?;
    if length > MAX_INPUT {
        let reason = format!("an input of {length} bytes is over the limit of {MAX_INPUT}");
        return Some(refused(CallError::refused("input-too-large", reason, "send less at once")));
    }
    let input = pieces.take(length).await?;
    if !pieces.is_over().await {
        return None;
    }
    let (mut arrived, is_new) = match accept(plane, link, &header, input) {
        Ok(accepted) => accepted,
        Err(error) => return Some(refused(error)),
    };
    if header.stream || !header.head.is_empty() {
        let outlet = if header.stream { chunked(plane, half) } else { None };
        arrived.extras = Some(Arc::new(Extras { head: head.slice_ref(header.head), outlet }));
    }
    let local = arrived.entry.local.clone();
    let ran = execute(plane, &local.counters, arrived).await;
    if is_new && ran.result.as_ref().is_err_and(|error| !error.may_have_executed) {
        // It did not run. When this node has the seed again the call may come again.
        plane.seen().forget(header.call);
    }
    Some(ran)
}

/// The way of the reply's chunks, by the stream that the reply itself will end.
fn chunked(plane: &Plane, half: &mut Option<Half>) -> Option<Outlet> {
    let (chunked, sink) = half.take()?.chunked(plane);
    *half = Some(chunked);
    sink.map(Outlet::new)
}

/// Everything that is decided before the gate; and whether the call's id was not known here.
fn accept(
    plane: &Plane,
    link: &Link,
    header: &CallHeader<'_>,
    input: Bytes,
) -> Result<(Arrived, bool), CallError> {
    if !plane.tables().is_leased() {
        let reason = "this node's brain is silent: it takes no calls from afar";
        return Err(CallError::refused("unreachable", reason, "see pln logs on that node"));
    }
    let tables = plane.tables().load();
    let entry = tables.seed(&header.seed).ok_or_else(|| {
        let reason = "this node knows no such version of the seed";
        CallError::refused("seed-not-found", reason, "pln status seeds")
    })?;
    if header.wake {
        let verdict = plane.judge_wake(entry, true, entry.local.flight.lock().is_some());
        if matches!(verdict, Wake::Silent | Wake::Overloaded | Wake::Refuse) {
            return Err(not_woken(verdict, entry));
        }
    }
    // The way here may have broken under it: where that does no harm, it runs once more.
    let is_again = header.idempotent && header.attempt > 0;
    let seen = plane.seen().note(header.call, header.attempt, Instant::now());
    match seen {
        Seen::New => {}
        Seen::Before | Seen::Forgotten if is_again => {}
        Seen::Before => {
            count(&plane.counters().duplicates);
            let reason = "this call was here before and is not run twice";
            return Err(CallError::refused("unreachable", reason, "").executed(true));
        }
        Seen::Forgotten => {
            let reason = "this call may have been here before: too many calls to remember";
            return Err(CallError::refused("unreachable", reason, "").executed(true));
        }
    }
    let budget = Duration::from_micros(header.budget_us).min(MAX_BUDGET);
    let arrived = Arrived {
        id: header.call,
        entry: entry.clone(),
        function: header.function.into(),
        input,
        wake: header.wake,
        deadline: Instant::now() + budget,
        hops: header.hops,
        calls_left: header.calls_left,
        retries: header.retries,
        principal: Principal::Node(link.peer()),
        acting: header.acting_seed,
        origin: header.origin,
        above: None,
        extras: None,
        trace: Trace::parse(header.traceparent)
            .map_or_else(|| Trace::root(header.call, false), |caller| caller.child()),
    };
    Ok((arrived, seen == Seen::New))
}

fn refused(error: CallError) -> Ran {
    Ran::refused(error)
}

fn encode(plane: &Plane, ran: Ran) -> (Vec<u8>, Bytes) {
    let mut reply = ReplyHeader {
        status: Status::Failed,
        guest_status: 0,
        queue_us: ran.spent.queue_us,
        run_us: ran.spent.run_us,
        fullness: plane.slots().fullness(),
        calls_used: ran.spent.calls_used,
        slug: "",
        reason: "",
        remedy: "",
        retry_after_ms: 0,
        may_have_executed: false,
        output_len: 0,
        wake_us: ran.spent.wake_us,
    };
    let mut output = Bytes::new();
    match &ran.result {
        Ok(done) => {
            reply.may_have_executed = true;
            (reply.status, output) = match &done.tail_call {
                Some(tail) => (Status::TailCall, tail::encode(tail)),
                None if done.status != 0 => (Status::GuestStatus, done.bytes.clone()),
                None => (Status::Ok, done.bytes.clone()),
            };
            reply.guest_status = done.status;
        }
        Err(error) => {
            reply.slug = &error.slug;
            reply.reason = cut(&error.reason);
            reply.remedy = cut(&error.remedy);
            reply.retry_after_ms = error.retry_after_ms;
            reply.may_have_executed = error.may_have_executed;
        }
    }
    reply.output_len = u32::try_from(output.len()).unwrap_or(u32::MAX);
    let mut head = Vec::with_capacity(64);
    frame::append(&mut head, 0, |out| reply.encode(out));
    (head, output)
}
