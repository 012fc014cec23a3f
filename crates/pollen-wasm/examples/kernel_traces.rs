//! Records what Extism's real kernel answers, for `tests/vectors/kernel.json`.
//!
//! Addresses differ between kernels, so a trace names blocks by the order of their allocation: an
//! address is `[block, delta]`, and a result that is an address is recorded in the same form.
//!
//! Run: `cargo run --release -p pollen-wasm --example kernel_traces <extism-runtime.wasm> <out>`
//! with the `extism-runtime.wasm` that the Go module github.com/extism/go-sdk v1.7.1 ships.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use serde_json::{Value, json};
use wasmtime::{Engine, Instance, Module, Store, Val};

struct Real {
    store: Store<()>,
    instance: Instance,
    /// Address and size of each allocation so far.
    blocks: Vec<(u64, u64)>,
    ops: Vec<Value>,
}

impl Real {
    fn new(engine: &Engine, module: &Module) -> Self {
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, module, &[]).unwrap();
        Self { store, instance, blocks: Vec::new(), ops: Vec::new() }
    }

    fn raw(&mut self, name: &str, args: &[u64]) -> u64 {
        let func = self.instance.get_func(&mut self.store, name).expect(name);
        let ty = func.ty(&self.store);
        let args: Vec<Val> = args
            .iter()
            .zip(ty.params())
            .map(
                |(arg, ty)| if ty.is_i32() { Val::I32(*arg as i32) } else { Val::I64(*arg as i64) },
            )
            .collect();
        let mut results = vec![Val::I64(0); ty.results().len()];
        func.call(&mut self.store, &args, &mut results).unwrap();
        match results.first() {
            Some(Val::I32(value)) => u64::from(*value as u32),
            Some(Val::I64(value)) => *value as u64,
            _ => 0,
        }
    }

    /// The address as block and offset; live blocks are searched from the newest.
    fn place(&self, address: u64) -> Value {
        let found =
            self.blocks.iter().rposition(|(at, size)| *at <= address && address < at + size);
        found.map_or(json!(0), |block| json!([block, address - self.blocks[block].0]))
    }

    fn alloc(&mut self, size: u64) -> usize {
        let at = self.raw("alloc", &[size]);
        self.ops.push(json!(["alloc", size, at != 0]));
        self.blocks.push((at, size));
        self.blocks.len() - 1
    }

    /// An operation whose first argument is a place, with the other arguments as they are.
    fn at(&mut self, name: &str, block: usize, delta: u64, rest: &[u64]) -> u64 {
        let mut args = vec![self.blocks[block].0 + delta];
        args.extend(rest);
        let result = self.raw(name, &args);
        self.ops.push(json!([name, [block, delta], rest, result]));
        result
    }

    /// An operation on plain numbers.
    fn plain(&mut self, name: &str, args: &[u64]) -> u64 {
        let result = self.raw(name, args);
        self.ops.push(json!([name, args, result]));
        result
    }

    /// An operation whose result is a place.
    fn whereabouts(&mut self, name: &str) {
        let address = self.raw(name, &[]);
        let place = self.place(address);
        self.ops.push(json!([name, place]));
    }

    fn all(&mut self) {
        for name in ["input_length", "output_length"] {
            self.plain(name, &[]);
        }
        for name in ["input_offset", "output_offset", "error_get"] {
            self.whereabouts(name);
        }
    }
}

/// xorshift64*, so that a trace is the same wherever it is recorded.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

fn fixed(real: &mut Real) {
    real.all();
    for size in [0, 1 << 40] {
        real.alloc(size);
    }
    for offset in [0, 1 << 40, u64::MAX - 3] {
        for name in ["length", "load_u8", "load_u64", "input_load_u8", "input_load_u64"] {
            real.plain(name, &[offset]);
        }
        real.plain("free", &[offset]);
        real.plain("store_u8", &[offset, 1]);
        real.plain("store_u64", &[offset, 1]);
    }
    let input = real.alloc(20);
    for i in 0..20 {
        real.at("store_u8", input, i, &[i + 1]);
    }
    real.at("input_set", input, 0, &[20]);
    for i in [0, 11, 12, 13, 19, 20, 1 << 30] {
        real.plain("input_load_u8", &[i]);
        real.plain("input_load_u64", &[i]);
    }
    real.all();
    let other = real.alloc(8);
    real.at("store_u64", other, 0, &[0x0807_0605_0403_0201]);
    real.at("load_u8", other, 7, &[]);
    real.at("load_u64", other, 0, &[]);
    real.at("length", other, 1, &[]);
    real.at("output_set", other, 2, &[3]);
    real.plain("output_set", &[1 << 40, 8]);
    real.at("error_set", other, 0, &[]);
    real.all();
    real.at("free", input, 0, &[]);
    real.at("length", input, 0, &[]);
    real.plain("input_load_u8", &[0]);
    real.plain("input_length", &[]);
    real.plain("error_set", &[0]);
    real.at("free", other, 1, &[]);
    real.at("length", other, 0, &[]);
    real.plain("reset", &[]);
    real.at("length", other, 0, &[]);
    real.all();
}

