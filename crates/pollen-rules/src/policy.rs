//! gate match, second half: whether a policy is true for a caller (docs/design/policy.md).
//!
//! The reference is `pollen.core.policy.judge`; both run `tests/vectors/policy.json`. A tree is read
//! once, when the row of its seed comes. Its evaluation allocates nothing.

use std::cmp::Ordering;

use serde_json::Value;

use crate::numbers::{POLICY_DEPTH, POLICY_NODES};

/// The words of somebody, each with its text; an empty text leads nowhere.
pub type Words = Box<[(Box<str>, Box<str>)]>;

/// Who is judged.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    /// What stands directly below the subject.
    pub words: &'a [(Box<str>, Box<str>)],
    /// What stands below `props`; none when it is not an object.
    pub props: Option<&'a Value>,
}

/// A policy as a row carries it. One that cannot be read lets nobody pass.
#[derive(Debug, Clone)]
pub struct Policy {
    tree: Option<Node>,
    seed: Words,
}

impl Policy {
    /// Reads a packed tree; `seed` are the words below `seed`.
    pub fn read(packed: &str, seed: Words) -> Self {
        let carried = serde_json::from_str::<Value>(packed).ok();
        let mut left = POLICY_NODES;
        let tree = carried.and_then(|carried| condition(&carried, POLICY_DEPTH, &mut left));
        Self { tree, seed }
    }

    /// Whether the tree could be read.
    pub fn is_readable(&self) -> bool {
        self.tree.is_some()
    }

    /// Whether the whole expression is true for a party, without any fault.
    pub fn passes(&self, party: &Party<'_>) -> bool {
        let facts = Facts { party, seed: &self.seed };
        self.tree.as_ref().is_some_and(|tree| holds(tree, &facts) == Ok(true))
    }
}

