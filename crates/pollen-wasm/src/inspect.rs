//! Seed-time checks: everything that can be wrong with a module, found without an engine and said
//! at once, with a remedy.
//!
//! Decides: what is a callable export. Does not know: which imports there are (each folder of `abi`
//! lists its own). Components have checks of their own (`inspect/component.rs`). Invariant: what passes here links; what links here has imports of exactly the
//! host's types.

mod component;
mod described;
mod words;

use pollen_wire::fetch::MAX_MODULE;
use wasmparser::{
    Encoding, ExternalKind, FuncType, Import, Parser, Payload, TableType, TypeRef, ValType,
    Validator,
};

use crate::abi::Abi;
use crate::abi::shape::{Group, Shape, Signature, signature_text};
use crate::engine::code::Form;
use crate::engine::pool::{self, MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES};
use crate::envelope::ModuleInfo;
use crate::error::SandboxError;
use words::{PAGE, broken, distance};

/// Compiles the text format to a module.
///
/// # Errors
/// `module-invalid` with the place of the first error.
pub fn wat_to_wasm(text: &str) -> Result<Vec<u8>, SandboxError> {
    wat::parse_str(text).map_err(|error| SandboxError::invalid(error.to_string(), ""))
}

/// The checks behind [`Sandbox::inspect`](crate::Sandbox::inspect).
pub(crate) fn inspect(wasm: &[u8]) -> Result<ModuleInfo, SandboxError> {
    check_format(wasm)?;
    if Form::of(wasm) == Form::Component {
        return component::inspect(wasm);
    }
    Validator::new_with_features(pool::features(Form::Core))
        .validate_all(wasm)
        .map_err(|error| broken(&error, wasm.len()))?;
    let parts = Parts::read(wasm).map_err(|error| broken(&error, wasm.len()))?;
    let shape = parts.shape();
    let abi = Abi::of(&shape);
    parts.check_imports(abi.imports())?;
    parts.check_limits()?;
    abi.check(&shape)?;
    let exports = abi.exports(&shape);
    Ok(ModuleInfo {
        description: String::new(),
        may_be_program: Abi::may_be_program(&shape),
        functions: exports.callable.into_iter().map(|(name, _)| name).collect(),
        not_callable: exports.others,
        minimum_memory_bytes: parts.memories.iter().sum::<u64>().saturating_mul(PAGE),
        takes_bundle: false,
    })
}

fn check_format(wasm: &[u8]) -> Result<(), SandboxError> {
    let invalid = |reason: &str, remedy: &'static str| Err(SandboxError::invalid(reason, remedy));
    if wasm.len() as u64 > MAX_MODULE {
        return Err(SandboxError::invalid(
            format!("the module has {} bytes; the limit is {} MiB", wasm.len(), MAX_MODULE >> 20),
            "strip it (wasm-opt -Oz --strip-debug) or split it",
        ));
    }
    if wasm.is_empty() {
        return invalid("the file is empty", "");
    }
    let Some(rest) = wasm.strip_prefix(b"\0asm") else { return Err(foreign(wasm)) };
    match rest.first_chunk::<4>() {
        Some([1, 0, 0, 0] | [0x0d, 0, 1, 0]) => Ok(()),
        Some([_, _, 1, 0]) => invalid(
            "the file is a component in a format older than that of the standard",
            "build it with a current toolchain (wasm-tools component new)",
        ),
        Some(version) => invalid(&format!("unknown version {version:?} of the format"), ""),
        None => invalid("the file ends within its header", "copy or build it again"),
    }
}

/// What a file is that is no WebAssembly.
fn foreign(bytes: &[u8]) -> SandboxError {
    let head = bytes.get(..bytes.len().min(512)).unwrap_or(bytes).trim_ascii_start();
    if head.starts_with(b"(module") || head.starts_with(b"(component") || head.starts_with(b";;") {
        return SandboxError::invalid(
            "the file is WebAssembly text, not a module",
            "convert it: wat2wasm file.wat",
        );
    }
    if b"\0asm".starts_with(bytes) {
        return SandboxError::invalid("the file ends within its header", "copy or build it again");
    }
    if std::str::from_utf8(bytes.get(..bytes.len().min(64)).unwrap_or(bytes)).is_ok() {
        return SandboxError::invalid(
            "the file is text, not a WebAssembly module",
            "seed the .wasm file that your compiler wrote",
        );
    }
    SandboxError::invalid(
        "the file is not a WebAssembly module",
        "seed the .wasm file that your compiler wrote",
    )
}

