//! Makes up modules and components without end, for `crates/pollen-wasm/examples/judge.rs`: writes each to
//! the standard output, its length (four bytes, little endian) before it. Ends when nobody reads.
//!
//! A crate of its own: within the workspace its features would make another cranelift of the engine's.

use std::io::Write;

use arbitrary::{Arbitrary, Unstructured};
use wasm_encoder::{
    ComponentBuilder, ComponentExportKind, ComponentValType, ExportKind, ModuleArg,
    PrimitiveValType,
};
use wasm_smith::{Component, Config, Module};
use wasmparser::{CompositeInnerType, ExternalKind, Parser, Payload, ValType};

/// A small generator (xorshift64*), so that a seed repeats a run on every machine.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = 1 + self.below(most);
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// What a made-up module may use: mostly what guests are offered.
fn config(u: &mut Unstructured<'_>, is_offered: bool) -> arbitrary::Result<Config> {
    let mut config = Config::arbitrary(u)?;
    config.max_memory32_bytes = 64 << 20;
    config.max_table_elements = 10_000;
    config.available_imports = None;
    if is_offered {
        (config.min_imports, config.max_imports) = (0, 0);
        (config.gc_enabled, config.exceptions_enabled) = (false, false);
        (config.threads_enabled, config.memory64_enabled) = (false, false);
        (config.shared_everything_threads_enabled, config.wide_arithmetic_enabled) = (false, false);
        (config.custom_page_sizes_enabled, config.custom_descriptors_enabled) = (false, false);
        config.compact_imports_enabled = false;
        config.export_everything = true;
        config.max_memories = 1;
        config.max_tables = 4;
    }
    Ok(config)
}

/// A component around a module: each function of plain numbers can be called.
fn around(module: &[u8]) -> Option<Vec<u8>> {
    let functions = plain(module)?;
    let mut made = ComponentBuilder::default();
    let inner = made.core_module_raw(None, module);
    let none: [(&str, ModuleArg); 0] = [];
    let instance = made.core_instantiate(None, inner, none);
    for (at, (export, params, result)) in functions.iter().enumerate() {
        let core = made.core_alias_export(None, instance, export, ExportKind::Func);
        let (ty, mut function) = made.type_function(None);
        let names: Vec<String> = (0..params.len()).map(|number| format!("p{number}")).collect();
        function
            .async_(false)
            .params(names.iter().map(String::as_str).zip(params.iter().copied()))
            .result(*result);
        let lifted = made.lift_func(None, core, ty, []);
        made.export(&format!("f{at}"), ComponentExportKind::Func, lifted, None);
    }
    Some(made.finish())
}

type Function = (String, Vec<ComponentValType>, Option<ComponentValType>);

/// The exported functions of numbers that a component can lift.
fn plain(module: &[u8]) -> Option<Vec<Function>> {
    let (mut types, mut functions, mut exports) = (Vec::new(), Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(module) {
        match payload.ok()? {
            Payload::TypeSection(reader) => {
                for group in reader {
                    types.extend(group.ok()?.into_types());
                }
            }
            Payload::FunctionSection(reader) => {
                functions.extend(reader.into_iter().flatten());
            }
            Payload::ExportSection(reader) => exports.extend(reader.into_iter().flatten()),
            _ => {}
        }
    }
    let number = |ty: &ValType| {
        Some(ComponentValType::Primitive(match ty {
            ValType::I32 => PrimitiveValType::S32,
            ValType::I64 => PrimitiveValType::S64,
            ValType::F32 => PrimitiveValType::F32,
            ValType::F64 => PrimitiveValType::F64,
            _ => return None,
        }))
    };
    let found = exports.iter().filter(|export| export.kind == ExternalKind::Func);
    let found = found.filter_map(|export| {
        let ty = types.get(*functions.get(export.index as usize)? as usize)?;
        let CompositeInnerType::Func(ty) = &ty.composite_type.inner else { return None };
        let params = ty.params().iter().map(number).collect::<Option<Vec<_>>>()?;
        let result = match ty.results() {
            [] => None,
            [one] => Some(number(one)?),
            _ => return None,
        };
        (params.len() <= 16).then(|| (export.name.to_owned(), params, result))
    });
    Some(found.take(8).collect())
}

/// The next file: a module, a component, a component around a module, or one of them damaged.
fn made_up(chance: &mut Chance) -> Option<Vec<u8>> {
    let raw = chance.bytes(4096);
    let mut u = Unstructured::new(&raw);
    let kind = chance.below(8);
    let config = config(&mut u, kind > 1).ok()?;
    let mut wasm = match kind {
        0 | 2 => Component::new(config, &mut u).ok()?.to_bytes(),
        1 | 3 | 4 => Module::new(config, &mut u).ok()?.to_bytes(),
        _ => around(&Module::new(config, &mut u).ok()?.to_bytes())?,
    };
    if chance.below(4) == 0 && !wasm.is_empty() {
        for _ in 0..=chance.below(4) {
            let at = chance.below(wasm.len());
            wasm[at] = chance.next() as u8;
        }
    }
    Some(wasm)
}

fn main() {
    let seed = std::env::args().nth(1).and_then(|word| word.parse::<u64>().ok());
    let seed = seed.expect("a seed, a whole number");
    let (mut chance, mut out) = (Chance(seed | 1), std::io::stdout().lock());
    loop {
        let Some(wasm) = made_up(&mut chance) else { continue };
        let length = (wasm.len() as u32).to_le_bytes();
        if out.write_all(&length).and_then(|()| out.write_all(&wasm)).is_err() {
            return;
        }
    }
}
