//! A sealed file of somebody else: its head is read, and its chunks are opened, wherever a reader begins.
//!
//! The input is a file as it is, or, when its first byte is odd, the rest of one whose head was made here, so that
//! chunks are reached.

#![no_main]

use std::{
    io::{Cursor, Read, Write},
    sync::LazyLock,
};

use libfuzzer_sys::fuzz_target;
use pollen_seal::{Opener, seal};

const SECRET: [u8; 32] = [7; 32];
/// The node of that key.
const NODE: [u8; 32] = [
    0xea, 0x4a, 0x6c, 0x63, 0xe2, 0x9c, 0x52, 0x0a, 0xbe, 0xf5, 0x50, 0x7b, 0x13, 0x2e, 0xc5, 0xf9,
    0x95, 0x47, 0x76, 0xae, 0xbe, 0xbe, 0x7b, 0x92, 0x42, 0x1e, 0xea, 0x69, 0x14, 0x46, 0xd2, 0x2c,
];
static OPENER: LazyLock<Opener> = LazyLock::new(|| Opener::of(&SECRET).expect("a key of 32 bytes"));
static SEALED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut file = Vec::new();
    let mut to = seal(&[NODE], &mut file).expect("the key of a node");
    to.write_all(&[1; 100_000]).expect("memory has room");
    to.finish().expect("memory has room");
    file
});

fuzz_target!(|data: &[u8]| {
    let Some((&first, rest)) = data.split_first() else { return };
    let file = if first % 2 == 0 {
        rest.to_vec()
    } else {
        let mut file = SEALED.clone();
        let at = usize::from(first) * 400 % file.len();
        let until = file.len().min(at + rest.len());
        file[at..until].copy_from_slice(&rest[..until - at]);
        file
    };
    let Ok(layout) = OPENER.look(&mut Cursor::new(&file), file.len() as u64) else { return };
    let from = u64::from(first) * 1_000 % (layout.plain() + 1);
    let Ok(plain) = OPENER.open(Cursor::new(&file), from) else { return };
    let _ = plain.take(1 << 20).read_to_end(&mut Vec::new());
});
