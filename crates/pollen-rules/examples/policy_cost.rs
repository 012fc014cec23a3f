//! What one evaluation of a policy costs: `cargo run --release --example policy_cost`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{hint::black_box, time::Instant};

use pollen_rules::{Party, Policy, Words};

const TIMES: u32 = 1_000_000;

fn main() {
    let words: Words = [("rank".into(), "publisher".into()), ("id".into(), "ab".repeat(32).into())]
        .into_iter()
        .collect();
    let props = serde_json::from_str(r#"{"team":"backend","zone":"attic","n":7}"#).unwrap();
    let team = r#"["==",["path","caller","props","team"],"backend"]"#;
    let kind = r#"["in",["path","caller","rank"],["list","publisher","admin"]]"#;
    let large = format!("[\"and\"{}]", format!(",{team}").repeat(20));
    for (name, tree) in [
        ("one comparison", team.to_owned()),
        ("two parts joined", format!("[\"and\",{team},{kind}]")),
        ("61 parts", large),
    ] {
        let policy = Policy::read(&tree, Words::default());
        let party = Party { words: &words, props: Some(&props) };
        assert!(policy.passes(&party), "{name}");
        let began = Instant::now();
        for _ in 0..TIMES {
            black_box(policy.passes(black_box(&party)));
        }
        println!("{name}: {} ns", began.elapsed().as_nanos() / u128::from(TIMES));
    }
}
