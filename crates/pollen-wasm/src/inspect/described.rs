//! What the functions of a component take and give, as JSON: the description that its publisher states.
//!
//! Decides: the JSON schema of each type, as its values are written, and the text of a signature.
//! Does not know: which functions can be called (`component.rs`); how values pass (`abi`).
//! Invariant: of types that unfold without end no more than `NODES_MAX` parts are written.
//! Source: docs/design/guest-abi.md#values; JSON Schema 2020-12.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use wasmparser::PrimitiveValType as Primitive;
use wasmparser::component_types::{ComponentDefinedType, ComponentFuncType, ComponentValType};
use wasmparser::types::Types;

/// Parts of the schemas of one component. Beyond them any value may stand.
const NODES_MAX: u32 = 2_000;
/// Characters of the text of one type.
const TEXT_MAX: usize = 120;

/// The description of functions by the names that calls mean them by.
pub(super) fn describe(types: &Types, functions: &[(String, &ComponentFuncType)]) -> String {
    let mut writer = Writer { types, left: NODES_MAX };
    let each = functions.iter().map(|(name, ty)| (name.clone(), writer.function(ty)));
    let functions: Map<String, Value> = each.collect();
    json!({ "functions": functions }).to_string()
}

struct Writer<'a> {
    types: &'a Types,
    left: u32,
}

