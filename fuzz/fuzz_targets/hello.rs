//! The Hello envelope; the chain in it stays opaque bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pollen_wire::hello::{Hello, MAX_CHAIN};

fuzz_target!(|data: &[u8]| {
    let Ok(hello) = Hello::decode(data) else { return };
    assert!(hello.chain.len() <= MAX_CHAIN);
    let mut out = Vec::new();
    hello.encode(&mut out);
    assert_eq!(Hello::decode(&out), Ok(hello));
});
