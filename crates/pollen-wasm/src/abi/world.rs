//! A component as an ABI reads it: the names that it imports and the functions that it exports.
//!
//! Decides: by which name a call means a function of a component, and which functions no call can mean.
//! Does not know: how values pass (`component`).
//! Made from the bytes at seed time (`inspect/component.rs`) and from compiled code at load time.

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::{ComponentFunc, ComponentItem, Type};

/// Why a function cannot be called.
pub(crate) const ASYNCHRONOUS: &str = "it is asynchronous (WASI 0.3)";
pub(crate) const HANDLES: &str = "its type has a resource, a stream or a future, which is no value";

/// What a component imports and exports.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct World {
    pub(crate) imports: Vec<String>,
    pub(crate) functions: Vec<Exposed>,
}

/// An exported function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exposed {
    /// The exported interface that it is in, if any, with its version.
    pub(crate) interface: Option<String>,
    pub(crate) function: String,
    /// Why no call can mean it.
    pub(crate) problem: Option<&'static str>,
}

impl Exposed {
    /// Its name with the interface, without the version: `docs:adder/add/sum`.
    fn long(&self) -> String {
        match &self.interface {
            Some(interface) => format!("{}/{}", unversioned(interface), self.function),
            None => self.function.clone(),
        }
    }
}

/// The name of an interface without its version.
pub(crate) fn unversioned(interface: &str) -> &str {
    interface.split_once('@').map_or(interface, |(name, _)| name)
}

impl World {
    /// The world of a compiled component.
    pub(crate) fn of(component: &Component) -> Self {
        let (engine, ty) = (component.engine(), component.component_type());
        let imports = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
        let mut functions = Vec::new();
        for (name, item) in ty.exports(engine) {
            match item.ty {
                ComponentItem::ComponentFunc(ty) => functions.push(exposed(None, name, &ty)),
                ComponentItem::ComponentInstance(instance) => {
                    functions.extend(within(engine, name, &instance));
                }
                _ => {}
            }
        }
        Self { imports, functions }
    }

    /// The type of one of its functions in a compiled component.
    pub(crate) fn function(component: &Component, exposed: &Exposed) -> Option<ComponentFunc> {
        let (engine, ty) = (component.engine(), component.component_type());
        let item = match &exposed.interface {
            None => ty.get_export(engine, &exposed.function)?.ty,
            Some(interface) => match ty.get_export(engine, interface)?.ty {
                ComponentItem::ComponentInstance(instance) => {
                    instance.get_export(engine, &exposed.function)?.ty
                }
                _ => return None,
            },
        };
        match item {
            ComponentItem::ComponentFunc(ty) => Some(ty),
            _ => None,
        }
    }

    /// The functions with the names that calls mean them by: their own where no other function has the
    /// same, else with the interface.
    pub(crate) fn named(&self) -> Vec<(String, &Exposed)> {
        let count = |name: &str| self.functions.iter().filter(|f| f.function == name).count();
        let name = |exposed: &Exposed| match count(&exposed.function) {
            1 => exposed.function.clone(),
            _ => exposed.long(),
        };
        self.functions.iter().map(|exposed| (name(exposed), exposed)).collect()
    }

    /// Whether it imports an interface, whatever the version.
    pub(crate) fn imports(&self, interface: &str) -> bool {
        self.imports.iter().any(|name| unversioned(name) == interface)
    }

    /// Whether it exports a function of an interface, whatever the version.
    pub(crate) fn exports(&self, interface: &str, function: &str) -> bool {
        self.find(interface, function).is_some()
    }

    /// A function of an exported interface, whatever the version.
    pub(crate) fn find(&self, interface: &str, function: &str) -> Option<&Exposed> {
        let is_in = |found: &Exposed| {
            found.interface.as_deref().map(unversioned) == Some(interface)
                && found.function == function
        };
        self.functions.iter().find(|found| is_in(found))
    }
}

fn within(
    engine: &Engine,
    interface: &str,
    instance: &wasmtime::component::types::ComponentInstance,
) -> Vec<Exposed> {
    let functions = instance.exports(engine).filter_map(|(name, item)| match item.ty {
        ComponentItem::ComponentFunc(ty) => Some(exposed(Some(interface), name, &ty)),
        _ => None,
    });
    functions.collect()
}

fn exposed(interface: Option<&str>, name: &str, ty: &ComponentFunc) -> Exposed {
    let is_value = ty.params().all(|(_, ty)| is_value(&ty)) && ty.results().all(|ty| is_value(&ty));
    let problem = match (ty.async_(), is_value) {
        (true, _) => Some(ASYNCHRONOUS),
        (false, false) => Some(HANDLES),
        (false, true) => None,
    };
    Exposed { interface: interface.map(str::to_owned), function: name.to_owned(), problem }
}

/// Whether all of a type can be written as JSON.
fn is_value(ty: &Type) -> bool {
    match ty {
        Type::Bool
        | Type::S8
        | Type::U8
        | Type::S16
        | Type::U16
        | Type::S32
        | Type::U32
        | Type::S64
        | Type::U64
        | Type::Float32
        | Type::Float64
        | Type::Char
        | Type::String
        | Type::Enum(_)
        | Type::Flags(_) => true,
        Type::List(list) => is_value(&list.ty()),
        Type::FixedLengthList(list) => is_value(&list.ty()),
        Type::Map(map) => is_value(&map.key()) && is_value(&map.value()),
        Type::Record(record) => record.fields().all(|field| is_value(&field.ty)),
        Type::Tuple(tuple) => tuple.types().all(|ty| is_value(&ty)),
        Type::Variant(variant) => {
            variant.cases().all(|case| case.ty.is_none_or(|ty| is_value(&ty)))
        }
        Type::Option(option) => is_value(&option.ty()),
        Type::Result(result) => {
            [result.ok(), result.err()].into_iter().flatten().all(|ty| is_value(&ty))
        }
        Type::Own(_) | Type::Borrow(_) | Type::Future(_) | Type::Stream(_) | Type::ErrorContext => {
            false
        }
    }
}