/// The sections that are looked at.
#[derive(Default)]
struct Parts<'a> {
    types: Vec<FuncType>,
    imports: Vec<Import<'a>>,
    /// Type index of each function, imported ones first.
    functions: Vec<u32>,
    exports: Vec<(&'a str, ExternalKind, u32)>,
    tables: Vec<TableType>,
    memories: Vec<u64>,
}

impl<'a> Parts<'a> {
    fn read(wasm: &'a [u8]) -> Result<Self, wasmparser::BinaryReaderError> {
        let mut parts = Self::default();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::Version { encoding: Encoding::Component, .. } => break,
                Payload::TypeSection(types) => {
                    parts.types = types.into_iter_err_on_gc_types().collect::<Result<_, _>>()?;
                }
                Payload::ImportSection(imports) => {
                    parts.imports = imports.into_imports().collect::<Result<_, _>>()?;
                    parts.functions.extend(parts.imports.iter().filter_map(
                        |import| match import.ty {
                            TypeRef::Func(ty) | TypeRef::FuncExact(ty) => Some(ty),
                            _ => None,
                        },
                    ));
                }
                Payload::FunctionSection(functions) => {
                    for ty in functions {
                        parts.functions.push(ty?);
                    }
                }
                Payload::TableSection(tables) => {
                    for table in tables {
                        parts.tables.push(table?.ty);
                    }
                }
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        parts.memories.push(memory?.initial);
                    }
                }
                Payload::ExportSection(exports) => {
                    for export in exports {
                        let export = export?;
                        parts.exports.push((export.name, export.kind, export.index));
                    }
                }
                _ => {}
            }
        }
        Ok(parts)
    }

    /// All imports that the host does not have, at once.
    fn check_imports(&self, known: &[Group]) -> Result<(), SandboxError> {
        let mut problems = Vec::new();
        let mut remedies: Vec<String> = Vec::new();
        for import in &self.imports {
            if let Some((problem, remedy)) = import_problem(import, known, &self.types) {
                problems.push(problem);
                if !remedy.is_empty() && !remedies.contains(&remedy) {
                    remedies.push(remedy);
                }
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(SandboxError::refused("import-unknown", problems.join("; "), remedies.join("; ")))
    }

    fn check_limits(&self) -> Result<(), SandboxError> {
        let invalid =
            |reason: String, remedy: &'static str| Err(SandboxError::invalid(reason, remedy));
        if self.memories.len() > MAX_MEMORIES as usize {
            return invalid(
                format!("the module has {} memories; the limit is 1", self.memories.len()),
                "",
            );
        }
        if self.tables.len() > MAX_TABLES as usize {
            let count = self.tables.len();
            return invalid(
                format!("the module has {count} tables; the limit is {MAX_TABLES}"),
                "",
            );
        }
        match self.tables.iter().map(|table| table.initial).max() {
            Some(elements) if elements > MAX_TABLE_ELEMENTS as u64 => invalid(
                format!("a table has {elements} elements; the limit is {MAX_TABLE_ELEMENTS}"),
                "build with fewer functions that are called indirectly",
            ),
            _ => Ok(()),
        }
    }

    fn function_type(&self, index: u32) -> Option<&FuncType> {
        let ty = *self.functions.get(index as usize)?;
        self.types.get(ty as usize)
    }

    fn shape(&self) -> Shape {
        let functions = self.exports.iter().filter(|(_, kind, _)| *kind == ExternalKind::Func);
        let typed = functions.filter_map(|(name, _, index)| {
            Some(((*name).to_owned(), self.function_type(*index).map(show)?))
        });
        let imports = self.imports.iter().map(|import| import.module.to_owned()).collect();
        Shape { imports, functions: typed.collect(), world: None }
    }
}

/// What is wrong with an import, and what to do about it.
fn import_problem(
    import: &Import<'_>,
    groups: &[Group],
    types: &[FuncType],
) -> Option<(String, String)> {
    let name = format!("{}.{}", import.module, import.name);
    let ty = match import.ty {
        TypeRef::Func(ty) | TypeRef::FuncExact(ty) => ty,
        other => {
            let problem = format!("the import {name} is a {}, not a function", kind_of(&other));
            return Some((problem, remedy_for(import.module, import.name)));
        }
    };
    let Some(known) = signature(groups, import.module, import.name) else {
        let near = nearest(groups, import.module, import.name)
            .map_or(String::new(), |near| format!(" (nearest: {near})"));
        let remedy = remedy_for(import.module, import.name);
        return Some((format!("the import {name} does not exist here{near}"), remedy));
    };
    let ty = types.get(ty as usize)?;
    (!is_type(ty, known)).then(|| {
        let (wanted, found) = (signature_text(known), show(ty));
        let problem = format!("the import {name} has the type {found}; the host's is {wanted}");
        (problem, "rebuild with a current PDK".to_owned())
    })
}

fn is_type(ty: &FuncType, (params, results): Signature) -> bool {
    let same = |types: &[ValType], letters: &str| {
        types.len() == letters.len()
            && types.iter().zip(letters.chars()).all(|(ty, letter)| match letter {
                'i' => *ty == ValType::I32,
                _ => *ty == ValType::I64,
            })
    };
    same(ty.params(), params) && same(ty.results(), results)
}

fn show(ty: &FuncType) -> String {
    let list =
        |types: &[ValType]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!("({}) -> ({})", list(ty.params()), list(ty.results()))
}

/// The type of an import, if there is one of this name.
fn signature(groups: &[Group], module: &str, name: &str) -> Option<Signature> {
    let (_, names) = groups.iter().find(|(group, _)| *group == module)?;
    names.iter().find(|(known, _)| *known == name).map(|(_, signature)| *signature)
}

/// All imports as module, name, parameters and results (each a list of text-format types); for
/// tests and documentation.
#[must_use]
pub fn known_imports() -> Vec<(&'static str, &'static str, String, String)> {
    let text = |letters: &str| {
        letters.chars().map(|c| if c == 'i' { "i32" } else { "i64" }).collect::<Vec<_>>().join(" ")
    };
    Abi::all_imports()
        .iter()
        .flat_map(|(module, names)| {
            names.iter().map(move |(name, signature)| (*module, *name, *signature))
        })
        .map(|(module, name, (params, results))| (module, name, text(params), text(results)))
        .collect()
}

fn kind_of(ty: &TypeRef) -> &'static str {
    match ty {
        TypeRef::Table(_) => "table",
        TypeRef::Memory(_) => "memory",
        TypeRef::Global(_) => "global",
        _ => "tag",
    }
}

