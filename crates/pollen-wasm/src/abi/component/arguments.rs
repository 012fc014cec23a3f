//! Input and output of a function with typed values.
//!
//! Decides: which argument is meant: an array gives them in their order, an object by name, and an
//! empty input gives none. What it returns is JSON; a `result` that is an error is a failure.
//! Does not know: how a value is written (`values`).

use bytes::Bytes;
use serde_json::Value;
use wasmtime::component::Val;
use wasmtime::component::types::Type;

use super::values::{Wrong, field, to_json, to_val};
use crate::error::SandboxError;

/// What a parsed and converted input takes of the host beside its text, bytes for each value in it:
/// a JSON value and a component value (both measured by `size_of`, rounded up).
const VALUE: u64 = 96;

/// Parameters by name, in their order.
pub(super) type Parameters = Vec<(String, Type)>;

/// What an input may take of the host's memory while it is converted, bytes.
pub(super) fn cost(input: &[u8]) -> u64 {
    let marks = input.iter().filter(|byte| matches!(**byte, b',' | b'[' | b'{' | b':')).count();
    (marks as u64 + 1).saturating_mul(VALUE).saturating_add(2 * input.len() as u64)
}

/// The arguments of a call.
pub(super) fn read(input: &[u8], parameters: &Parameters) -> Result<Vec<Val>, SandboxError> {
    let given = if input.trim_ascii().is_empty() {
        Value::Array(Vec::new())
    } else {
        let broken = |error| bad(format!("the input is no JSON: {error}"), parameters);
        serde_json::from_slice(input).map_err(broken)?
    };
    match &given {
        Value::Array(items) => by_place(items, parameters),
        Value::Object(object) => {
            let known = |name: &str| parameters.iter().any(|(known, _)| known == name);
            if let Some(name) = object.keys().find(|name| !known(name)) {
                return Err(bad(format!("there is no argument {name}"), parameters));
            }
            let each = parameters.iter().map(|(name, ty)| {
                field(object, name, ty).map_err(|wrong| bad(wrong.of_argument(), parameters))
            });
            each.collect()
        }
        _ => {
            let text = "the input is neither an array of arguments nor an object with their names";
            Err(bad(text.to_owned(), parameters))
        }
    }
}

fn by_place(items: &[Value], parameters: &Parameters) -> Result<Vec<Val>, SandboxError> {
    if items.len() > parameters.len() {
        let (given, most) = (items.len(), parameters.len());
        return Err(bad(format!("it takes {most} arguments, {given} were given"), parameters));
    }
    let each = parameters.iter().enumerate().map(|(at, (name, ty))| {
        let val = match (items.get(at), ty) {
            (Some(item), _) => to_val(item, ty),
            (None, Type::Option(_)) => Ok(Val::Option(None)),
            (None, _) => Err(Wrong::new("it is missing")),
        };
        let named = |wrong: Wrong| wrong.within(format!(".{name}")).of_argument();
        val.map_err(|wrong| bad(named(wrong), parameters))
    });
    each.collect()
}

fn bad(reason: String, parameters: &Parameters) -> SandboxError {
    let names: Vec<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
    let remedy = if names.is_empty() {
        "it takes no arguments: send nothing, or []".to_owned()
    } else {
        format!("its arguments: {}", names.join(", "))
    };
    SandboxError::refused("bad-argument", reason, remedy)
}

/// What a call returned.
pub(super) fn write(returned: Option<(&Val, &Type)>, limit: usize) -> Result<Bytes, SandboxError> {
    let json = match returned {
        None => return Ok(Bytes::new()),
        Some((Val::Result(Ok(val)), Type::Result(ty))) => match (val, ty.ok()) {
            (Some(val), Some(ty)) => to_json(val, &ty),
            _ => return Ok(Bytes::new()),
        },
        Some((Val::Result(Err(val)), Type::Result(ty))) => {
            let text = match (val.as_deref(), ty.err()) {
                (Some(Val::String(text)), _) => text.clone(),
                (Some(val), Some(ty)) => to_json(val, &ty).to_string(),
                _ => "the function returned an error without a value".to_owned(),
            };
            return Err(SandboxError::ran("guest-failed", text, ""));
        }
        Some((val, ty)) => to_json(val, ty),
    };
    let text = json.to_string();
    if text.len() > limit {
        return Err(SandboxError::output_too_large(text.len(), limit));
    }
    Ok(Bytes::from(text))
}
