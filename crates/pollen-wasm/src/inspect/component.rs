//! The seed-time checks of components, without an engine.
//!
//! Decides: which components are refused, and what is said of them. Imports are judged by interface and
//! version; that each function of an interface has the host's type is found when the seed is linked.
//! Does not know: how values pass (`abi`).

use wasmparser::component_types::{
    ComponentDefinedType, ComponentEntityType, ComponentFuncType, ComponentValType,
};
use wasmparser::types::Types;
use wasmparser::{BinaryReaderError, Parser, Payload, Validator};

use super::described;
use super::words::{PAGE, broken, nearest_of};
use crate::abi::Abi;
use crate::abi::shape::Shape;
use crate::abi::world::{ASYNCHRONOUS, Exposed, HANDLES, World, unversioned};
use crate::engine::code::Form;
use crate::engine::pool;
use crate::envelope::ModuleInfo;
use crate::error::SandboxError;

/// Checks a component.
pub(super) fn inspect(wasm: &[u8]) -> Result<ModuleInfo, SandboxError> {
    let cut = |error: BinaryReaderError| broken(&error, wasm.len());
    let parts = Parts::read(wasm).map_err(cut)?;
    if parts.names().any(is_of_p3) {
        return Err(asynchronous());
    }
    let features = pool::features(Form::Component);
    let types = Validator::new_with_features(features).validate_all(wasm).map_err(|error| {
        if error.message().contains("async") { asynchronous() } else { cut(error) }
    })?;
    let shape = Shape::of_world(parts.world(&types));
    let abi = Abi::of(&shape);
    parts.check_imports(&types, &abi.interfaces())?;
    abi.check(&shape)?;
    let exports = abi.exports(&shape);
    let called = |name: &String| exports.callable.iter().any(|(callable, _)| callable == name);
    let named = shape.world.iter().flat_map(World::named).filter(|(name, _)| called(name));
    let typed = named.filter_map(|(name, exposed)| Some((name, type_of(&types, exposed)?)));
    let typed: Vec<_> = typed.collect();
    let description =
        if typed.is_empty() { String::new() } else { described::describe(&types, &typed) };
    Ok(ModuleInfo {
        description,
        may_be_program: Abi::may_be_program(&shape),
        functions: exports.callable.into_iter().map(|(name, _)| name).collect(),
        not_callable: exports.others,
        minimum_memory_bytes: parts.memory.saturating_mul(PAGE),
        takes_bundle: abi.takes_bundle(),
    })
}

fn asynchronous() -> SandboxError {
    SandboxError::invalid(
        "the component is built for WASI 0.3, whose functions are asynchronous; here is WASI 0.2",
        "build it for WASI 0.2 (componentize-qjs --sync; spin-sdk 3; a WIT world of wasi 0.2)",
    )
}

/// `wasi:http/handler@0.3.0-rc-2025` and the like.
fn is_of_p3(name: &str) -> bool {
    name.starts_with("wasi:") && name.split_once('@').is_some_and(|(_, v)| v.starts_with("0.3"))
}

/// What the component itself says, without the modules within it.
#[derive(Default)]
struct Parts<'a> {
    imports: Vec<&'a str>,
    exports: Vec<&'a str>,
    /// Pages of the largest memory that a module within it begins with.
    memory: u64,
}