#[derive(Debug, Clone)]
enum Node {
    Logic(Logic, Vec<Node>),
    Not(Box<Node>),
    Has(Path),
    Compare(Sign, Operand, Operand),
    In(Operand, Range),
    Affix(End, Path, Operand),
    Flag(Operand),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logic {
    And,
    Or,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Starts,
    Ends,
}

#[derive(Debug, Clone)]
enum Operand {
    Literal(Literal),
    Path(Path),
}

#[derive(Debug, Clone)]
enum Range {
    List(Vec<Literal>),
    Path(Path),
}

#[derive(Debug, Clone)]
enum Literal {
    Text(String),
    Int(i64),
    Bool(bool),
}

#[derive(Debug, Clone)]
enum Path {
    Word(String),
    Props(Vec<String>),
    Seed(String),
}

// -- reading a tree -------------------------------------------------------------------------------

/// A condition at most so deep, of at most so many parts.
fn condition(carried: &Value, depth: usize, left: &mut usize) -> Option<Node> {
    if carried.is_boolean() {
        return Some(Node::Flag(operand(carried, depth, left)?));
    }
    let (kind, parts) = opened(carried)?;
    if kind == "path" {
        return Some(Node::Flag(operand(carried, depth, left)?));
    }
    let below = taken(depth, left)?;
    match (kind, parts) {
        ("and" | "or", [_, _, ..]) => {
            let logic = if kind == "and" { Logic::And } else { Logic::Or };
            let nodes = parts.iter().map(|part| condition(part, below, left));
            Some(Node::Logic(logic, nodes.collect::<Option<_>>()?))
        }
        ("not", [part]) => Some(Node::Not(Box::new(condition(part, below, left)?))),
        ("has", [found]) => Some(Node::Has(path(found, below, left)?)),
        ("in", [item, range]) => {
            let item = operand(item, below, left)?;
            Some(Node::In(item, range_of(range, below, left)?))
        }
        ("startsWith" | "endsWith", [whole, end]) => {
            let which = if kind == "startsWith" { End::Starts } else { End::Ends };
            let whole = path(whole, below, left)?;
            let end = operand(end, below, left)?;
            let is_text = !matches!(end, Operand::Literal(Literal::Int(_) | Literal::Bool(_)));
            is_text.then_some(Node::Affix(which, whole, end))
        }
        (_, [one, other]) => {
            let sign = sign(kind)?;
            let one = operand(one, below, left)?;
            Some(Node::Compare(sign, one, operand(other, below, left)?))
        }
        _ => None,
    }
}

/// A list that begins with its kind, and what follows it.
fn opened(carried: &Value) -> Option<(&str, &[Value])> {
    let (kind, parts) = carried.as_array()?.split_first()?;
    Some((kind.as_str()?, parts))
}

/// One part more; the depth that is left below it.
fn taken(depth: usize, left: &mut usize) -> Option<usize> {
    *left = left.checked_sub(1)?;
    depth.checked_sub(1)
}

fn sign(kind: &str) -> Option<Sign> {
    Some(match kind {
        "==" => Sign::Equal,
        "!=" => Sign::Unequal,
        "<" => Sign::Less,
        "<=" => Sign::LessEqual,
        ">" => Sign::Greater,
        ">=" => Sign::GreaterEqual,
        _ => return None,
    })
}

fn operand(carried: &Value, depth: usize, left: &mut usize) -> Option<Operand> {
    if carried.is_array() {
        return Some(Operand::Path(path(carried, depth, left)?));
    }
    Some(Operand::Literal(literal(carried, depth, left)?))
}

fn literal(carried: &Value, depth: usize, left: &mut usize) -> Option<Literal> {
    taken(depth, left)?;
    match carried {
        Value::String(text) => Some(Literal::Text(text.clone())),
        Value::Bool(flag) => Some(Literal::Bool(*flag)),
        Value::Number(number) => number.as_i64().map(Literal::Int),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn range_of(carried: &Value, depth: usize, left: &mut usize) -> Option<Range> {
    let (kind, parts) = opened(carried)?;
    if kind != "list" {
        return Some(Range::Path(path(carried, depth, left)?));
    }
    let below = taken(depth, left)?;
    let items = parts.iter().map(|part| literal(part, below, left));
    Some(Range::List(items.collect::<Option<_>>()?))
}

fn path(carried: &Value, depth: usize, left: &mut usize) -> Option<Path> {
    let (kind, steps) = opened(carried)?;
    if kind != "path" {
        return None;
    }
    taken(depth, left)?;
    let steps: Vec<&str> = steps.iter().map(Value::as_str).collect::<Option<_>>()?;
    match steps.as_slice() {
        ["caller" | "node", "props", keys @ ..] if !keys.is_empty() => {
            Some(Path::Props(keys.iter().map(|key| (*key).to_owned()).collect()))
        }
        ["caller" | "node", word] if *word != "props" => Some(Path::Word((*word).to_owned())),
        ["seed", word] => Some(Path::Seed((*word).to_owned())),
        _ => None,
    }
}

// -- evaluating it --------------------------------------------------------------------------------

/// A part without a value makes the whole expression false.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault;

struct Facts<'a> {
    party: &'a Party<'a>,
    seed: &'a [(Box<str>, Box<str>)],
}

/// What a path leads to, or a literal.
enum Found<'a> {
    Text(&'a str),
    Int(i64),
    Bool(bool),
    List(&'a [Value]),
    /// Something there is, and nothing that could be compared.
    Strange,
}

/// Every part is evaluated: no verdict hides a fault.
fn holds(node: &Node, facts: &Facts<'_>) -> Result<bool, Fault> {
    match node {
        Node::Logic(logic, parts) => {
            let is_or = *logic == Logic::Or;
            let mut value = !is_or;
            for part in parts {
                let one = holds(part, facts)?;
                value = if is_or { value | one } else { value & one };
            }
            Ok(value)
        }
        Node::Not(part) => holds(part, facts).map(|value| !value),
        Node::Has(path) => Ok(found(path, facts)?.is_some()),
        Node::Flag(operand) => match value(operand, facts)? {
            Found::Bool(flag) => Ok(flag),
            _ => Err(Fault),
        },
        Node::Compare(sign, one, other) => {
            compared(*sign, &value(one, facts)?, &value(other, facts)?)
        }
        Node::In(item, range) => is_in(item, range, facts),
        Node::Affix(end, whole, part) => {
            let whole = found(whole, facts)?.ok_or(Fault)?;
            match (whole, value(part, facts)?) {
                (Found::Text(whole), Found::Text(part)) => Ok(match end {
                    End::Starts => whole.starts_with(part),
                    End::Ends => whole.ends_with(part),
                }),
                _ => Err(Fault),
            }
        }
    }
}

fn value<'a>(operand: &'a Operand, facts: &Facts<'a>) -> Result<Found<'a>, Fault> {
    match operand {
        Operand::Literal(literal) => Ok(written(literal)),
        Operand::Path(path) => match found(path, facts)? {
            Some(Found::Strange) | None => Err(Fault),
            Some(value) => Ok(value),
        },
    }
}

fn written(literal: &Literal) -> Found<'_> {
    match literal {
        Literal::Text(text) => Found::Text(text),
        Literal::Int(number) => Found::Int(*number),
        Literal::Bool(flag) => Found::Bool(*flag),
    }
}

/// What a path leads to, if anywhere. A word that nobody has is of a newer version: a fault.
fn found<'a>(path: &Path, facts: &Facts<'a>) -> Result<Option<Found<'a>>, Fault> {
    match path {
        Path::Word(word) => worded(facts.party.words, word),
        Path::Seed(word) => worded(facts.seed, word),
        Path::Props(keys) => {
            let step = |held: &'a Value, key: &String| held.as_object()?.get(key);
            let end = facts.party.props.and_then(|props| keys.iter().try_fold(props, step));
            Ok(end.map(read))
        }
    }
}

