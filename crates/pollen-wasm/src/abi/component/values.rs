//! WIT values as JSON, both ways.
//!
//! Decides: how each type is written, and what is said of a value that is none of its type: the
//! argument, the place within it, and what was expected there.
//! Does not know: how arguments reach a function (`arguments`).
//! Source: docs/design/guest-abi.md#values.

use serde_json::{Map, Value};
use wasmtime::component::Val;
use wasmtime::component::types::{Field, Record, Type};

/// A value that is none of the type wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Where, from the inside out: `.count`, `[2]`, `.items`.
    path: Vec<String>,
    why: String,
}

impl Wrong {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self { path: Vec::new(), why: why.into() }
    }

    pub(super) fn within(mut self, step: String) -> Self {
        self.path.push(step);
        self
    }

    /// The text; the outermost step is the argument's name.
    pub(super) fn of_argument(self) -> String {
        let path: String = self.path.into_iter().rev().collect();
        format!("argument {}: {}", path.trim_start_matches('.'), self.why)
    }
}

fn expected(what: &str, value: &Value) -> Wrong {
    let found = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "a boolean".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.len() <= 40 => format!("{text:?}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    Wrong::new(format!("expected {what}, got {found}"))
}

/// A value of a type from JSON.
pub(super) fn to_val(value: &Value, ty: &Type) -> Result<Val, Wrong> {
    Ok(match ty {
        Type::Bool => Val::Bool(value.as_bool().ok_or_else(|| expected("true or false", value))?),
        Type::S8 => Val::S8(whole(value, "s8", i8::MIN, i8::MAX)?),
        Type::U8 => Val::U8(whole(value, "u8", u8::MIN, u8::MAX)?),
        Type::S16 => Val::S16(whole(value, "s16", i16::MIN, i16::MAX)?),
        Type::U16 => Val::U16(whole(value, "u16", u16::MIN, u16::MAX)?),
        Type::S32 => Val::S32(whole(value, "s32", i32::MIN, i32::MAX)?),
        Type::U32 => Val::U32(whole(value, "u32", u32::MIN, u32::MAX)?),
        Type::S64 => Val::S64(whole(value, "s64", i64::MIN, i64::MAX)?),
        Type::U64 => Val::U64(whole(value, "u64", u64::MIN, u64::MAX)?),
        Type::Float32 => Val::Float32(single(value)?),
        Type::Float64 => Val::Float64(float(value)?),
        Type::Char => Val::Char(character(value)?),
        Type::String => Val::String(text(value, "a string")?.to_owned()),
        Type::List(list) => Val::List(items(value, &list.ty())?),
        Type::FixedLengthList(list) => {
            let items = items(value, &list.ty())?;
            if items.len() != list.len() as usize {
                return Err(Wrong::new(format!(
                    "expected {} items, got {}",
                    list.len(),
                    items.len()
                )));
            }
            Val::FixedLengthList(items)
        }
        Type::Map(map) => Val::Map(pairs(value, &map.key(), &map.value())?),
        Type::Record(record) => Val::Record(fields(value, record)?),
        Type::Tuple(tuple) => Val::Tuple(exactly(value, tuple.types().collect())?),
        Type::Variant(variant) => {
            let cases: Vec<_> = variant.cases().map(|case| (case.name, case.ty)).collect();
            let (name, payload) = case(value, &cases)?;
            Val::Variant(name, payload)
        }
        Type::Enum(names) => Val::Enum(one_of(value, &names.names().collect::<Vec<_>>())?),
        Type::Option(option) => Val::Option(optional(value, &option.ty())?),
        Type::Result(result) => {
            let cases = [("ok", result.ok()), ("err", result.err())];
            match case(value, &cases)? {
                (name, payload) if name == "ok" => Val::Result(Ok(payload)),
                (_, payload) => Val::Result(Err(payload)),
            }
        }
        Type::Flags(flags) => {
            let known: Vec<&str> = flags.names().collect();
            let names = array(value)?.iter().enumerate();
            let names =
                names.map(|(at, name)| one_of(name, &known).map_err(|w| w.within(index(at))));
            Val::Flags(names.collect::<Result<_, _>>()?)
        }
        Type::Own(_) | Type::Borrow(_) | Type::Future(_) | Type::Stream(_) | Type::ErrorContext => {
            return Err(Wrong::new("its type is no value"));
        }
    })
}

fn whole<T>(value: &Value, name: &str, least: T, most: T) -> Result<T, Wrong>
where
    T: TryFrom<i64> + TryFrom<u64> + std::fmt::Display,
{
    let signed = value.as_i64().and_then(|number| T::try_from(number).ok());
    let number = signed.or_else(|| value.as_u64().and_then(|number| T::try_from(number).ok()));
    number.ok_or_else(|| expected(&format!("{name}, a whole number from {least} to {most}"), value))
}

/// JSON has no numbers for what is not finite: they are text.
fn float(value: &Value) -> Result<f64, Wrong> {
    let named = match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        _ => None,
    };
    let wanted = "a number, \"NaN\", \"Infinity\" or \"-Infinity\"";
    named.or_else(|| value.as_f64()).ok_or_else(|| expected(wanted, value))
}

