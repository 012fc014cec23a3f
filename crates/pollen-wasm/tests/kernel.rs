//! The native kernel against the real one's recorded answers, and against a model.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::HashMap;

use pollen_wasm::{Kernel, Quota, Unlimited};
use serde_json::Value;

/// Plays one recorded operation; the answer in the form of the recording.
fn play(kernel: &mut Kernel, name: &str, args: &[u64]) -> u64 {
    let arg = |at: usize| args.get(at).copied().unwrap_or(0);
    match name {
        "free" => kernel.free(arg(0)),
        "store_u8" => kernel.store_u8(arg(0), arg(1) as u8),
        "store_u64" => kernel.store_u64(arg(0), arg(1)),
        "input_set" => kernel.input_set(arg(0), arg(1)),
        "output_set" => drop(kernel.output_set(arg(0), arg(1))),
        "error_set" => kernel.error_set(arg(0)),
        "reset" => kernel.reset(),
        "length" => return kernel.length(arg(0)),
        "load_u8" => return u64::from(kernel.load_u8(arg(0))),
        "load_u64" => return kernel.load_u64(arg(0)),
        "input_load_u8" => return u64::from(kernel.input_load_u8(arg(0))),
        "input_load_u64" => return kernel.input_load_u64(arg(0)),
        "input_length" => return kernel.input_length(),
        "output_length" => return kernel.output_length(),
        "input_offset" => return kernel.input_offset(),
        "output_offset" => return kernel.output_offset(),
        "error_get" => return kernel.error_get(),
        other => panic!("unknown operation {other}"),
    }
    0
}

#[test]
fn the_kernel_answers_like_extisms() {
    let path = common::checkout().join("tests/vectors/kernel.json");
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut count = 0;
    for trace in vectors["traces"].as_array().unwrap() {
        let mut kernel = Kernel::new();
        let mut blocks: Vec<u64> = Vec::new();
        for (step, op) in trace["ops"].as_array().unwrap().iter().enumerate() {
            let name = op[0].as_str().unwrap();
            let what = format!("{} step {step}: {op}", trace["name"]);
            let number = |value: &Value| value.as_u64().unwrap();
            let place = |value: &Value, blocks: &[u64]| {
                value.as_array().map_or(0, |p| blocks[number(&p[0]) as usize] + number(&p[1]))
            };
            count += 1;
            match (name, op.as_array().unwrap().len()) {
                ("alloc", _) => {
                    let at = kernel.alloc(number(&op[1]), &mut Unlimited);
                    assert_eq!(op[2].as_bool().unwrap(), at != 0, "{what}");
                    blocks.push(at);
                }
                (_, 4) => {
                    let mut args = vec![place(&op[1], &blocks)];
                    args.extend(op[2].as_array().unwrap().iter().map(number));
                    assert_eq!(number(&op[3]), play(&mut kernel, name, &args), "{what}");
                }
                (_, 3) => {
                    let args: Vec<u64> = op[1].as_array().unwrap().iter().map(number).collect();
                    assert_eq!(number(&op[2]), play(&mut kernel, name, &args), "{what}");
                }
                _ => assert_eq!(place(&op[1], &blocks), play(&mut kernel, name, &[]), "{what}"),
            }
        }
    }
    assert!(count > 2000, "only {count} operations were recorded");
}

/// A deterministic generator, so that a failure is reproduced by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// An offset that somebody could try: near blocks, near the ends, or anywhere.
    fn offset(&mut self, blocks: &HashMap<u64, Vec<u8>>) -> u64 {
        match self.below(5) {
            0 => self.below(300),
            1 => u64::MAX - self.below(20),
            2 => self.next(),
            _ => {
                let near = blocks.keys().copied().min().unwrap_or(64) + self.below(4096);
                near.wrapping_add(self.below(16)).wrapping_sub(8)
            }
        }
    }
}

