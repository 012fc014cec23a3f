//! `pollen-call/1`: a stream of frames from a local client, and the node's answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pollen_wire::{
    door::{Answer, Ask},
    frame,
    http::{AnswerHead, RequestHead},
    open::{Opened, Want},
};

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(Some((body, used))) = frame::split(rest, frame::MAX_DOOR) {
        if let Ok(ask) = Ask::decode(body) {
            let mut out = Vec::new();
            ask.encode(&mut out);
            assert_eq!(Ask::decode(&out), Ok(ask));
        }
        if let Ok(answer) = Answer::decode(body) {
            let mut out = Vec::new();
            answer.encode(&mut out);
            assert_eq!(Answer::decode(&out), Ok(answer));
        }
        if let Ok(want) = Want::decode(body) {
            let mut out = Vec::new();
            want.encode(&mut out);
            assert_eq!(Want::decode(&out), Ok(want));
        }
        if let Ok((opened, node)) = Opened::decode_at(body) {
            let mut out = Vec::new();
            opened.encode_at(node.as_ref(), &mut out);
            assert_eq!(Opened::decode_at(&out), Ok((opened, node)));
        }
        if let Ok(head) = RequestHead::decode(body) {
            let mut out = Vec::new();
            head.encode(&mut out);
            assert_eq!(RequestHead::decode(&out), Ok(head));
        }
        if let Ok(Some((head, _))) = AnswerHead::split(body) {
            let mut out = Vec::new();
            head.encode(&mut out);
            assert_eq!(AnswerHead::split(&out), Ok(Some((head, out.len()))));
        }
        rest = rest.get(used..).unwrap_or_default();
    }
});