fn single(value: &Value) -> Result<f32, Wrong> {
    let wide = float(value)?;
    #[allow(clippy::cast_possible_truncation)]
    let narrow = wide as f32;
    if wide.is_finite() && !narrow.is_finite() {
        return Err(expected("a number that a f32 can hold", value));
    }
    Ok(narrow)
}

fn character(value: &Value) -> Result<char, Wrong> {
    let mut letters = text(value, "a string of one character")?.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) => Ok(letter),
        _ => Err(expected("a string of one character", value)),
    }
}

fn text<'a>(value: &'a Value, wanted: &str) -> Result<&'a str, Wrong> {
    value.as_str().ok_or_else(|| expected(wanted, value))
}

fn array(value: &Value) -> Result<&Vec<Value>, Wrong> {
    value.as_array().ok_or_else(|| expected("an array", value))
}

fn object(value: &Value) -> Result<&Map<String, Value>, Wrong> {
    value.as_object().ok_or_else(|| expected("an object", value))
}

fn index(at: usize) -> String {
    format!("[{at}]")
}

fn items(value: &Value, ty: &Type) -> Result<Vec<Val>, Wrong> {
    let each = array(value)?.iter().enumerate();
    each.map(|(at, item)| to_val(item, ty).map_err(|wrong| wrong.within(index(at)))).collect()
}

fn exactly(value: &Value, types: Vec<Type>) -> Result<Vec<Val>, Wrong> {
    let items = array(value)?;
    if items.len() != types.len() {
        return Err(Wrong::new(format!("expected {} items, got {}", types.len(), items.len())));
    }
    let each = items.iter().zip(&types).enumerate();
    each.map(|(at, (item, ty))| to_val(item, ty).map_err(|wrong| wrong.within(index(at)))).collect()
}

/// With text as keys an object, else an array of pairs.
fn pairs(value: &Value, key: &Type, of: &Type) -> Result<Vec<(Val, Val)>, Wrong> {
    if let (Type::String, Some(object)) = (key, value.as_object()) {
        let pair = |(name, value): (&String, &Value)| {
            let value = to_val(value, of).map_err(|wrong| wrong.within(format!(".{name}")))?;
            Ok((Val::String(name.clone()), value))
        };
        return object.iter().map(pair).collect();
    }
    let each = array(value)?.iter().enumerate().map(|(at, pair)| {
        let mut pair = exactly(pair, vec![key.clone(), of.clone()])
            .map_err(|wrong| wrong.within(index(at)))?
            .into_iter();
        pair.next().zip(pair.next()).ok_or_else(|| Wrong::new("expected a pair"))
    });
    each.collect()
}

fn fields(value: &Value, record: &Record) -> Result<Vec<(String, Val)>, Wrong> {
    let given = object(value)?;
    let names: Vec<&str> = record.fields().map(|field| field.name).collect();
    if let Some(stranger) = given.keys().find(|name| !names.contains(&name.as_str())) {
        return Err(Wrong::new(format!(
            "there is no field {stranger}; its fields: {}",
            names.join(", ")
        )));
    }
    record
        .fields()
        .map(|Field { name, ty }| Ok((name.to_owned(), field(given, name, &ty)?)))
        .collect()
}

/// A field, or an argument by its name; what is optional may be left out.
pub(super) fn field(given: &Map<String, Value>, name: &str, ty: &Type) -> Result<Val, Wrong> {
    let step = || format!(".{name}");
    match (given.get(name), ty) {
        (Some(value), _) => to_val(value, ty).map_err(|wrong| wrong.within(step())),
        (None, Type::Option(_)) => Ok(Val::Option(None)),
        (None, _) => Err(Wrong::new("it is missing").within(step())),
    }
}

/// A case without a value is its name, one with a value an object of one field.
fn case(
    value: &Value,
    cases: &[(&str, Option<Type>)],
) -> Result<(String, Option<Box<Val>>), Wrong> {
    let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    let wanted = || expected(&format!("one of {}", names.join(", ")), value);
    let (name, payload) = match value {
        Value::String(name) => (name, None),
        Value::Object(object) if object.len() == 1 => {
            let (name, payload) = object.iter().next().ok_or_else(wanted)?;
            (name, Some(payload))
        }
        _ => return Err(wanted()),
    };
    let (_, ty) = cases.iter().find(|(known, _)| known == name).ok_or_else(wanted)?;
    let val = match (ty, payload) {
        (None, None | Some(Value::Null)) => None,
        (None, Some(_)) => return Err(Wrong::new(format!("the case {name} has no value"))),
        (Some(_), None) => {
            return Err(Wrong::new(format!("the case {name} has a value: {{\"{name}\": ...}}")));
        }
        (Some(ty), Some(payload)) => {
            let val = to_val(payload, ty).map_err(|wrong| wrong.within(format!(".{name}")))?;
            Some(Box::new(val))
        }
    };
    Ok((name.clone(), val))
}