#[test]
fn live_blocks_never_overlap_and_keep_their_bytes() {
    for seed in 1..=200 {
        let mut random = Random(seed * 0x9e37_79b9);
        let mut kernel = Kernel::new();
        let mut model: HashMap<u64, Vec<u8>> = HashMap::new();
        for step in 0..300 {
            let pick = model.keys().copied().min_by_key(|at| at ^ random.0).unwrap_or(0);
            match random.below(4) {
                0 | 1 => {
                    let size = 1 + if random.below(8) == 0 {
                        random.below(100_000)
                    } else {
                        random.below(64)
                    };
                    let at = kernel.alloc(size, &mut Unlimited);
                    assert!(at != 0 && !model.contains_key(&at), "seed {seed} step {step}");
                    let bytes: Vec<u8> = (0..size).map(|_| random.below(256) as u8).collect();
                    for (i, byte) in bytes.iter().enumerate() {
                        kernel.store_u8(at + i as u64, *byte);
                    }
                    model.insert(at, bytes);
                }
                2 if pick != 0 => {
                    kernel.free(pick);
                    assert_eq!(0, kernel.length(pick), "seed {seed} step {step}");
                    model.remove(&pick);
                }
                _ if step % 10 == 0 => {
                    for (at, bytes) in &model {
                        assert_eq!(bytes.as_slice(), kernel.block(*at), "seed {seed} step {step}");
                    }
                }
                _ => {}
            }
        }
    }
}

#[test]
fn nothing_that_a_guest_passes_makes_the_kernel_panic_or_lose_count() {
    struct Count(u64);
    impl Quota for Count {
        fn charge(&mut self, bytes: u64) -> bool {
            let fits = self.0 + bytes <= 1 << 20;
            self.0 += if fits { bytes } else { 0 };
            fits
        }
        fn release(&mut self, bytes: u64) {
            self.0 = self.0.checked_sub(bytes).expect("never more than was charged");
        }
    }
    const OPS: [&str; 14] = [
        "free",
        "store_u8",
        "store_u64",
        "input_set",
        "output_set",
        "error_set",
        "length",
        "load_u8",
        "load_u64",
        "input_load_u8",
        "input_load_u64",
        "input_length",
        "output_length",
        "error_get",
    ];
    for seed in 1..=200 {
        let mut random = Random(seed * 0x2545_f491);
        let (mut kernel, mut quota) = (Kernel::new(), Count(0));
        let mut blocks = HashMap::new();
        for _ in 0..1000 {
            if random.below(3) == 0 {
                let size = if random.below(10) == 0 { random.next() } else { random.below(5000) };
                blocks.insert(kernel.alloc(size, &mut quota), Vec::new());
            }
            let op = OPS[random.below(OPS.len() as u64) as usize];
            let args = [random.offset(&blocks), random.offset(&blocks)];
            play(&mut kernel, op, &args);
            let _ = (kernel.output(), kernel.error());
            assert!(kernel.memory_bytes() <= quota.0);
        }
        kernel.recycle(&mut quota);
        assert!(quota.0 <= 512 << 10, "{}", quota.0);
    }
}

#[test]
fn freed_blocks_are_reused_so_that_a_loop_does_not_grow_the_heap() {
    let mut kernel = Kernel::new();
    let mut sizes = Vec::new();
    for round in 0..1000 {
        let at = kernel.alloc(1000, &mut Unlimited);
        kernel.output_set(at, 1000);
        kernel.error_set(at);
        kernel.free(at);
        if round % 100 == 99 {
            sizes.push(kernel.memory_bytes());
        }
    }
    assert_eq!(sizes.first(), sizes.last());
}

#[test]
fn a_freed_output_and_error_are_not_overwritten() {
    let mut kernel = Kernel::new();
    let output = kernel.put(b"the output", &mut Unlimited);
    let error = kernel.put(b"the error", &mut Unlimited);
    kernel.output_set(output, 10);
    kernel.error_set(error);
    kernel.free(output);
    kernel.free(error);
    for _ in 0..4 {
        kernel.put(b"something else", &mut Unlimited);
    }
    assert_eq!(b"the output", kernel.output());
    assert_eq!(Some(&b"the error"[..]), kernel.error());
}

#[test]
fn a_reset_leaves_nothing_of_the_call_before() {
    let mut kernel = Kernel::new();
    let at = kernel.put(b"secret", &mut Unlimited);
    kernel.output_set(at, 6);
    kernel.recycle(&mut Unlimited);
    assert_eq!((0, b"".as_slice()), (kernel.length(at), kernel.output()));
    assert_eq!(at, kernel.alloc(6, &mut Unlimited));
    assert_eq!(&[0; 6], kernel.block(at));
}

#[test]
fn an_empty_block_is_live_and_has_no_length() {
    let mut kernel = Kernel::new();
    let at = kernel.alloc_empty(&mut Unlimited);
    assert!(at != 0);
    assert_eq!(0, kernel.length(at));
}
