//! Every format decodes to the expected value and encodes back to the golden bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use pollen_wire::{
    WireError,
    call::{Answered, CallHeader, ReplyHeader, Status, encode_chunk_head},
    close,
    control::{Control, SignedRecord},
    door::{Answer, Ask, DoorCall, DoorError, DoorReply},
    fetch::{FetchAnswer, FetchRequest},
    frame::{MAX_CHUNK, MAX_HEAD},
    hello::Hello,
    open::{Asked, Open, Opened, Want},
};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn run<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|i| from.wrapping_add(u8::try_from(i).unwrap()))
}

fn vector(name: &str) -> Vec<u8> {
    let text = include_str!("../../../tests/vectors/wire.json");
    let doc: serde_json::Value = serde_json::from_str(text).unwrap();
    let cases = doc["cases"].as_array().unwrap();
    let case = cases.iter().find(|case| case["name"] == name).expect(name);
    let hex = case["hex"].as_str().unwrap();
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

#[test]
fn hello_is_golden_and_ignores_later_fields() {
    let golden = vector("hello");
    let expected =
        Hello { cluster: run(0), minor_min: 1, minor_max: 3, boot: run(0), chain: b"chain" };
    assert_eq!(Hello::decode(&golden), Ok(expected));
    assert_eq!(encoded(|out| expected.encode(out)), golden);
    assert_eq!(Hello::decode(&vector("hello with a field of a later version")), Ok(expected));
}

#[test]
fn control_frames_are_golden() {
    let record = SignedRecord { owner: run(64), body: b"body", signature: run(200) };
    for (name, expected) in [
        ("admitted", Control::Admitted),
        ("message", Control::Message(b"to the brain")),
        ("records", Control::Records(vec![record])),
    ] {
        let golden = vector(name);
        assert_eq!(Control::decode(&golden).as_ref(), Ok(&expected), "{name}");
        assert_eq!(encoded(|out| expected.encode(out)), golden, "{name}");
    }
    assert_eq!(Control::decode(&vector("unknown control kind")), Ok(Control::Unknown(9)));
}

#[test]
fn call_and_reply_headers_are_golden() {
    let first = CallHeader {
        call: run(16),
        seed: run(32),
        function: "shout",
        budget_us: 2_500_000,
        hops: 16,
        calls_left: 1000,
        retries: 3,
        idempotent: true,
        wake: true,
        attempt: 1,
        acting_seed: None,
        origin: run(64),
        traceparent: TRACE,
        input_len: 5,
        stream: false,
        head: b"",
    };
    let nested = CallHeader {
        function: "f",
        budget_us: 1,
        hops: 0,
        calls_left: 0,
        retries: 0,
        idempotent: false,
        wake: false,
        attempt: 255,
        acting_seed: Some(run(0)),
        traceparent: "",
        input_len: u32::MAX,
        ..first
    };
    let headed = CallHeader { stream: true, head: b"head", ..first };
    for (name, expected) in [
        ("call header", first),
        ("nested call header", nested),
        ("call header with a head, streamed", headed),
    ] {
        let golden = vector(name);
        assert_eq!(CallHeader::decode(&golden), Ok(expected), "{name}");
        assert_eq!(encoded(|out| expected.encode(out)), golden, "{name}");
    }
    let ok = ReplyHeader {
        status: Status::Ok,
        guest_status: 0,
        queue_us: 12,
        run_us: 345,
        fullness: 7,
        calls_used: 1,
        slug: "",
        reason: "",
        remedy: "",
        retry_after_ms: 0,
        may_have_executed: false,
        output_len: 4,
        wake_us: 0,
    };
    let status = ReplyHeader {
        status: Status::GuestStatus,
        guest_status: -7,
        queue_us: 0,
        run_us: 1,
        fullness: 0,
        may_have_executed: true,
        output_len: 0,
        wake_us: 12_000,
        ..ok
    };
    let failed = ReplyHeader {
        status: Status::Failed,
        queue_us: 0,
        run_us: 0,
        fullness: 255,
        calls_used: 0,
        slug: "overloaded",
        reason: "every slot is taken",
        remedy: "try again",
        retry_after_ms: 50,
        output_len: 0,
        ..ok
    };
    for (name, expected) in
        [("reply ok", ok), ("reply guest status", status), ("reply failed", failed)]
    {
        let golden = vector(name);
        assert_eq!(ReplyHeader::decode(&golden), Ok(expected), "{name}");
        assert_eq!(Answered::decode(&golden), Ok(Answered::Reply(expected)), "{name}");
        assert_eq!(encoded(|out| expected.encode(out)), golden, "{name}");
    }
}

fn chunk_frame(bytes: &[u8]) -> Vec<u8> {
    let mut out = encoded(|out| encode_chunk_head(u32::try_from(bytes.len()).unwrap(), out));
    out.extend_from_slice(bytes);
    out
}

#[test]
fn a_chunk_is_golden_and_told_from_a_reply_by_its_first_byte() {
    let golden = vector("chunk");
    assert_eq!(Answered::decode(&golden), Ok(Answered::Chunk(b"a piece")));
    assert_eq!(chunk_frame(b"a piece"), golden);
    for length in [1, 255, 256, 65_535, 65_536, MAX_CHUNK] {
        let bytes = vec![7; length];
        assert_eq!(Answered::decode(&chunk_frame(&bytes)), Ok(Answered::Chunk(&bytes)), "{length}");
    }
    for (length, what) in [(0, "empty"), (MAX_CHUNK + 1, "too long")] {
        let refused = Answered::decode(&chunk_frame(&vec![7; length])).unwrap_err();
        assert_eq!(refused, WireError::Limit("chunk"), "{what}");
    }
}

#[test]
fn a_request_head_has_its_limit() {
    let golden = vector("call header");
    let header = CallHeader::decode(&golden).unwrap();
    let (most, over) = (vec![1; MAX_HEAD], vec![1; MAX_HEAD + 1]);
    let framed = |head| encoded(|out| CallHeader { head, ..header }.encode(out));
    assert_eq!(CallHeader::decode(&framed(&most)).unwrap().head, most);
    assert_eq!(CallHeader::decode(&framed(&over)), Err(WireError::Limit("head")));
}

#[test]
fn content_requests_are_golden() {
    let whole =
        FetchRequest { seed: run(32), path: "module", content: run(0), piece: None, skip: 0 };
    let piece = FetchRequest { piece: Some(5), ..whole };
    let rest = FetchRequest { skip: 300, ..piece };
    let requests =
        [("fetch", whole), ("fetch of a piece", piece), ("fetch of the rest of a piece", rest)];
    for (name, expected) in requests {
        let golden = vector(name);
        assert_eq!(FetchRequest::decode(&golden), Ok(expected), "{name}");
        assert_eq!(encoded(|out| expected.encode(out)), golden, "{name}");
    }
    let refused = FetchAnswer { slug: "denied", size: None, skip: 0 };
    let sent = FetchAnswer { slug: "", size: Some(1 << 28), skip: 0 };
    let rest = FetchAnswer { skip: 300, ..sent };
    let answers = [
        ("fetch answer", refused),
        ("fetch answer with a size", sent),
        ("fetch answer with the rest of a piece", rest),
    ];
    for (name, expected) in answers {
        let golden = vector(name);
        assert_eq!(FetchAnswer::decode(&golden), Ok(expected), "{name}");
        assert_eq!(encoded(|out| expected.encode(out)), golden, "{name}");
    }
}

#[test]
fn the_local_door_is_golden() {
    let call = DoorCall {
        id: 7,
        seed: "echo",
        function: Some("say"),
        budget_ms: 60_000,
        retries: 3,
        idempotent: true,
        traceparent: Some(TRACE),
        input: b"hi",
        head: b"",
        credit: 0,
    };
    let bare = DoorCall {
        id: u32::MAX,
        function: None,
        budget_ms: 1,
        retries: 0,
        idempotent: false,
        traceparent: None,
        input: b"",
        ..call
    };
    for (name, expected) in [
        ("door call", Ask::Call(call)),
        ("door call, only export, no trace", Ask::Call(bare)),
        (
            "door call with a head and a credit",
            Ask::Call(DoorCall { head: b"head", credit: 1 << 20, ..call }),
        ),
        ("door call streamed without a head", Ask::Call(DoorCall { credit: 65_536, ..call })),
        ("door cancel", Ask::Cancel { id: 7 }),
        ("door credit", Ask::Credit { id: 7, bytes: 65_536 }),
    ] {
        let golden = vector(name);
        assert_eq!(Ask::decode(&golden), Ok(expected), "{name}");
        assert_eq!(encoded(|out| expected.encode(out)), golden, "{name}");
    }
    let reply = DoorReply {
        id: 7,
        guest_status: None,
        node: run(0),
        attempts: 1,
        queue_us: 2,
        run_us: 3,
        total_us: 400,
        rtt_us: 0,
        wake_us: 0,
        output: b"HI",
    };
    let error = DoorError {
        id: 7,
        slug: "denied",
        reason: "why",
        remedy: "do",
        node: None,
        attempts: 1,
        may_have_executed: false,
        retry_after_ms: 0,
    };
    for (name, expected) in [
        ("door reply", Answer::Reply(reply)),
        (
            "door reply with a guest status",
            Answer::Reply(DoorReply {
                guest_status: Some(-3),
                attempts: 2,
                rtt_us: 90,
                wake_us: 12_000,
                output: b"",
                ..reply
            }),
        ),
        ("door error", Answer::Error(error)),
        (
            "door error from a node",
            Answer::Error(DoorError {
                slug: "deadline",
                node: Some(run(0)),
                attempts: 2,
                may_have_executed: true,
                retry_after_ms: 1500,
                ..error
            }),
        ),
        ("door goodbye", Answer::Goodbye { reason: "shutting down" }),
        ("door chunk", Answer::Chunk { id: 7, bytes: b"a piece" }),
    ] {
        let golden = vector(name);
        assert_eq!(Answer::decode(&golden), Ok(expected), "{name}");
        assert_eq!(encoded(|out| expected.encode(out)), golden, "{name}");
    }
}

#[test]
fn a_golden_frame_cut_short_anywhere_is_refused() {
    for name in [
        "hello",
        "message",
        "records",
        "call header",
        "call header with a head, streamed",
        "reply ok",
        "chunk",
        "fetch",
        "fetch of a piece",
        "fetch answer with a size",
        "door call",
        "door call with a head and a credit",
        "door credit",
        "door reply",
        "door chunk",
        "open of datagrams",
        "open for a guest",
        "refused",
        "want of one node",
    ] {
        let golden = vector(name);
        for cut in 0..golden.len() {
            let part = &golden[..cut];
            let refused = match name {
                "hello" => Hello::decode(part).is_err(),
                "message" | "records" => Control::decode(part).is_err(),
                "call header" | "call header with a head, streamed" => {
                    CallHeader::decode(part).is_err()
                }
                "reply ok" => ReplyHeader::decode(part).is_err(),
                "chunk" => Answered::decode(part).is_err(),
                "fetch" | "fetch of a piece" => FetchRequest::decode(part).is_err(),
                "fetch answer with a size" => FetchAnswer::decode(part).is_err(),
                "open of datagrams" | "open for a guest" | "open of a marked client" => {
                    Asked::decode(part).is_err()
                }
                "refused" => Opened::decode(part).is_err(),
                "want of one node" => Want::decode(part).is_err(),
                "door call" | "door call with a head and a credit" | "door credit" => {
                    Ask::decode(part).is_err()
                }
                _ => Answer::decode(part).is_err(),
            };
            assert!(refused, "{name} cut at {cut}");
        }
    }
}

#[test]
fn the_frames_of_a_tunnel_are_golden() {
    let api = Open { service: "api", session: None, publisher: None, mark: None };
    let dns = Open { service: "dns", session: Some(70_000), ..api };
    let guests = Open { publisher: Some(run(0)), ..api };
    let marked = Open { mark: Some(run(0)), ..api };
    for (name, expected) in [
        ("open", api),
        ("open of datagrams", dns),
        ("open for a guest", guests),
        ("open of a marked client", marked),
    ] {
        let golden = vector(name);
        assert_eq!(Open::decode(&golden), Ok(expected), "{name}");
        assert_eq!(Asked::decode(&golden), Ok(Asked::Open(expected)), "{name}");
        assert_eq!(encoded(|out| expected.encode(out)), golden, "{name}");
    }
    assert_eq!(Open::decode(&vector("open of a later version")), Ok(api));
    let refused = Opened { slug: "denied", reason: "why", remedy: "hm" };
    for (name, expected) in [("opened", Opened::default()), ("refused", refused)] {
        let golden = vector(name);
        assert_eq!(Opened::decode(&golden), Ok(expected), "{name}");
        assert_eq!(encoded(|out| expected.encode(out)), golden, "{name}");
    }
    let anywhere = Want { service: "api", node: None };
    let there = Want { service: "api", node: Some(run(0)) };
    for (name, expected) in [("want", anywhere), ("want of one node", there)] {
        let golden = vector(name);
        assert_eq!(Want::decode(&golden), Ok(expected), "{name}");
        assert_eq!(encoded(|out| expected.encode(out)), golden, "{name}");
    }
    for (name, expected, node) in [
        ("opened at a node", Opened::default(), Some(run(0))),
        ("refused by no node", refused, None),
    ] {
        let golden = vector(name);
        assert_eq!(Opened::decode_at(&golden), Ok((expected, node)), "{name}");
        assert_eq!(encoded(|out| expected.encode_at(node.as_ref(), out)), golden, "{name}");
    }
}

#[test]
fn a_request_for_content_is_told_from_a_tunnel_by_its_first_element() {
    let fetch =
        FetchRequest { seed: run(32), path: "module", content: run(0), piece: None, skip: 0 };
    assert_eq!(Asked::decode(&vector("fetch")), Ok(Asked::Fetch(fetch)));
    let mut of_later_kind = vector("open");
    of_later_kind[1] = 3;
    assert_eq!(Asked::decode(&of_later_kind), Err(WireError::Shape("kind")));
    // A session without its number, and one that no varint holds.
    let mut unnumbered = vector("open of a later version");
    unnumbered.truncate(unnumbered.len() - 7);
    unnumbered[0] = 0x93;
    unnumbered[6] = 1;
    assert_eq!(Asked::decode(&unnumbered), Err(WireError::Shape("session")));
    let huge = Open { service: "dns", session: Some(1 << 62), publisher: None, mark: None };
    let huge = encoded(|out| huge.encode(out));
    assert_eq!(Open::decode(&huge), Err(WireError::Limit("session")));
}

#[test]
fn the_close_codes_are_those_of_the_brain() {
    let held = serde_json::json!({
        "CLOSE_NOT_A_MEMBER": close::NOT_A_MEMBER,
        "CLOSE_VERSION_MISMATCH": close::VERSION_MISMATCH,
        "CLOSE_DUPLICATE_LINK": close::DUPLICATE_LINK,
        "CLOSE_DENIED": close::DENIED,
        "CLOSE_SHUTTING_DOWN": close::SHUTTING_DOWN,
        "CLOSE_PROTOCOL_ERROR": close::PROTOCOL_ERROR,
        "CLOSE_IDLE": close::IDLE,
        "CLOSE_TWIN": close::TWIN,
    });
    let text = include_str!("../../../tests/vectors/close.json");
    assert_eq!(held, serde_json::from_str::<serde_json::Value>(text).unwrap());
}
