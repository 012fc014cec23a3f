//! A module as an ABI reads it: what it imports and which functions it exports.
//!
//! Decides: which exports a call may name, whatever the ABI. Does not know: how a call begins.
//! Made from the bytes at seed time and from compiled code at load time; both give the same shape.

use wasmtime::{ExternType, Module, ValType};

use crate::abi::world::World;
use crate::engine::code::Code;
use crate::error::SandboxError;

/// Parameters and results, one letter a value: `i` is i32, `I` is i64.
pub(crate) type Signature = (&'static str, &'static str);

/// A module of imports: its name, and its functions with their types.
pub(crate) type Group = (&'static str, &'static [(&'static str, Signature)]);

/// What an ABI is known by.
pub(crate) struct Shape {
    /// The module of each import; of a component, the name of each.
    pub(crate) imports: Vec<String>,
    /// Exported functions with their types as text, in the module's order. None of a component.
    pub(crate) functions: Vec<(String, String)>,
    /// Of a component: what it exports.
    pub(crate) world: Option<World>,
}

/// The exported functions of a module, sorted by whether a call may name them.
#[derive(Default)]
pub(crate) struct Exports {
    /// Names, and whether the function returns an i32; in the module's order.
    pub(crate) callable: Vec<(String, bool)>,
    /// Names with the reason why not.
    pub(crate) others: Vec<(String, String)>,
}

impl Shape {
    /// The shape of compiled code.
    pub(crate) fn of(code: &Code) -> Self {
        match code {
            Code::Core(module) => Self::of_module(module),
            Code::Component(component) => Self::of_world(World::of(component)),
        }
    }

    fn of_module(module: &Module) -> Self {
        let functions = module.exports().filter_map(|export| match export.ty() {
            ExternType::Func(ty) => {
                Some((export.name().to_owned(), type_text(ty.params(), ty.results())))
            }
            _ => None,
        });
        let imports = module.imports().map(|import| import.module().to_owned()).collect();
        Self { imports, functions: functions.collect(), world: None }
    }

    /// The shape of a component.
    pub(crate) fn of_world(world: World) -> Self {
        Self { imports: world.imports.clone(), functions: Vec::new(), world: Some(world) }
    }

    /// The exports of a component, for an ABI that is for components alone.
    pub(crate) fn world(&self) -> Result<&World, SandboxError> {
        let lost = || SandboxError::internal("a core module was taken for a component", false);
        self.world.as_ref().ok_or_else(lost)
    }

    /// Whether it exports a function of this name.
    pub(crate) fn exports(&self, name: &str) -> bool {
        self.functions.iter().any(|(found, _)| found == name)
    }

    /// Callable are `() -> ()` and `() -> i32`, but for what toolchains export for themselves.
    pub(crate) fn sorted(&self) -> Exports {
        let mut exports = Exports::default();
        for (name, ty) in &self.functions {
            let returns = *ty == signature_text(("", "i"));
            let reason = if is_entry(name) {
                "runs once at initialisation".to_owned()
            } else if is_helper(name) {
                "is a helper of the toolchain".to_owned()
            } else if returns || *ty == signature_text(("", "")) {
                exports.callable.push((name.clone(), returns));
                continue;
            } else {
                format!("its type is {ty}; callable are () -> () and () -> i32")
            };
            exports.others.push((name.clone(), reason));
        }
        exports
    }
}

fn type_text(
    params: impl Iterator<Item = ValType>,
    results: impl Iterator<Item = ValType>,
) -> String {
    let list = |types: Vec<String>| types.join(", ");
    let params = params.map(|ty| ty.to_string()).collect();
    let results = results.map(|ty| ty.to_string()).collect();
    format!("({}) -> ({})", list(params), list(results))
}

/// A type as text.
pub(crate) fn signature_text((params, results): Signature) -> String {
    let list = |letters: &str| {
        letters.chars().map(|c| if c == 'i' { "i32" } else { "i64" }).collect::<Vec<_>>().join(", ")
    };
    format!("({}) -> ({})", list(params), list(results))
}

/// Exports that the entry protocol runs; they cannot be called.
fn is_entry(name: &str) -> bool {
    matches!(name, "_initialize" | "__wasm_call_ctors" | "hs_init" | "wizer.initialize")
}

/// Helpers that toolchains export beside a module's own functions; nobody means them by a call.
///
/// The names are those of binaryen's asyncify, emscripten's runtime, wasm-ld and wasi-libc.
fn is_helper(name: &str) -> bool {
    const PREFIXES: [&str; 6] = [
        "asyncify_",
        "emscripten_stack_",
        "_emscripten_stack_",
        "__emscripten_",
        "__wasm_",
        "__indirect_function_table",
    ];
    const NAMES: [&str; 9] = [
        "stackSave",
        "stackRestore",
        "stackAlloc",
        "__errno_location",
        "__get_temp_ret",
        "getTempRet0",
        "setTempRet0",
        "__cxa_get_exception_ptr",
        "fflush",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
