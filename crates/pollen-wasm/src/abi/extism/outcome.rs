//! What the end of a guest of this ABI means: output, status, error, tail-call marker.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use wasmtime::Error;

use super::State;
use crate::abi::contract::Verdict;
use crate::abi::outcome;
use crate::envelope::{Output, TailCall};
use crate::error::SandboxError;

/// An error message of a guest is cut at this, bytes.
const MESSAGE: usize = 4 << 10;

/// Judges a call by how the function ended and what it left in its state.
pub(super) fn of_call(ended: Result<i32, Error>, state: &mut State) -> Verdict {
    match ended {
        Ok(status) => {
            let result = delivered(status, state);
            let keep = result.as_ref().err().is_none_or(|error| error.slug() == "guest-failed");
            Verdict { result, keep }
        }
        Err(error) => Verdict { result: of_trap(&error, state), keep: false },
    }
}

fn delivered(status: i32, state: &State) -> Result<Output, SandboxError> {
    if let Some(message) = state.own.kernel.error() {
        return Err(SandboxError::ran("guest-failed", lossy(message), ""));
    }
    let (kept, bytes) = (state.own.written.kept(), state.own.kernel.output());
    let limit = state.settings.max_output_bytes;
    let length = kept.len().saturating_add(bytes.len());
    if length > limit {
        return Err(SandboxError::output_too_large(length, limit));
    }
    let tail_call =
        if status == 0 && state.settings.guest.tail_call { tail_call(bytes)? } else { None };
    let written = state.own.written.total();
    if tail_call.is_some() && written > 0 {
        return Err(SandboxError::ran(
            "guest-failed",
            format!("the function wrote {written} bytes and then made a tail call"),
            "write nothing ahead of a tail call, or seed with --no-tail-call",
        ));
    }
    let bytes =
        if kept.is_empty() { Bytes::copy_from_slice(bytes) } else { [kept, bytes].concat().into() };
    Ok(Output { bytes, status, tail_call })
}

/// What a trap means; an output when the guest exited with 0.
pub(super) fn of_trap(error: &Error, state: &mut State) -> Result<Output, SandboxError> {
    if let Some(error) = outcome::of_interruption(state) {
        return Err(error);
    }
    if outcome::exit_code(error) == Some(0) {
        return delivered(0, state);
    }
    let message = state.own.kernel.error().map(lossy);
    if let Some(error) = outcome::of_exit(error, message.as_deref()) {
        return Err(error);
    }
    if let Some(error) = outcome::of_refusal(state) {
        return Err(error);
    }
    // A guest that reports an error and then traps means the error.
    let text = message.unwrap_or_else(|| outcome::trap_text(error));
    Err(SandboxError::ran("guest-trapped", text, ""))
}

fn lossy(message: &[u8]) -> String {
    String::from_utf8_lossy(message.get(..MESSAGE).unwrap_or(message)).into_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    #[allow(dead_code, reason = "checked before; named so that no other field passes")]
    kind: String,
    uri: String,
    #[serde(default)]
    input: String,
}

/// Reads a tail-call marker: the whole output, trimmed, is one JSON object of that kind.
///
/// JSON that is about something else is an ordinary output. Text that looks like a marker and is
/// not a valid one is an error, because the caller would else take a broken marker for a result.
fn tail_call(output: &[u8]) -> Result<Option<TailCall>, SandboxError> {
    let text = output.trim_ascii();
    if text.first() != Some(&b'{') || !contains(text, b"tail_call") {
        return Ok(None);
    }
    let malformed = |why: String| {
        SandboxError::ran(
            "guest-failed",
            format!("the output looks like a tail call but is none: {why}"),
            "it has kind, uri and input (base64), nothing else; or seed with --no-tail-call",
        )
    };
    let value: serde_json::Value =
        serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
    if value.get("kind").and_then(serde_json::Value::as_str) != Some("tail_call") {
        return Ok(None);
    }
    // Why from the text again: the strict form refuses fields that stand twice.
    let marker: Marker =
        serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
    if !is_seed_uri(&marker.uri) {
        return Err(malformed(format!("{:?} is not pln://seed/<name>/<function>", marker.uri)));
    }
    let input =
        STANDARD.decode(&marker.input).map_err(|error| malformed(format!("input: {error}")))?;
    Ok(Some(TailCall { uri: marker.uri, input: Bytes::from(input) }))
}

pub(crate) fn is_seed_uri(uri: &str) -> bool {
    uri.strip_prefix("pln://seed/")
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(seed, function)| !seed.is_empty() && !function.is_empty())
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Option<String> {
        tail_call(text.as_bytes()).unwrap().map(|marker| marker.uri)
    }

    #[test]
    fn a_whole_marker_is_a_tail_call_and_may_be_surrounded_by_space() {
        let marker = tail_call(
            b" \n{\"kind\":\"tail_call\",\"uri\":\"pln://seed/a/b/c\",\"input\":\"aGk=\"}\n",
        );
        let expected =
            TailCall { uri: "pln://seed/a/b/c".into(), input: Bytes::from_static(b"hi") };
        assert_eq!(Some(expected), marker.unwrap());
        let without = r#"{"kind":"tail_call","uri":"pln://seed/a/b"}"#;
        assert_eq!(Some("pln://seed/a/b".into()), uri(without));
    }

    #[test]
    fn other_outputs_are_left_alone() {
        for text in
            ["", "tail_call", "{}", r#"{"kind":"other","note":"tail_call"}"#, r#"["tail_call"]"#]
        {
            assert_eq!(None, uri(text), "{text}");
        }
    }

    #[test]
    fn a_broken_marker_is_an_error() {
        for text in [
            r#"{"kind":"tail_call""#,
            r#"{"kind":"tail_call"}"#,
            r#"{"kind":"tail_call","uri":"http://x/y"}"#,
            r#"{"kind":"tail_call","uri":"pln://seed/a"}"#,
            r#"{"kind":"tail_call","uri":"pln://seed/a/b","input":"aGk"}"#,
            r#"{"kind":"tail_call","uri":"pln://seed/a/b","input":"-_=="}"#,
            r#"{"kind":"tail_call","uri":"pln://seed/a/b","extra":1}"#,
            r#"{"kind":"tail_call","uri":"pln://seed/a/b","uri":"pln://seed/c/d"}"#,
            r#"{"kind":"tail_call","uri":"pln://seed/a/b"} and more"#,
        ] {
            assert_eq!("guest-failed", tail_call(text.as_bytes()).unwrap_err().slug(), "{text}");
        }
    }
}
