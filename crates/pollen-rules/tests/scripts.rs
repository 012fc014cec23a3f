//! The machines agree with their references: both run the same scripts, and hold the same numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{collections::BTreeMap, time::Duration};

use pollen_rules::{
    Action, Attempts, Backlog, End, Event, Failure, Heard, Place, Silence, Step, View, numbers,
};
use serde_json::{Value, json};

fn scripts(text: &str, least: usize) -> Vec<Value> {
    let scripts: Vec<Value> = serde_json::from_str(text).unwrap();
    assert!(scripts.len() >= least, "the scripts are there");
    scripts
}

fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_else(|| panic!("{key} in {row}"))
}

fn list<'a>(row: &'a Value, key: &str) -> &'a [Value] {
    row[key].as_array().unwrap()
}

/// A flag or number that may be left out.
fn flag(row: &Value, key: &str) -> bool {
    row[key].as_bool().unwrap_or_default()
}

fn count(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_default()
}

const MILLISECOND: u64 = 1_000_000;

fn place(row: &Value) -> Place<&str> {
    Place {
        node: row["node"].as_str().unwrap(),
        price_us: count(row, "price_us"),
        in_flight: count(row, "in_flight"),
        service_us: count(row, "service_us"),
        ejected: flag(row, "ejected"),
        saturated: flag(row, "saturated"),
        unlinked: flag(row, "unlinked"),
        silent: flag(row, "silent"),
    }
}

fn answer(attempts: &mut Attempts<&'static str>, row: &'static Value) -> Step {
    let now = number(row, "at_ms") * MILLISECOND;
    if let Some(failed) = row.get("failed") {
        let failure = Failure {
            slug: failed["slug"].as_str().unwrap(),
            may_have_executed: flag(failed, "may_have_executed"),
            remote: flag(failed, "remote"),
            streamed: flag(failed, "streamed"),
            cut: flag(failed, "cut"),
        };
        return attempts.poll(Event::Failed(failure), now);
    }
    let look = &row["look"];
    let places: Vec<_> = list(look, "places").iter().map(place).collect();
    let view = View {
        cold: flag(look, "cold"),
        idempotent: flag(look, "idempotent"),
        changed: flag(look, "changed"),
        places: &places,
        draw: count(look, "draw"),
    };
    attempts.poll(Event::Looked(&view), now)
}

fn text_of(action: Action) -> Value {
    match action {
        Action::Try(index) => json!({"try": index}),
        Action::Wait(until) => json!({"wait_ms": until / MILLISECOND}),
        Action::Look => json!("look"),
        Action::End(End::Last) => json!({"end": "last"}),
        Action::End(End::Nobody) => json!({"end": "nobody"}),
        Action::End(End::Deadline) => json!({"end": "deadline"}),
    }
}

fn play_attempts(text: &str, least: usize) {
    // Leaked: the machine keeps names of nodes for as long as a script runs.
    for script in scripts(text, least).leak().iter() {
        let retries = script["retries"].as_u64().unwrap_or(u64::from(numbers::RETRIES));
        let mut attempts = Attempts::new(
            number(script, "deadline_ms") * MILLISECOND,
            flag(script, "idempotent"),
            u8::try_from(retries).unwrap(),
        );
        for row in list(script, "steps") {
            let step = answer(&mut attempts, row);
            assert_eq!(text_of(step.action), row["expect"], "{}: {row}", script["name"]);
            let wanted = row.get("wanted").map(|index| usize::try_from(index.as_u64().unwrap()));
            assert_eq!(step.wanted.map(Ok), wanted, "{}: {row}", script["name"]);
        }
    }
}

#[test]
fn attempts_agree_with_their_reference() {
    play_attempts(include_str!("../../../tests/vectors/attempts.json"), 60);
}

#[test]
fn attempts_agree_with_their_reference_where_chance_leads() {
    play_attempts(include_str!("../../../tests/vectors/attempts_drawn.json"), 200);
}

#[test]
fn silence_agrees_with_its_reference() {
    for script in scripts(include_str!("../../../tests/vectors/silence.json"), 10) {
        let mut silence = Silence::default();
        let srtt = Duration::from_micros(number(&script, "srtt_us"));
        for look in list(&script, "looks") {
            let now = Duration::from_millis(number(look, "at_ms"));
            let text = match silence.poll(flag(look, "heard"), srtt, now) {
                Heard::Again => "again",
                Heard::Nothing => "nothing",
                Heard::Ejected => "ejected",
            };
            assert_eq!(text, look["expected"], "{}: {look}", script["name"]);
        }
    }
}

