//! Seed time: what is made of a bundle before it is published.
//!
//! Decides: what a prepared bundle has beside its files. Does not know: where it is kept.
//! Invariants: no call, so no import reaches the mesh; what the publisher put beside a source is
//! never trusted, it is made again. The same files give the same bytes.

use std::time::Duration;

use wasmtime::component::TypedFunc;

use super::{Python, outcome};
use crate::abi::body::Body;
use crate::bundle::{Bundle, DESCRIPTION, Writer};
use crate::error::SandboxError;

/// What the seed-time work on a bundle may run, without what it waits for. Raising it lets larger
/// packages be compiled. Guess: 136 files took 1.5 s (measured).
pub(crate) const PREPARING: Duration = Duration::from_secs(5);

type Compile = TypedFunc<(String, Vec<u8>), (Result<Vec<u8>, String>,)>;
type Describe = TypedFunc<(), (Result<String, String>,)>;

/// The bundle with the code of each source beside it, and what the runner says of its functions.
///
/// Errors: `bundle-invalid` with the runner's text when a source does not compile or the seed's code
/// fails while it is imported; else what ends a guest.
pub(crate) async fn prepare(
    body: &mut Body<Python>,
    bundle: &Bundle,
) -> Result<Vec<u8>, SandboxError> {
    let (live, _, store) = body.parts();
    let lost = |error: wasmtime::Error| {
        SandboxError::invalid(format!("the runner has another type: {error:#}"), "")
    };
    let compile: Compile = live.instance.get_typed_func(&mut *store, "compile").map_err(lost)?;
    let describe: Describe = live.instance.get_typed_func(&mut *store, "describe").map_err(lost)?;
    let mut code = Vec::new();
    for (path, source) in bundle.sources() {
        let asked = (path.to_owned(), source.to_vec());
        let made = compile.call_async(&mut *store, asked).await;
        let compiling = format!("the compiling of {path}");
        let (made,) = made.map_err(|error| ended(store.data_mut(), &error, &compiling))?;
        code.push((format!("{path}c"), made.map_err(said)?));
    }
    let described = describe.call_async(&mut *store, ()).await;
    let importing = "what stands outside of all functions";
    let (described,) = described.map_err(|error| ended(store.data_mut(), &error, importing))?;
    let mut writer = Writer::of(bundle);
    for (path, code) in code {
        writer.add(path, code);
    }
    writer.add(DESCRIPTION.to_owned(), described.map_err(said)?.into_bytes());
    writer.finish()
}

fn said(text: String) -> SandboxError {
    SandboxError::refused("bundle-invalid", text, "mend the file at the line above")
}

/// A trap while nothing of a call ran. No caller's time ran out: the bundle takes too long.
fn ended(state: &mut super::State, error: &wasmtime::Error, what: &str) -> SandboxError {
    let error = outcome::of_trap(state, error).not_executed();
    if error.slug() != "deadline" {
        return error;
    }
    let reason = format!("{what} did not end within {} s", PREPARING.as_secs());
    SandboxError::refused("bundle-invalid", reason, "do what takes long in a function")
}
