//! The rules agree with their reference: both run the same vectors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use pollen_rules::{
    Admission, Arrival, Attempt, Candidate, Retry, Room, Stock, Wait, Wake, Wakening, admit,
    admit_wake, choose, choose_rank, classify_retry, fullness, is_late, match_gate, shed, split,
};
use serde_json::Value;

fn cases(text: &str) -> Vec<(String, Value, Value)> {
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    assert!(cases.len() > 10, "the vectors are there");
    cases
        .into_iter()
        .map(|case| {
            (
                case["name"].as_str().unwrap().to_owned(),
                case["input"].clone(),
                case["expected"].clone(),
            )
        })
        .collect()
}

fn number(input: &Value, key: &str) -> u64 {
    input[key].as_u64().unwrap_or_else(|| panic!("{key} in {input}"))
}

fn flag(input: &Value, key: &str) -> bool {
    input[key].as_bool().unwrap_or_else(|| panic!("{key} in {input}"))
}

fn index(expected: &Value) -> Option<usize> {
    expected.as_u64().map(|index| usize::try_from(index).unwrap())
}

#[test]
fn choose_agrees_with_its_reference() {
    for (name, input, expected) in cases(include_str!("../../../tests/vectors/routing_choose.json"))
    {
        let candidates: Vec<_> = input["candidates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| Candidate {
                price_us: number(c, "price_us"),
                in_flight: number(c, "in_flight"),
                service_us: number(c, "service_us"),
                ejected: flag(c, "ejected"),
                saturated: flag(c, "saturated"),
                tried: flag(c, "tried"),
            })
            .collect();
        let chosen = match input["wake"].as_bool() {
            Some(true) => choose_rank(&candidates),
            _ => choose(&candidates, number(&input, "draw")),
        };
        assert_eq!(chosen, index(&expected), "{name}");
    }
}

#[test]
fn retry_class_agrees_with_its_reference() {
    for (name, input, expected) in cases(include_str!("../../../tests/vectors/routing_retry.json"))
    {
        let judged = classify_retry(&Attempt {
            slug: input["slug"].as_str().unwrap(),
            may_have_executed: flag(&input, "may_have_executed"),
            idempotent: flag(&input, "idempotent"),
            remote: flag(&input, "remote"),
            retries: number(&input, "retries"),
            budget_us: number(&input, "budget_us"),
        });
        let text = match judged {
            Retry::Elsewhere => "elsewhere",
            Retry::GiveUp => "give-up",
        };
        assert_eq!(text, expected, "{name}");
    }
}

#[test]
fn gate_match_agrees_with_its_reference() {
    for (name, input, expected) in cases(include_str!("../../../tests/vectors/routing_gate.json")) {
        let pairs: Vec<(String, String)> = serde_json::from_value(input["pairs"].clone()).unwrap();
        let passes = match_gate(&pairs, input["properties"].as_str().unwrap());
        assert_eq!(Value::from(passes), expected, "{name}");
    }
}

#[test]
fn admit_agrees_with_its_reference() {
    for (name, input, expected) in cases(include_str!("../../../tests/vectors/routing_admit.json"))
    {
        let judged = admit(&Arrival {
            room: Room {
                running: number(&input, "running"),
                slots: number(&input, "slots"),
                fresh: number(&input, "fresh"),
                fresh_slots: number(&input, "fresh_slots"),
            },
            service_us: number(&input, "service_us"),
            queued: number(&input, "queued"),
            queue_limit: number(&input, "queue_limit"),
            depth: number(&input, "depth"),
            memory: Stock {
                memory_free: number(&input, "memory_free"),
                memory_reserve: number(&input, "memory_reserve"),
                memory_need: number(&input, "memory_need"),
                tree_free: number(&input, "tree_free"),
                tree_need: number(&input, "tree_need"),
                under_way: number(&input, "under_way"),
            },
            seen: flag(&input, "seen"),
        });
        let text = match judged {
            Admission::Run => "run",
            Admission::Queue => "queue",
            Admission::Shed => "shed",
            Admission::Overloaded => "overloaded",
            Admission::Duplicate => "duplicate",
        };
        assert_eq!(text, expected, "{name}");
    }
}

#[test]
fn fullness_agrees_with_its_reference() {
    let text = include_str!("../../../tests/vectors/routing_fullness.json");
    for (name, input, expected) in cases(text) {
        let room = Room {
            running: number(&input, "running"),
            slots: number(&input, "slots"),
            fresh: number(&input, "fresh"),
            fresh_slots: number(&input, "fresh_slots"),
        };
        let load = fullness(&room, number(&input, "queued"), number(&input, "queue_limit"));
        assert_eq!(Value::from(load), expected, "{name}");
    }
}

#[test]
fn wake_agrees_with_its_reference() {
    for (name, input, expected) in cases(include_str!("../../../tests/vectors/routing_wake.json")) {
        let judged = admit_wake(&Wakening {
            asked: flag(&input, "asked"),
            ready: flag(&input, "ready"),
            rank: flag(&input, "rank"),
            leased: flag(&input, "leased"),
            loading: flag(&input, "loading"),
            memory_free: number(&input, "memory_free"),
            memory_need: number(&input, "memory_need"),
        });
        let text = match judged {
            Wake::Ready => "ready",
            Wake::Load => "load",
            Wake::Join => "join",
            Wake::Silent => "silent",
            Wake::Overloaded => "overloaded",
            Wake::Refuse => "refuse",
        };
        assert_eq!(text, expected, "{name}");
    }
}

#[test]
fn shed_agrees_with_its_reference() {
    for (name, input, expected) in cases(include_str!("../../../tests/vectors/routing_shed.json")) {
        let queued = input["queued_us"].as_array().unwrap().iter().map(|us| us.as_u64().unwrap());
        let judged = shed(queued, number(&input, "newcomer_us"), number(&input, "wait_us"));
        assert_eq!(judged, index(&expected), "{name}");
    }
}

#[test]
fn late_agrees_with_its_reference() {
    for (name, input, expected) in cases(include_str!("../../../tests/vectors/routing_late.json")) {
        let wait = Wait {
            waited_us: number(&input, "waited_us"),
            standing_us: number(&input, "standing_us"),
            quiet_us: number(&input, "quiet_us"),
            backlog: number(&input, "backlog"),
            backlog_before: number(&input, "backlog_before"),
            service_us: number(&input, "service_us"),
            depth: number(&input, "depth"),
        };
        assert_eq!(Value::from(is_late(&wait)), expected, "{name}");
    }
}

#[test]
fn split_agrees_with_its_reference() {
    for (name, input, expected) in cases(include_str!("../../../tests/vectors/routing_split.json"))
    {
        let hops = u8::try_from(number(&input, "hops")).unwrap();
        let calls = u32::try_from(number(&input, "calls_left")).unwrap();
        let retries = u8::try_from(number(&input, "retries")).unwrap();
        let judged = match split(hops, calls, retries) {
            Err(slug) => Value::from(slug),
            Ok(share) => serde_json::json!({
                "hops": share.hops, "calls": share.calls, "retries": share.retries,
            }),
        };
        assert_eq!(judged, expected, "{name}");
    }
}