impl Writer<'_> {
    fn function(&mut self, ty: &ComponentFuncType) -> Value {
        let given = ty.params.iter().map(|(name, ty)| format!("{name}: {}", self.text(ty)));
        let mut signature = format!("({})", given.collect::<Vec<_>>().join(", "));
        if let Some(result) = &ty.result {
            let _ = write!(signature, " -> {}", self.text(result));
        }
        let returned = ty.result.as_ref().map(|ty| self.yielded(ty));
        if self.passes_bytes(ty) {
            let order: Vec<_> = ty.params.iter().map(|(name, _)| name.to_string()).collect();
            return json!({"signature": signature, "order": order, "takes": "bytes", "gives": "bytes"});
        }
        let returns = returned.flatten().map_or(Value::Null, |ty| self.schema(&ty));
        let returns = if returns.is_null() { json!({"type": "null"}) } else { returns };
        let order: Vec<_> = ty.params.iter().map(|(name, _)| name.to_string()).collect();
        let input = self.object(ty.params.iter().map(|(name, ty)| (name.as_str(), ty)));
        json!({
            "signature": signature, "input": input, "order": order,
            "takes": "json", "gives": "json", "returns": returns,
        })
    }

    /// What a caller gets of a result: an error is a failure of the call.
    fn yielded(&self, ty: &ComponentValType) -> Option<ComponentValType> {
        match self.defined(ty) {
            Some(ComponentDefinedType::Result { ok, .. }) => *ok,
            _ => Some(*ty),
        }
    }

    /// `func(list<u8>) -> list<u8>`, or `-> result<list<u8>, string>`.
    fn passes_bytes(&self, ty: &ComponentFuncType) -> bool {
        let ([(_, given)], Some(result)) = (&*ty.params, &ty.result) else { return false };
        let is_text =
            |ty: &ComponentValType| matches!(ty, ComponentValType::Primitive(Primitive::String));
        let gives = match self.defined(result) {
            Some(ComponentDefinedType::Result { ok: Some(ok), err: Some(err), .. }) => {
                self.is_bytes(ok) && is_text(err)
            }
            _ => self.is_bytes(result),
        };
        gives && self.is_bytes(given)
    }

    fn is_bytes(&self, ty: &ComponentValType) -> bool {
        let Some(ComponentDefinedType::List { element, .. }) = self.defined(ty) else {
            return false;
        };
        match element {
            ComponentValType::Primitive(word) => *word == Primitive::U8,
            ComponentValType::Type(id) => {
                matches!(self.types[*id], ComponentDefinedType::Primitive(Primitive::U8))
            }
        }
    }

    fn defined(&self, ty: &ComponentValType) -> Option<&ComponentDefinedType> {
        match ty {
            ComponentValType::Primitive(_) => None,
            ComponentValType::Type(id) => Some(&self.types[*id]),
        }
    }

    fn schema(&mut self, ty: &ComponentValType) -> Value {
        let Some(left) = self.left.checked_sub(1) else { return json!({}) };
        self.left = left;
        let types = self.types;
        match ty {
            ComponentValType::Primitive(word) => primitive(*word),
            ComponentValType::Type(id) => self.schema_of(&types[*id]),
        }
    }

    fn schema_of(&mut self, ty: &ComponentDefinedType) -> Value {
        match ty {
            ComponentDefinedType::Primitive(word) => primitive(*word),
            ComponentDefinedType::Record(record) => {
                self.object(record.fields.iter().map(|(name, ty)| (name.as_str(), ty)))
            }
            ComponentDefinedType::Variant(variant) => {
                let cases = variant.cases.iter().map(|(name, case)| (name.as_str(), case.ty));
                self.cases(cases.collect())
            }
            ComponentDefinedType::Result { ok, err, .. } => {
                self.cases(vec![("ok", *ok), ("err", *err)])
            }
            ComponentDefinedType::List { element, .. } => {
                json!({"type": "array", "items": self.schema(element)})
            }
            ComponentDefinedType::FixedLengthList { element, length, .. } => json!({
                "type": "array", "items": self.schema(element),
                "minItems": length, "maxItems": length,
            }),
            ComponentDefinedType::Map { key, value, .. } => {
                if matches!(key, ComponentValType::Primitive(Primitive::String)) {
                    return json!({"type": "object", "additionalProperties": self.schema(value)});
                }
                let pair = [self.schema(key), self.schema(value)];
                let pair =
                    json!({"type": "array", "prefixItems": pair, "minItems": 2, "maxItems": 2});
                json!({"type": "array", "items": pair})
            }
            ComponentDefinedType::Tuple(tuple) => {
                let items: Vec<_> = tuple.types.iter().map(|ty| self.schema(ty)).collect();
                let count = items.len();
                json!({"type": "array", "prefixItems": items, "minItems": count, "maxItems": count})
            }
            ComponentDefinedType::Flags(names) => {
                let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
                json!({"type": "array", "items": {"enum": names}, "uniqueItems": true})
            }
            ComponentDefinedType::Enum(names) => {
                json!({"enum": names.iter().map(|name| name.as_str()).collect::<Vec<_>>()})
            }
            ComponentDefinedType::Option { ty, .. } => {
                let is_nested =
                    matches!(self.defined(ty), Some(ComponentDefinedType::Option { .. }));
                let held = self.schema(ty);
                let held = if is_nested { single("some", held) } else { held };
                json!({"anyOf": [held, {"type": "null"}]})
            }
            // No value: a function with one is not callable.
            ComponentDefinedType::Own(_)
            | ComponentDefinedType::Borrow(_)
            | ComponentDefinedType::Future { .. }
            | ComponentDefinedType::Stream { .. } => json!({}),
        }
    }

    fn object<'n>(
        &mut self,
        fields: impl Iterator<Item = (&'n str, &'n ComponentValType)>,
    ) -> Value {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for (name, ty) in fields {
            if !matches!(self.defined(ty), Some(ComponentDefinedType::Option { .. })) {
                required.push(name);
            }
            properties.insert(name.to_owned(), self.schema(ty));
        }
        json!({
            "type": "object", "properties": properties, "required": required,
            "additionalProperties": false,
        })
    }

    /// Cases without a value are names, and the others objects of one.
    fn cases(&mut self, cases: Vec<(&str, Option<ComponentValType>)>) -> Value {
        let names: Vec<_> =
            cases.iter().filter(|(_, ty)| ty.is_none()).map(|(name, _)| name).collect();
        let mut either = Vec::new();
        if !names.is_empty() {
            either.push(json!({"enum": names}));
        }
        for (name, ty) in &cases {
            if let Some(ty) = ty {
                either.push(single(name, self.schema(ty)));
            }
        }
        json!({"anyOf": either})
    }

    /// A type as WIT writes it; what is long ends in dots.
    fn text(&self, ty: &ComponentValType) -> String {
        let mut text = String::new();
        self.write(ty, &mut text);
        match text.char_indices().nth(TEXT_MAX) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text,
        }
    }

    fn write(&self, ty: &ComponentValType, out: &mut String) {
        // What is written already is more than is shown.
        if out.len() > TEXT_MAX {
            return;
        }
        let Some(ty) = self.defined(ty) else {
            if let ComponentValType::Primitive(word) = ty {
                out.push_str(&word.to_string());
            }
            return;
        };
        match ty {
            ComponentDefinedType::Primitive(word) => out.push_str(&word.to_string()),
            ComponentDefinedType::Record(record) => {
                let fields = record.fields.iter().map(|(name, ty)| (Some(name.as_str()), Some(ty)));
                self.listed("record {", fields, "}", out);
            }
            ComponentDefinedType::Variant(variant) => {
                let cases = variant.cases.iter();
                let cases = cases.map(|(name, case)| (Some(name.as_str()), case.ty.as_ref()));
                self.listed("variant {", cases, "}", out);
            }
            ComponentDefinedType::Flags(names) => {
                self.listed(
                    "flags {",
                    names.iter().map(|name| (Some(name.as_str()), None)),
                    "}",
                    out,
                );
            }
            ComponentDefinedType::Enum(names) => {
                self.listed(
                    "enum {",
                    names.iter().map(|name| (Some(name.as_str()), None)),
                    "}",
                    out,
                );
            }
            ComponentDefinedType::List { element, .. }
            | ComponentDefinedType::FixedLengthList { element, .. } => {
                self.listed("list<", std::iter::once((None, Some(element))), ">", out);
            }
            ComponentDefinedType::Map { key, value, .. } => {
                self.listed("map<", [(None, Some(key)), (None, Some(value))].into_iter(), ">", out);
            }
            ComponentDefinedType::Tuple(tuple) => {
                self.listed("tuple<", tuple.types.iter().map(|ty| (None, Some(ty))), ">", out);
            }
            ComponentDefinedType::Option { ty, .. } => {
                self.listed("option<", std::iter::once((None, Some(ty))), ">", out);
            }
            ComponentDefinedType::Result { ok, err, .. } => {
                let word =
                    |ty: &Option<ComponentValType>| if ty.is_some() { None } else { Some("_") };
                let parts = [(word(ok), ok.as_ref()), (word(err), err.as_ref())];
                self.listed("result<", parts.into_iter(), ">", out);
            }
            _ => out.push('…'),
        }
    }

    fn listed<'n>(
        &self,
        begin: &str,
        parts: impl Iterator<Item = (Option<&'n str>, Option<&'n ComponentValType>)>,
        end: &str,
        out: &mut String,
    ) {
        out.push_str(begin);
        for (at, (name, ty)) in parts.enumerate() {
            if out.len() > TEXT_MAX {
                break;
            }
            out.push_str(if at == 0 { "" } else { ", " });
            out.push_str(name.unwrap_or_default());
            if let Some(ty) = ty {
                out.push_str(if name.is_some() { ": " } else { "" });
                self.write(ty, out);
            }
        }
        out.push_str(end);
    }
}