fn random(real: &mut Real, random: &mut Random) {
    // Block and how many of its first bytes were written.
    let mut live: Vec<(usize, u64)> = Vec::new();
    for _ in 0..80 {
        let pick = if live.is_empty() { 0 } else { random.below(live.len() as u64) as usize };
        match random.below(10) {
            0..3 => {
                let size =
                    1 + if random.below(4) == 0 { random.below(70_000) } else { random.below(200) };
                let block = real.alloc(size);
                real.at("length", block, 0, &[]);
                live.push((block, 0));
            }
            _ if live.is_empty() => {}
            3 => {
                let (block, _) = live.swap_remove(pick);
                real.at("free", block, 0, &[]);
                real.at("length", block, 0, &[]);
                real.blocks[block].1 = 0;
            }
            4 | 5 => {
                let (block, written) = live[pick];
                let (_, size) = real.blocks[block];
                if written + 8 <= size {
                    real.at("store_u64", block, written, &[random.below(u64::MAX)]);
                    live[pick].1 += 8;
                } else if written < size {
                    real.at("store_u8", block, written, &[random.below(256)]);
                    live[pick].1 += 1;
                }
            }
            6 => {
                let (block, written) = live[pick];
                if written > 0 {
                    real.at("load_u8", block, random.below(written), &[]);
                }
                if written >= 8 {
                    real.at("load_u64", block, random.below(written - 7), &[]);
                }
            }
            7 => {
                let (block, _) = live[pick];
                let size = real.blocks[block].1;
                real.at("output_set", block, 0, &[1 + random.below(size)]);
                real.whereabouts("output_offset");
            }
            8 => {
                let (block, _) = live[pick];
                real.at("error_set", block, 0, &[]);
                real.whereabouts("error_get");
            }
            _ => {
                for (block, _) in live.clone() {
                    real.at("length", block, 0, &[]);
                }
            }
        }
    }
}

/// The kernel declares one global of type externref that none of its functions uses; wasmtime would
/// need its gc feature for it. The type becomes funcref, nothing else changes.
fn without_externref(bytes: &[u8]) -> Vec<u8> {
    let global = [0x6f, 0x01, 0xd0, 0x6f, 0x0b];
    let at = bytes.windows(5).position(|window| window == global).expect("the global");
    let mut patched = bytes.to_vec();
    patched[at] = 0x70;
    patched[at + 3] = 0x70;
    patched
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (path, out) =
        (args.next().expect("the kernel's path"), args.next().expect("a path to write"));
    let bytes = std::fs::read(path).unwrap();
    let engine = Engine::default();
    let module = Module::new(&engine, without_externref(&bytes)).unwrap();
    let mut traces = Vec::new();
    let mut real = Real::new(&engine, &module);
    fixed(&mut real);
    traces.push(json!({"name": "fixed", "ops": real.ops}));
    for seed in 1..=40_u64 {
        let mut real = Real::new(&engine, &module);
        random(&mut real, &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        traces.push(json!({"name": format!("random {seed}"), "ops": real.ops}));
    }
    let vectors = json!({
        "provenance": "recorded by crates/pollen-wasm/examples/kernel_traces.rs from extism-runtime.wasm of github.com/extism/go-sdk v1.7.1",
        "kernel_blake3": blake3::hash(&bytes).to_hex().to_string(),
        "form": "[op, [block, delta], rest, result] | [op, args, result] | [alloc, size, succeeded] | [op, place]",
        "traces": traces,
    });
    std::fs::write(out, serde_json::to_string(&vectors).unwrap() + "\n").unwrap();
}
