//! A call that the brain begins: of this node's own replica, or of whatever a call from a door
//! would reach.
//!
//! Decides: nothing; where it goes is said by the brain. Does not know: what the call is for.
//! Invariants: it ends in one `CallEnded`. A call of the own replica passes no gate, also reaches a
//! replica that is closed to callers, and is counted as a check and as nothing else: in no demand,
//! in no verdict on the version. Source: docs/internals/seam.md#brain-to-muscles.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_bytes::ByteBuf;

use crate::{
    call::{CallError, Request, SeedRef, Spent},
    candidates::resolve,
    events::Event,
    host::{Arrived, run},
    limits::OWN_OUTPUT_MAX,
    plane::Plane,
};

/// What the brain asks for; the fields are those of `BeginCall` in `pollen.core.effects`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct OwnCall {
    pub token: String,
    pub seed: pollen_wire::Id,
    pub function: Arc<str>,
    pub input: Bytes,
    pub budget: Duration,
    pub here: bool,
}

/// The output and the guest's return code, or the error; and what it took.
type Ended = (Result<(Bytes, i32), CallError>, Spent);

impl Plane {
    /// Begins a call as this node; ends in `Event::CallEnded` with the same token.
    pub fn begin_call(&self, call: OwnCall) {
        let plane = self.clone();
        self.handle().spawn(async move {
            let (seed, function) = (SeedRef::Hash(call.seed), Some(call.function));
            let request = plane.request(seed, function, call.input, Instant::now(), call.budget);
            let ended = if call.here {
                plane.call_own_replica(request).await
            } else {
                let reply = plane.call(request).await;
                (reply.result, reply.spent)
            };
            plane.events().emit(told(call.token, ended)).await;
        });
    }

    async fn call_own_replica(&self, request: Request) -> Ended {
        let entry = match resolve(&self.tables().load(), &request.seed) {
            Ok(entry) => entry.clone(),
            Err(error) => return (Err(error), Spent::default()),
        };
        let Some(seed) = entry.local.held() else {
            let reason = format!("seed \"{}\" is not loaded on this node", entry.row.name);
            let error = CallError::refused("seed-not-found", reason, "see pln status seeds");
            return (Err(error), Spent::default());
        };
        let counters = entry.local.clone();
        let arrived = Arrived {
            id: request.id,
            entry,
            function: request.function.unwrap_or_else(|| "".into()),
            input: request.input,
            wake: false,
            deadline: request.deadline,
            hops: request.hops,
            calls_left: request.calls_left,
            retries: request.retries,
            principal: request.principal,
            acting: request.acting,
            origin: request.origin,
            above: None,
            extras: None,
            trace: request.trace,
        };
        let ran = run(self, seed, arrived).await;
        let result = ran.result.map(|output| (output.bytes, output.status));
        let took = Duration::from_micros(u64::from(ran.spent.run_us));
        counters.counters.checked.count(slug_of(&result), Some(took));
        (result, ran.spent)
    }
}

fn slug_of(result: &Result<(Bytes, i32), CallError>) -> &str {
    match result {
        Ok((_, 0)) => "",
        Ok(_) => "guest-status",
        Err(error) => &error.slug,
    }
}

fn told(token: String, (result, spent): Ended) -> Event {
    let slug = slug_of(&result).to_owned();
    let (reason, output) = match result {
        Ok((output, 0)) => (String::new(), output),
        Ok((output, status)) => (format!("it returned {status}"), output),
        Err(error) => (error.reason.lines().next().unwrap_or_default().to_owned(), Bytes::new()),
    };
    let first = output.get(..OWN_OUTPUT_MAX).unwrap_or(&output);
    Event::CallEnded {
        token,
        slug,
        reason,
        run_us: u64::from(spent.run_us),
        output: ByteBuf::from(first),
        output_bytes: output.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ended(result: Result<(Bytes, i32), CallError>) -> (String, String, usize, u64) {
        match told("check/00".to_owned(), (result, Spent::default())) {
            Event::CallEnded { slug, reason, output, output_bytes, .. } => {
                (slug, reason, output.len(), output_bytes)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_long_output_comes_back_cut_with_its_whole_length() {
        let long = Bytes::from(vec![7; OWN_OUTPUT_MAX + 1]);
        let (slug, reason, held, all) = ended(Ok((long, 0)));
        assert_eq!((slug.as_str(), reason.as_str()), ("", ""));
        assert_eq!((held, all), (OWN_OUTPUT_MAX, OWN_OUTPUT_MAX as u64 + 1));
    }

    #[test]
    fn a_code_other_than_zero_and_an_error_are_told_in_one_line() {
        let (slug, reason, ..) = ended(Ok((Bytes::new(), 3)));
        assert_eq!((slug.as_str(), reason.as_str()), ("guest-status", "it returned 3"));
        let error = CallError::refused("guest-failed", "no door\nat line 7", "");
        let (slug, reason, ..) = ended(Err(error));
        assert_eq!((slug.as_str(), reason.as_str()), ("guest-failed", "no door"));
    }
}
