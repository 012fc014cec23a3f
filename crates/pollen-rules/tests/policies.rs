//! Policies agree with their reference: both run the same vectors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use pollen_rules::{Party, Policy, Words};
use serde_json::Value;

fn held() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/policy.json")).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn words(words: &Value) -> Words {
    let pair = |word: &Value| (text(&word[0]).into(), text(&word[1]).into());
    words.as_array().unwrap().iter().map(pair).collect()
}

/// Evaluates a tree for a party of the file.
fn passes(file: &Value, tree: &str, party: &Value) -> bool {
    let props: Option<Value> = serde_json::from_str(text(&party[1])).ok();
    let props = props.as_ref().filter(|props| props.is_object());
    let words = words(&party[0]);
    read(file, tree).passes(&Party { words: &words, props })
}

fn read(file: &Value, tree: &str) -> Policy {
    Policy::read(tree, words(&file["seed"]))
}

#[test]
fn a_policy_passes_whom_its_reference_lets_pass() {
    let file = held();
    let rows = file["rows"].as_array().unwrap();
    assert!(rows.len() > 2_000, "the vectors are there");
    for row in rows {
        let party = &file["parties"][usize::try_from(row[2].as_u64().unwrap()).unwrap()];
        let tree = text(&row[1]);
        assert!(read(&file, tree).is_readable(), "{tree}");
        assert_eq!(Value::from(passes(&file, tree, party)), row[3], "{} {party}", row[0]);
    }
}

#[test]
fn a_malformed_tree_lets_nobody_pass() {
    let file = held();
    for tree in file["malformed"].as_array().unwrap() {
        for party in file["parties"].as_array().unwrap() {
            assert!(!passes(&file, text(tree), party), "{tree}");
        }
    }
}

#[test]
fn a_tree_at_the_limits_is_read() {
    let deep = format!("{}true{}", "[\"not\",".repeat(15), "]".repeat(15));
    let wide = format!("[\"or\"{}]", ",true".repeat(63));
    for tree in [deep, wide] {
        assert!(Policy::read(&tree, Words::default()).is_readable(), "{tree}");
    }
}

#[test]
fn a_word_that_nobody_has_makes_the_whole_expression_false() {
    let party = Party { words: &[("id".into(), "".into())], props: None };
    let passes = |tree: &str| Policy::read(tree, Words::default()).passes(&party);
    assert!(passes(r#"["not",["has",["path","caller","id"]]]"#));
    assert!(!passes(r#"["not",["has",["path","caller","zone"]]]"#));
    assert!(!passes(r#"["or",true,["has",["path","seed","zone"]]]"#));
}