impl<'a> Parts<'a> {
    fn read(wasm: &'a [u8]) -> Result<Self, BinaryReaderError> {
        let mut parts = Self::default();
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(imports) if depth == 1 => {
                    for import in imports {
                        parts.imports.push(import?.name.name);
                    }
                }
                Payload::ComponentExportSection(exports) if depth == 1 => {
                    for export in exports {
                        parts.exports.push(export?.name.name);
                    }
                }
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        parts.memory = parts.memory.max(memory?.initial);
                    }
                }
                _ => {}
            }
        }
        Ok(parts)
    }

    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.imports.iter().chain(&self.exports).copied()
    }

    fn world(&self, types: &Types) -> World {
        let mut functions = Vec::new();
        for name in &self.exports {
            let item = types.as_ref().component_item_for_export(name);
            match item.map(|item| &item.ty) {
                Some(ComponentEntityType::Func(id)) => {
                    functions.push(exposed(types, None, name, &types[*id]));
                }
                Some(ComponentEntityType::Instance(id)) => {
                    for (function, item) in &types[*id].exports {
                        if let ComponentEntityType::Func(id) = item.ty {
                            functions.push(exposed(types, Some(name), function, &types[id]));
                        }
                    }
                }
                _ => {}
            }
        }
        World { imports: self.imports.iter().map(|name| (*name).to_owned()).collect(), functions }
    }

    /// All imports that the host does not have, at once.
    fn check_imports(&self, types: &Types, known: &[&str]) -> Result<(), SandboxError> {
        let mut problems = Vec::new();
        let mut remedies: Vec<String> = Vec::new();
        for name in &self.imports {
            let item = types.as_ref().component_item_for_import(name);
            let Some(problem) = import_problem(name, item.map(|item| &item.ty), known) else {
                continue;
            };
            problems.push(problem);
            let remedy = remedy_for(name);
            if !remedies.contains(&remedy) {
                remedies.push(remedy);
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(SandboxError::refused("import-unknown", problems.join("; "), remedies.join("; ")))
    }
}

fn import_problem(name: &str, ty: Option<&ComponentEntityType>, known: &[&str]) -> Option<String> {
    match ty {
        // A type alone asks nothing of the host.
        Some(ComponentEntityType::Type { .. }) => None,
        Some(ComponentEntityType::Instance(_)) => {
            let (base, version) = name.split_once('@').unwrap_or((name, ""));
            if !known.contains(&base) {
                let near = nearest_of(known.iter().copied(), base);
                let near = near.map_or(String::new(), |near| format!(" (nearest: {near})"));
                return Some(format!("the interface {name} does not exist here{near}"));
            }
            let served = if base.starts_with("wasi:") { "0.2" } else { "0.1" };
            let is_served = version == served || version.starts_with(&format!("{served}."));
            (!is_served).then(|| format!("the interface {name} is served as version {served}"))
        }
        Some(ComponentEntityType::Func(_)) => {
            Some(format!("the import {name} is a function of no interface"))
        }
        _ => Some(format!("the import {name} is a module, a component or a value")),
    }
}

/// What to do about an import that is not there.
fn remedy_for(name: &str) -> String {
    match unversioned(name).split_once('/').map_or(name, |(package, _)| package) {
        "wasi:http" => {
            "export wasi:http/incoming-handler: only who answers HTTP may ask by it".into()
        }
        package if package.starts_with("fermyon:") => {
            "the interface is of Spin's own host: build without Spin's SDK".into()
        }
        package if package.starts_with("wasmcloud:") => {
            "the interface is of wasmCloud's own host: build without it".into()
        }
        package if package.starts_with("wasi:") => {
            "of WASI here are cli, clocks, filesystem (empty), io, random and sockets (refused), \
             version 0.2"
                .into()
        }
        package if package.starts_with("pollen:") => "build it for this version of Pollen".into(),
        _ => "join the component that exports it into this one: wac plug".into(),
    }
}

/// The type of a function that it exports.
fn type_of<'t>(types: &'t Types, exposed: &Exposed) -> Option<&'t ComponentFuncType> {
    let outer = exposed.interface.as_deref().unwrap_or(&exposed.function);
    let item = types.as_ref().component_item_for_export(outer)?.ty;
    let id = match (item, &exposed.interface) {
        (ComponentEntityType::Func(id), None) => id,
        (ComponentEntityType::Instance(id), Some(_)) => {
            match types[id].exports.get(exposed.function.as_str())?.ty {
                ComponentEntityType::Func(id) => id,
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(&types[id])
}

fn exposed(types: &Types, interface: Option<&str>, name: &str, ty: &ComponentFuncType) -> Exposed {
    let mut values = ty.params.iter().map(|(_, ty)| ty).chain(&ty.result);
    let problem = match (ty.async_, values.all(|ty| is_value(types, ty))) {
        (true, _) => Some(ASYNCHRONOUS),
        (false, false) => Some(HANDLES),
        (false, true) => None,
    };
    Exposed { interface: interface.map(str::to_owned), function: name.to_owned(), problem }
}

/// Whether all of a type can be written as JSON.
fn is_value(types: &Types, ty: &ComponentValType) -> bool {
    let ComponentValType::Type(id) = ty else { return true };
    let all = |ty: &ComponentValType| is_value(types, ty);
    match &types[*id] {
        ComponentDefinedType::Primitive(_)
        | ComponentDefinedType::Flags(_)
        | ComponentDefinedType::Enum(_) => true,
        ComponentDefinedType::Record(record) => record.fields.values().all(all),
        ComponentDefinedType::Variant(variant) => {
            variant.cases.values().all(|case| case.ty.as_ref().is_none_or(all))
        }
        ComponentDefinedType::List { element, .. }
        | ComponentDefinedType::FixedLengthList { element, .. } => all(element),
        ComponentDefinedType::Map { key, value, .. } => all(key) && all(value),
        ComponentDefinedType::Tuple(tuple) => tuple.types.iter().all(all),
        ComponentDefinedType::Option { ty, .. } => all(ty),
        ComponentDefinedType::Result { ok, err, .. } => {
            ok.as_ref().is_none_or(all) && err.as_ref().is_none_or(all)
        }
        ComponentDefinedType::Own(_)
        | ComponentDefinedType::Borrow(_)
        | ComponentDefinedType::Future { .. }
        | ComponentDefinedType::Stream { .. } => false,
    }
}
