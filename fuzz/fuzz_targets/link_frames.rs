//! Frames of a link: what decodes must encode to something that decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pollen_wire::{
    call::{Answered, CallHeader, ReplyHeader, encode_chunk_head},
    control::Control,
    fetch::FetchRequest,
    frame,
    open::{Asked, Open, Opened},
    packet::{Half, Header},
    probe::Probe,
};

fn again(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

fuzz_target!(|data: &[u8]| {
    if let Some(probe) = Probe::decode(data) {
        assert_eq!(Probe::decode(&probe.encode()), Some(probe));
    }
    if let Some((header, body)) = Header::decode(data) {
        assert_eq!(&header.encode()[..], &data[..data.len() - body.len()]);
        assert!(header.passed_on().is_none_or(|passed| passed.ttl() + 1 == header.ttl()));
        if let Some((half, part)) = Half::decode(body) {
            assert_eq!([&half.encode()[..], part].concat(), body);
        }
    }
    let Ok(Some((body, used))) = frame::split(data, frame::MAX_CONTROL) else { return };
    assert!(used <= data.len());
    if let Ok(control) = Control::decode(body) {
        let bytes = again(|out| control.encode(out));
        assert_eq!(Control::decode(&bytes), Ok(control));
    }
    if let Ok(header) = CallHeader::decode(body) {
        let bytes = again(|out| header.encode(out));
        assert_eq!(CallHeader::decode(&bytes), Ok(header));
    }
    if let Ok(header) = ReplyHeader::decode(body) {
        let bytes = again(|out| header.encode(out));
        assert_eq!(ReplyHeader::decode(&bytes), Ok(header));
    }
    if let Ok(Answered::Chunk(chunk)) = Answered::decode(body) {
        let length = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        let mut bytes = again(|out| encode_chunk_head(length, out));
        bytes.extend_from_slice(chunk);
        assert_eq!(Answered::decode(&bytes), Ok(Answered::Chunk(chunk)));
    }
    if let Ok(request) = FetchRequest::decode(body) {
        let bytes = again(|out| request.encode(out));
        assert_eq!(FetchRequest::decode(&bytes), Ok(request));
        assert_eq!(Asked::decode(body), Ok(Asked::Fetch(request)));
    }
    if let Ok(open) = Open::decode(body) {
        let bytes = again(|out| open.encode(out));
        assert_eq!(Open::decode(&bytes), Ok(open));
        assert_eq!(Asked::decode(body), Ok(Asked::Open(open)));
    }
    if let Ok(opened) = Opened::decode(body) {
        let bytes = again(|out| opened.encode(out));
        assert_eq!(Opened::decode(&bytes), Ok(opened));
    }
});
