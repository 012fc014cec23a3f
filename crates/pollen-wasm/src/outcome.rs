//! What the end of a guest means: output, status, error, tail-call marker.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use wasmtime::{Error, PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::envelope::{Output, TailCall};
use crate::error::SandboxError;
use crate::guest::State;
use crate::meter::Refusal;
use crate::program::Pipes;

/// An error message of a guest is cut at this, bytes.
const MESSAGE: usize = 4 << 10;

/// Frames of a trap's backtrace that are shown.
const FRAMES: usize = 8;

/// The judgement over one call.
pub(crate) struct Verdict {
    pub(crate) result: Result<Output, SandboxError>,
    /// The guest may serve another call.
    pub(crate) keep: bool,
}

/// Judges a call by how the function ended and what it left in its state.
pub(crate) fn of_call(ended: Result<i32, Error>, state: &mut State) -> Verdict {
    match ended {
        Ok(status) => {
            let result = delivered(status, state);
            let keep = result.as_ref().err().is_none_or(|error| error.slug() == "guest-failed");
            Verdict { result, keep }
        }
        Err(error) => Verdict { result: of_trap(&error, state), keep: false },
    }
}

/// Judges a call of a program: the exit code is the return code, whatever it wrote is the output.
///
/// Refused: `guest-failed` for another code than 0, which would drop the output. Programs say half
/// of what they mean by their code (`grep` found nothing, `diff` found something).
/// Refused: tail-call markers. A program does not know of them, and what it prints may be others'.
pub(crate) fn of_program(
    ended: Result<i32, Error>,
    state: &mut State,
    pipes: &Pipes,
) -> Result<Output, SandboxError> {
    let bytes = pipes.finish()?;
    let status = match ended {
        Ok(_) => 0,
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) if !state.expired => exit.0,
            _ => return of_trap(&error, state),
        },
    };
    Ok(Output { bytes, status, tail_call: None })
}

/// Judges a failed instantiation. The function has not run.
pub(crate) fn of_instantiation(error: Error, state: &mut State) -> SandboxError {
    if error.is::<PoolConcurrencyLimitError>() {
        return SandboxError::overloaded(format!("the instance pool is full: {error}"));
    }
    if error.is::<std::io::Error>() {
        return SandboxError::overloaded(format!("this machine gives no memory: {error}"));
    }
    match state.meter.refused() {
        Some(Refusal::Budget) => {
            SandboxError::overloaded("the node's memory for guests is used up")
        }
        Some(Refusal::Limit) => SandboxError::out_of_memory(format!(
            "the module needs more than its memory limit of {} bytes to start",
            state.settings.memory_bytes
        ))
        .not_executed(),
        None => of_initialisation(error, state),
    }
}

/// Judges a failed initialisation. The function has not run.
pub(crate) fn of_initialisation(error: Error, state: &mut State) -> SandboxError {
    state.logs.end();
    if state.meter.refused() == Some(Refusal::Budget) {
        return SandboxError::overloaded("the node's memory for guests is used up");
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return SandboxError::overloaded(format!("the instance pool is full: {error}"));
    }
    match of_trap(&error, state) {
        Err(error) if error.slug() == "guest-trapped" => SandboxError::ran(
            "guest-trapped",
            format!("initialisation failed: {}", error.reason()),
            error.remedy().to_owned(),
        )
        .not_executed(),
        Err(error) => error.not_executed(),
        Ok(_) => {
            SandboxError::ran("guest-failed", "the module exited while it was initialised", "")
                .not_executed()
        }
    }
}

fn delivered(status: i32, state: &State) -> Result<Output, SandboxError> {
    if let Some(message) = state.kernel.error() {
        return Err(SandboxError::ran("guest-failed", lossy(message), ""));
    }
    let bytes = state.kernel.output();
    let limit = state.settings.max_output_bytes;
    if bytes.len() > limit {
        return Err(SandboxError::output_too_large(bytes.len(), limit));
    }
    let tail_call = if status == 0 && state.settings.tail_call { tail_call(bytes)? } else { None };
    Ok(Output { bytes: Bytes::copy_from_slice(bytes), status, tail_call })
}

fn of_trap(error: &Error, state: &mut State) -> Result<Output, SandboxError> {
    if let Some(failure) = state.failure.take() {
        return Err(failure);
    }
    if state.expired {
        return Err(SandboxError::deadline(true));
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        if exit.0 == 0 {
            return delivered(0, state);
        }
        let reason = match state.kernel.error() {
            Some(message) => lossy(message),
            None => format!("the guest exited with code {}", exit.0),
        };
        return Err(SandboxError::ran("guest-failed", reason, ""));
    }
    if let Some(refusal) = state.meter.refused() {
        return Err(SandboxError::out_of_memory(match refusal {
            Refusal::Limit => {
                format!(
                    "the guest needed more than its {} bytes of memory",
                    state.settings.memory_bytes
                )
            }
            Refusal::Budget => "the node's memory for guests was used up while it ran".to_owned(),
        }));
    }
    // A guest that reports an error and then traps means the error.
    if let Some(message) = state.kernel.error() {
        return Err(SandboxError::ran("guest-trapped", lossy(message), ""));
    }
    Err(SandboxError::ran("guest-trapped", trap_text(error), ""))
}

fn trap_text(error: &Error) -> String {
    let mut text = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    let names: Vec<String> = error
        .downcast_ref::<WasmBacktrace>()
        .map(|trace| trace.frames().iter().take(FRAMES))
        .into_iter()
        .flatten()
        .map(|frame| match frame.func_name() {
            Some(name) => name.to_owned(),
            None => format!("function {}", frame.func_index()),
        })
        .collect();
    if !names.is_empty() {
        text.push_str(" in ");
        text.push_str(&names.join(" < "));
    }
    text
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
pub(crate) fn tail_call(output: &[u8]) -> Result<Option<TailCall>, SandboxError> {
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

fn is_seed_uri(uri: &str) -> bool {
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
