//! gate match: whether a caller may pass.

use serde_json::{Number, Value};

/// Whether a caller with these properties (the text of a JSON object) may pass.
///
/// No pair: open. Every key must match, values of one key are alternatives. Text that is not JSON
/// object matches nothing.
#[inline]
pub fn match_gate(pairs: &[(String, String)], properties: &str) -> bool {
    pairs.is_empty() || matches(pairs, properties)
}

fn matches(pairs: &[(String, String)], properties: &str) -> bool {
    let Ok(held) = serde_json::from_str::<Value>(properties) else {
        return false;
    };
    pairs.iter().all(|(key, _)| pairs.iter().any(|(k, value)| k == key && holds(&held, k, value)))
}

fn holds(properties: &Value, key: &str, value: &str) -> bool {
    let mut found = properties;
    for step in key.split('.') {
        match found.as_object().and_then(|object| object.get(step)) {
            Some(next) => found = next,
            None => return false,
        }
    }
    match found {
        Value::Array(items) => items.iter().any(|item| is_text(item, value)),
        single => is_text(single, value),
    }
}

fn is_text(found: &Value, value: &str) -> bool {
    match found {
        Value::String(text) => text == value,
        Value::Bool(flag) => value == if *flag { "true" } else { "false" },
        Value::Number(number) => canonical(number) == value,
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Integers in decimal; other numbers in the shortest decimal that reads back as the same double,
/// without exponent and without a trailing `.0`.
fn canonical(number: &Number) -> String {
    if let Some(integer) = number.as_u64() {
        return integer.to_string();
    }
    if let Some(integer) = number.as_i64() {
        return integer.to_string();
    }
    // `Display` of f64 is the shortest text that reads back, and never has an exponent.
    let text = number.as_f64().map(|double| double.to_string()).unwrap_or_default();
    if text == "-0" { "0".to_owned() } else { text }
}
