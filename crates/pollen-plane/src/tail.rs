//! A tail call: the marker on a link, and the call that follows from it.

use bytes::Bytes;
use pollen_wasm::TailCall;

use crate::{
    call::{CallError, Request, over_limit, parse_uri},
    draw::call_id,
};

/// Turns the request into the one that the marker asks for, under the same identity and budget, with the
/// same request head and stream;
/// `calls_used`: by the tree so far.
pub(crate) fn follow(
    request: &mut Request,
    tail: TailCall,
    calls_used: u32,
) -> Result<(), CallError> {
    let (seed, function) = parse_uri(&tail.uri)?;
    if request.streamed() > 0 {
        // Where it ran this is refused already: a peer that hands it on all the same is in error.
        let reason = format!("a peer streamed output of {} and then a tail call", request.seed);
        return Err(CallError::refused("internal", reason, "").executed(true));
    }
    let limit = |slug| over_limit(slug, &request.seed.to_string(), &tail.uri);
    request.hops = request.hops.checked_sub(1).ok_or_else(|| limit("hop-limit"))?;
    request.calls_left = request
        .calls_left
        .checked_sub(calls_used)
        .filter(|left| *left > 0)
        .ok_or_else(|| limit("call-limit"))?;
    request.id = call_id();
    request.trace = request.trace.child();
    request.seed = seed;
    request.function = Some(function);
    request.input = tail.input;
    Ok(())
}

/// A marker on the link: `uri`, a newline that no address contains, and the input.
pub(crate) fn encode(tail: &TailCall) -> Bytes {
    [tail.uri.as_bytes(), b"\n", &tail.input].concat().into()
}

pub(crate) fn decode(output: &Bytes) -> Option<TailCall> {
    let at = output.iter().position(|byte| *byte == b'\n')?;
    let uri = std::str::from_utf8(output.get(..at)?).ok()?.to_owned();
    Some(TailCall { uri, input: output.slice(at + 1..) })
}