fn one_of(value: &Value, names: &[&str]) -> Result<String, Wrong> {
    let wanted = || expected(&format!("one of {}", names.join(", ")), value);
    value.as_str().filter(|name| names.contains(name)).map(str::to_owned).ok_or_else(wanted)
}

/// `null` is none. An option of an option says `{"some": ...}`, so that both nulls differ.
fn optional(value: &Value, ty: &Type) -> Result<Option<Box<Val>>, Wrong> {
    if value.is_null() {
        return Ok(None);
    }
    if !matches!(ty, Type::Option(_)) {
        return to_val(value, ty).map(|val| Some(Box::new(val)));
    }
    match value.as_object().map(|object| (object.len(), object.get("some"))) {
        Some((1, Some(inner))) => to_val(inner, ty).map(|val| Some(Box::new(val))),
        _ => Err(expected("null or {\"some\": ...}", value)),
    }
}

/// A value as JSON.
pub(super) fn to_json(val: &Val, ty: &Type) -> Value {
    match (val, ty) {
        (Val::Bool(value), _) => (*value).into(),
        (Val::S8(value), _) => (*value).into(),
        (Val::U8(value), _) => (*value).into(),
        (Val::S16(value), _) => (*value).into(),
        (Val::U16(value), _) => (*value).into(),
        (Val::S32(value), _) => (*value).into(),
        (Val::U32(value), _) => (*value).into(),
        (Val::S64(value), _) => (*value).into(),
        (Val::U64(value), _) => (*value).into(),
        (Val::Float32(value), _) => number(f64::from(*value), value.to_string()),
        (Val::Float64(value), _) => number(*value, String::new()),
        (Val::Char(letter), _) => letter.to_string().into(),
        (Val::String(text) | Val::Enum(text), _) => text.clone().into(),
        (Val::List(items), Type::List(list)) => all(items, &list.ty()),
        (Val::FixedLengthList(items), Type::FixedLengthList(list)) => all(items, &list.ty()),
        (Val::Map(entries), Type::Map(map)) => written(entries, &map.key(), &map.value()),
        (Val::Record(given), Type::Record(record)) => {
            let each = given.iter().zip(record.fields());
            each.map(|((name, val), field)| (name.clone(), to_json(val, &field.ty))).collect()
        }
        (Val::Tuple(items), Type::Tuple(tuple)) => {
            items.iter().zip(tuple.types()).map(|(val, ty)| to_json(val, &ty)).collect()
        }
        (Val::Variant(name, payload), Type::Variant(variant)) => {
            let ty = variant.cases().find(|case| case.name == name).and_then(|case| case.ty);
            named(name, payload.as_deref(), ty.as_ref())
        }
        (Val::Option(None), _) => Value::Null,
        (Val::Option(Some(val)), Type::Option(option)) => {
            let inner = to_json(val, &option.ty());
            let is_nested = matches!(option.ty(), Type::Option(_));
            if is_nested { Value::from_iter([("some".to_owned(), inner)]) } else { inner }
        }
        (Val::Result(Ok(val)), Type::Result(ty)) => named("ok", val.as_deref(), ty.ok().as_ref()),
        (Val::Result(Err(val)), Type::Result(ty)) => {
            named("err", val.as_deref(), ty.err().as_ref())
        }
        (Val::Flags(names), _) => names.iter().map(|name| Value::from(name.as_str())).collect(),
        _ => Value::Null,
    }
}

/// A f32 is written by its own shortest digits, not by those of the f64 next to it.
fn number(value: f64, short: String) -> Value {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    let near = short.parse().unwrap_or(value);
    serde_json::Number::from_f64(near).map_or(Value::Null, Value::Number)
}

fn all(items: &[Val], ty: &Type) -> Value {
    items.iter().map(|val| to_json(val, ty)).collect()
}

fn written(entries: &[(Val, Val)], key: &Type, of: &Type) -> Value {
    if matches!(key, Type::String) {
        let entry = |(key, val): &(Val, Val)| match key {
            Val::String(name) => Some((name.clone(), to_json(val, of))),
            _ => None,
        };
        return entries.iter().filter_map(entry).collect();
    }
    let pair = |(name, val): &(Val, Val)| Value::from_iter([to_json(name, key), to_json(val, of)]);
    entries.iter().map(pair).collect()
}

fn named(name: &str, payload: Option<&Val>, ty: Option<&Type>) -> Value {
    match (payload, ty) {
        (Some(val), Some(ty)) => Value::from_iter([(name.to_owned(), to_json(val, ty))]),
        _ => name.into(),
    }
}