/// What to do about an import that is not there.
fn remedy_for(module: &str, name: &str) -> String {
    match (module, name) {
        ("env", "abort") => "AssemblyScript: compile with asc --use abort=".into(),
        ("env", "memory") => {
            "let the module define its memory: no --importMemory (asc), no --import-memory (ld)"
                .into()
        }
        ("env", name) if name.starts_with("extism_") || name.starts_with("emscripten") => {
            "rebuild with a current Extism PDK".into()
        }
        ("env", _) => "a function is declared and not defined: link the library that has it".into(),
        ("wasi_unstable", _) => "rebuild for WASI preview 1 (wasm32-wasip1)".into(),
        (module, _) if module.starts_with("wasi:") || module.starts_with("wasi_") => {
            "only WASI preview 1 is here: build for wasm32-wasip1 without extensions".into()
        }
        (module, _) if module.starts_with("__wbindgen") || module == "wbg" => {
            "this module is made for a browser: build without wasm-bindgen".into()
        }
        ("extism:host/user", _) => {
            "the function belongs to another host: ask the mesh with pollen_request instead".into()
        }
        ("gojs" | "go", _) => "build with GOOS=wasip1, not GOOS=js".into(),
        _ => String::new(),
    }
}

/// The known import whose name is closest, if any is close.
fn nearest(groups: &[Group], module: &str, name: &str) -> Option<String> {
    groups
        .iter()
        .flat_map(|(group, names)| names.iter().map(move |(known, _)| (*group, *known)))
        .map(|(group, known)| (distance(name, known) + usize::from(group != module), group, known))
        .filter(|(distance, _, known)| *distance <= known.len().max(name.len()) / 3)
        .min()
        .map(|(_, group, known)| format!("{group}.{known}"))
}