fn single(name: &str, held: Value) -> Value {
    json!({
        "type": "object", "properties": {name: held}, "required": [name],
        "additionalProperties": false,
    })
}

fn primitive(word: Primitive) -> Value {
    let whole = |low: i128, high: i128| {
        // What JSON readers hold exactly is told; the range of 64 bits is checked by the node.
        match (i64::try_from(low), i64::try_from(high)) {
            (Ok(low), Ok(high)) => json!({"type": "integer", "minimum": low, "maximum": high}),
            _ => json!({"type": "integer", "minimum": 0}),
        }
    };
    match word {
        Primitive::Bool => json!({"type": "boolean"}),
        Primitive::S8 => whole(i8::MIN.into(), i8::MAX.into()),
        Primitive::U8 => whole(u8::MIN.into(), u8::MAX.into()),
        Primitive::S16 => whole(i16::MIN.into(), i16::MAX.into()),
        Primitive::U16 => whole(u16::MIN.into(), u16::MAX.into()),
        Primitive::S32 => whole(i32::MIN.into(), i32::MAX.into()),
        Primitive::U32 => whole(u32::MIN.into(), u32::MAX.into()),
        Primitive::S64 => whole(i64::MIN.into(), i64::MAX.into()),
        Primitive::U64 => whole(u64::MIN.into(), u64::MAX.into()),
        Primitive::F32 | Primitive::F64 => json!({"type": "number"}),
        Primitive::Char => json!({"type": "string", "minLength": 1, "maxLength": 1}),
        Primitive::String => json!({"type": "string"}),
        _ => json!({}),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::inspect::inspect;

    const SHOP: &str = r#"(component
      (core module $m
        (memory (export "memory") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
        (func (export "total") (param i32 i32) (result i64) (i64.const 0))
        (func (export "find") (param i32 i32 i32 i32 f64) (result i32) (i32.const 0))
        (func (export "zip") (param i32 i32) (result i32) (i32.const 0))
        (func (export "reset")))
      (core instance $i (instantiate $m))
      (alias core export $i "memory" (core memory $memory))
      (alias core export $i "realloc" (core func $realloc))
      (type $record (record (field "item" string) (field "count" (option u32))))
      (export $order "order" (type $record))
      (type $mode' (variant (case "all") (case "least" u8)))
      (export $mode "mode" (type $mode'))
      (func (export "total") (param "orders" (list $order)) (result u64)
        (canon lift (core func $i "total") (memory $memory) (realloc $realloc)))
      (func (export "find")
        (param "name" (option string)) (param "size" (tuple u8 f64))
        (result (result string (error string)))
        (canon lift (core func $i "find") (memory $memory) (realloc $realloc)))
      (func (export "zip") (param "data" (list u8)) (result (list u8))
        (canon lift (core func $i "zip") (memory $memory) (realloc $realloc)))
      (func (export "reset") (canon lift (core func $i "reset"))))"#;

    fn described(text: &str) -> Value {
        let info = inspect(&wat::parse_str(text).unwrap()).unwrap();
        serde_json::from_str(&info.description).unwrap()
    }

    #[test]
    fn each_type_has_the_schema_of_its_json() {
        let functions = &described(SHOP)["functions"];
        let total = &functions["total"];
        assert_eq!(
            total["signature"],
            "(orders: list<record {item: string, count: option<u32>}>) -> u64"
        );
        let order = &total["input"]["properties"]["orders"]["items"];
        assert_eq!(order["required"], json!(["item"]));
        assert_eq!(order["properties"]["count"]["anyOf"][1], json!({"type": "null"}));
        assert_eq!(total["returns"], json!({"type": "integer", "minimum": 0}));
        let find = &functions["find"];
        assert_eq!(
            find["signature"],
            "(name: option<string>, size: tuple<u8, f64>) -> result<string, string>"
        );
        assert_eq!(find["order"], json!(["name", "size"]));
        assert_eq!(find["input"]["required"], json!(["size"]));
        assert_eq!(find["returns"], json!({"type": "string"}));
        assert_eq!(functions["zip"]["takes"], "bytes");
        assert_eq!(functions["zip"]["gives"], "bytes");
        assert_eq!(functions["reset"]["returns"], json!({"type": "null"}));
    }

    #[test]
    fn types_that_unfold_without_end_are_cut_short() {
        let mut types = String::from("(type $t0 (tuple u8 u8))");
        for level in 1..15 {
            let below = level - 1;
            let _ = write!(types, "(type $t{level} (tuple $t{below} $t{below}))");
        }
        let text = format!(
            r#"(component {types}
              (core module $m
                (memory (export "memory") 1)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
                (func (export "f") (param i32)))
              (core instance $i (instantiate $m))
              (alias core export $i "memory" (core memory $memory))
              (alias core export $i "realloc" (core func $realloc))
              (func (export "f") (param "t" $t14)
                (canon lift (core func $i "f") (memory $memory) (realloc $realloc))))"#
        );
        let described = described(&text);
        // 32,768 leaves without an end to it.
        assert!(described.to_string().len() < 200_000);
        let signature = described["functions"]["f"]["signature"].as_str().unwrap();
        assert!(signature.chars().count() < TEXT_MAX + 10, "{signature}");
    }
}