#[test]
fn backlog_agrees_with_its_reference() {
    for script in scripts(include_str!("../../../tests/vectors/backlog.json"), 10) {
        let mut backlog = Backlog::default();
        for step in list(&script, "steps") {
            let (now_us, waiting) = (number(step, "at_ms") * 1_000, number(step, "waiting"));
            match step["op"].as_str().unwrap() {
                "came" => backlog.came(now_us, waiting),
                "left" => backlog.left(now_us, waiting),
                _ => backlog.refuse(),
            }
            let standing_ms = backlog.standing_us(now_us) / 1_000;
            let quiet_ms = backlog.quiet_us(now_us) / 1_000;
            let seen = [standing_ms, quiet_ms, backlog.size(waiting), backlog.before()];
            let expected =
                ["standing_ms", "quiet_ms", "size", "before"].map(|name| number(step, name));
            assert_eq!(seen, expected, "{}: {step}", script["name"]);
        }
    }
}

#[test]
fn numbers_are_those_of_the_reference() {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap();
    let wide = |size: usize| u64::try_from(size).unwrap();
    let held = BTreeMap::from([
        ("BRAIN_DRAIN_MS", nanos(numbers::BRAIN_DRAIN) / MILLISECOND),
        ("BURST_STEP_US", numbers::BURST_STEP_US),
        ("BURST_TIMES", numbers::BURST_TIMES),
        ("CALLS", numbers::CALLS.into()),
        ("CALL_SHORT_US", numbers::CALL_SHORT_US),
        ("COLD_NS", nanos(numbers::COLD)),
        ("CONTROL_QUEUE", wide(numbers::CONTROL_QUEUE)),
        ("DUPLICATE_GRACE_NS", nanos(numbers::DUPLICATE_GRACE)),
        ("DUPLICATE_LOOK_NS", nanos(numbers::DUPLICATE_LOOK)),
        ("EJECT_EXTRA_NS", nanos(numbers::EJECT_EXTRA)),
        ("EJECT_FLOOR_NS", nanos(numbers::EJECT_FLOOR)),
        ("EJECT_TRIPS", numbers::EJECT_TRIPS.into()),
        ("FRESH_A_CORE", numbers::FRESH_A_CORE),
        ("FULL", numbers::FULL.into()),
        ("HANDSHAKE_NS", nanos(numbers::HANDSHAKE)),
        ("HEARTBEAT_NS", nanos(numbers::HEARTBEAT)),
        ("HOPS", numbers::HOPS.into()),
        ("LINK_IDLE_END_NS", nanos(numbers::LINK_IDLE_END)),
        ("POLICY_DEPTH", wide(numbers::POLICY_DEPTH)),
        ("POLICY_NODES", wide(numbers::POLICY_NODES)),
        ("QUEUE_GAP_US", numbers::QUEUE_GAP_US),
        ("QUEUE_MAX", numbers::QUEUE_MAX),
        ("QUEUE_QUIET_US", numbers::QUEUE_QUIET_US),
        ("QUEUE_REST_MAX_US", numbers::QUEUE_REST_MAX_US),
        ("QUEUE_STANDING_MAX_US", numbers::QUEUE_STANDING_MAX_US),
        ("QUEUE_STANDING_US", numbers::QUEUE_STANDING_US),
        ("QUEUE_WAIT_US", numbers::QUEUE_WAIT_US),
        ("REACH_NS", nanos(numbers::REACH)),
        ("RETRIES", numbers::RETRIES.into()),
        ("RETRY_MIN_BUDGET_US", numbers::RETRY_MIN_BUDGET_US),
        ("ROW_REPLICAS", wide(numbers::ROW_REPLICAS)),
        ("ROW_AGAIN_NS", nanos(numbers::ROW_AGAIN)),
        ("SATURATED_NS", nanos(numbers::SATURATED)),
        ("SEEN_NS", nanos(numbers::SEEN)),
        ("SILENCE_NS", nanos(numbers::SILENCE)),
        ("SLOTS_A_CORE", numbers::SLOTS_A_CORE),
        ("WANTED_NS", nanos(numbers::WANTED)),
    ]);
    let shared: Value =
        serde_json::from_str(include_str!("../../../tests/vectors/numbers.json")).unwrap();
    assert_eq!(json!(held), shared);
}