fn worded<'a>(words: &'a [(Box<str>, Box<str>)], word: &str) -> Result<Option<Found<'a>>, Fault> {
    let (_, text) = words.iter().find(|(known, _)| **known == *word).ok_or(Fault)?;
    Ok((!text.is_empty()).then_some(Found::Text(text)))
}

/// A value of a property. `-0` is 0, as readers of JSON disagree.
fn read(held: &Value) -> Found<'_> {
    match held {
        Value::String(text) => Found::Text(text),
        Value::Bool(flag) => Found::Bool(*flag),
        Value::Array(items) => Found::List(items),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Found::Int(whole),
            (None, Some(double)) if double == 0.0 && double.is_sign_negative() => Found::Int(0),
            _ => Found::Strange,
        },
        Value::Null | Value::Object(_) => Found::Strange,
    }
}

fn compared(sign: Sign, one: &Found<'_>, other: &Found<'_>) -> Result<bool, Fault> {
    let order = match (one, other) {
        (Found::Text(one), Found::Text(other)) => one.cmp(other),
        (Found::Int(one), Found::Int(other)) => one.cmp(other),
        (Found::Bool(one), Found::Bool(other)) if matches!(sign, Sign::Equal | Sign::Unequal) => {
            one.cmp(other)
        }
        _ => return Err(Fault),
    };
    Ok(match sign {
        Sign::Equal => order == Ordering::Equal,
        Sign::Unequal => order != Ordering::Equal,
        Sign::Less => order == Ordering::Less,
        Sign::LessEqual => order != Ordering::Greater,
        Sign::Greater => order == Ordering::Greater,
        Sign::GreaterEqual => order != Ordering::Less,
    })
}

fn is_in(item: &Operand, range: &Range, facts: &Facts<'_>) -> Result<bool, Fault> {
    let item = value(item, facts)?;
    if matches!(item, Found::List(_)) {
        return Err(Fault);
    }
    match range {
        Range::List(items) => Ok(items.iter().any(|other| is_same(&item, &written(other)))),
        Range::Path(path) => match found(path, facts)? {
            Some(Found::List(items)) => Ok(items.iter().any(|other| is_same(&item, &read(other)))),
            _ => Err(Fault),
        },
    }
}

fn is_same(one: &Found<'_>, other: &Found<'_>) -> bool {
    compared(Sign::Equal, one, other) == Ok(true)
}
