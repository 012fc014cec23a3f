//! One attempt of a call: here, or over a link.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use pollen_net::Link;
use pollen_rules::{
    Failure,
    numbers::{FULL, SATURATED},
};
use pollen_wasm::TailCall;
use pollen_wire::{Id, call::CallHeader};

use crate::{
    call::{CallError, Principal, Request, Spent},
    counters::{Awaited, micros32},
    host::{Arrived, execute, left_us},
    plane::Plane,
    remote,
    tables::{SeedEntry, Tables},
    tail,
};

/// One attempt's result, wherever it ran.
pub(crate) struct Tried {
    pub(crate) result: Result<(Bytes, i32, Option<TailCall>), CallError>,
    pub(crate) node: Id,
    pub(crate) remote: bool,
    /// No answer came over its link.
    pub(crate) cut: bool,
    pub(crate) spent: Spent,
}

impl Tried {
    /// Its failure as the rule of attempts judges it. `streamed`: a part of the output was handed on.
    pub(crate) fn failure<'a>(&self, error: &'a CallError, streamed: bool) -> Failure<'a> {
        Failure {
            slug: &error.slug,
            may_have_executed: error.may_have_executed,
            remote: self.remote,
            streamed,
            cut: self.cut,
        }
    }
}

/// Which attempt of its call, and the retries that are left.
#[derive(Clone, Copy)]
pub(crate) struct Try {
    pub(crate) number: u8,
    pub(crate) retries: u8,
}

/// The place of an attempt over a link.
pub(crate) struct Target<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) entry: &'a SeedEntry,
    pub(crate) node: Id,
    pub(crate) link: &'a Arc<Link>,
}

impl Plane {
    pub(crate) async fn try_here(
        &self,
        request: &Request,
        entry: &Arc<SeedEntry>,
        function: Arc<str>,
        attempt: Try,
    ) -> Tried {
        let awaited = Awaited::begin(&entry.local.counters);
        let ran = execute(
            self,
            &entry.local.counters,
            Arrived {
                id: request.id,
                entry: entry.clone(),
                function,
                input: request.input.clone(),
                wake: entry.row.replicas.is_empty(),
                deadline: request.deadline,
                hops: request.hops,
                calls_left: request.calls_left,
                retries: attempt.retries,
                principal: request.principal,
                acting: request.acting,
                origin: request.origin,
                above: request.below.clone(),
                trace: request.trace.child(),
                extras: request.extras.clone(),
            },
        )
        .await;
        awaited.end();
        // Not loaded here any more: that speaks of the place, as it does from afar.
        let is_gone = ran.result.as_ref().is_err_and(|error| error.slug == "seed-not-found");
        Tried {
            result: ran.result.map(|output| (output.bytes, output.status, output.tail_call)),
            node: self.id(),
            remote: is_gone,
            cut: false,
            spent: ran.spent,
        }
    }

    pub(crate) async fn try_there(
        &self,
        request: &Request,
        to: Target<'_>,
        function: &str,
        attempt: Try,
    ) -> Tried {
        let Target { tables, entry, node, link } = to;
        let trace = request.trace.text();
        let outlet = request.outlet();
        let awaited = Awaited::begin(&entry.local.counters);
        let turn = match outlet {
            // Boxed: the future of every call would grow by it.
            Some(_) => {
                let is_stranger = request.principal == Principal::Anonymous;
                Box::pin(remote::turn(link, is_stranger, request.deadline)).await.map(Some)
            }
            None => Ok(None),
        };
        let answered = match turn {
            Ok(_turn) => {
                let header = header(request, entry, function, trace.as_str(), attempt);
                let attempt = remote::attempt(link, &header, request.input.clone(), outlet);
                match tokio::time::timeout_at(request.deadline.into(), attempt).await {
                    Ok(answered) => answered,
                    Err(_) => Err(CallError::deadline(true)),
                }
            }
            Err(error) => Err(error),
        };
        awaited.end();
        let mut tried = Tried {
            result: Err(CallError::deadline(true)),
            node,
            remote: true,
            cut: false,
            spent: Spent { rtt_us: micros32(link.rtt()), ..Spent::ONE_CALL },
        };
        match answered {
            Err(error) => (tried.result, tried.cut) = (Err(error), true),
            Ok(reply) => {
                if reply.fullness == FULL
                    && let Some(peer) = tables.peers.get(&node)
                {
                    *peer.local.saturated_until.lock() = Some(Instant::now() + SATURATED);
                }
                entry
                    .local
                    .counters
                    .run_us
                    .record(Duration::from_micros(u64::from(reply.spent.run_us)));
                tried.spent = Spent { rtt_us: tried.spent.rtt_us, ..reply.spent };
                tried.result = reply.result.and_then(|(output, status, is_tail)| {
                    if !is_tail {
                        return Ok((output, status, None));
                    }
                    let tail = tail::decode(&output).ok_or_else(|| {
                        CallError::refused("internal", "a peer sent a broken tail call", "")
                            .executed(true)
                    })?;
                    Ok((Bytes::new(), 0, Some(tail)))
                });
            }
        }
        tried
    }
}

fn header<'a>(
    request: &'a Request,
    entry: &SeedEntry,
    function: &'a str,
    traceparent: &'a str,
    attempt: Try,
) -> CallHeader<'a> {
    CallHeader {
        call: request.id,
        seed: entry.row.seed,
        function,
        budget_us: left_us(request.deadline),
        hops: request.hops,
        calls_left: request.calls_left,
        retries: attempt.retries,
        idempotent: request.idempotent || entry.row.options.idempotent,
        wake: entry.row.replicas.is_empty(),
        attempt: attempt.number,
        acting_seed: request.acting,
        origin: request.origin,
        traceparent,
        input_len: u32::try_from(request.input.len()).unwrap_or(u32::MAX),
        stream: request.outlet().is_some(),
        head: request.extras.as_ref().map_or(&[], |extras| &extras.head),
    }
}
