//! The muscles as a Python module: argument shapes, one error mapping, and nothing else.
//!
//! - [`Muscles`](muscles::Muscles): one node's data plane.
//! - [`KeyPair`](keys::KeyPair): an ed25519 key whose private half stays on this side.
//! - `sealing`: the cipher of discovery's datagrams.
//! - `rows`: the brain's structs, read attribute by attribute.
//! - `error`: the one place that turns an error into `NativeError(slug, reason)`.
//!
//! Importing this builds no engine and no thread, so that `faulthandler` can be enabled first.

// PyO3's macros write the unsafe code of the module's edge.
#![allow(unsafe_code)]

mod error;
mod keys;
mod logging;
mod muscles;
mod rows;
mod sealing;

use pyo3::{prelude::*, types::PyBytes};

/// The data plane of a Pollen node.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::{
        engine_version,
        error::NativeError,
        hash_content,
        keys::KeyPair,
        muscles::Muscles,
        sealing::{seal, unseal},
        verify_signatures,
    };
}

/// What was packed, as bytes of Python.
fn packed(
    py: Python<'_>,
    bytes: Result<Vec<u8>, rmp_serde::encode::Error>,
) -> PyResult<Bound<'_, PyBytes>> {
    let bytes = bytes.map_err(|e| error::native("internal", e.to_string()))?;
    Ok(PyBytes::new(py, &bytes))
}

/// The content id (BLAKE3, 32 bytes).
#[pyfunction]
fn hash_content<'py>(py: Python<'py>, data: &[u8]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, blake3::hash(data).as_bytes())
}

/// Check (public key, message, signature) triples; malformed ones are False.
#[pyfunction]
fn verify_signatures(py: Python<'_>, items: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>) -> Vec<bool> {
    py.detach(|| {
        items
            .iter()
            .map(|(key, message, signature)| keys::verify(key, message, signature))
            .collect()
    })
}

/// Versions of the muscles; builds no engine.
#[pyfunction]
fn engine_version() -> &'static str {
    concat!("pollen-native ", env!("CARGO_PKG_VERSION"), " (wasmtime 48, iroh 1.4)")
}
