//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03): the seal over discovery's datagrams.

use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce, aead::Aead};
use pyo3::{prelude::*, types::PyBytes};

use crate::error::native;

/// Encrypt and append the tag of 16 bytes; no associated data. `key`: 32 bytes, `nonce`: 24.
#[pyfunction]
pub(crate) fn seal<'py>(
    py: Python<'py>,
    key: &[u8],
    nonce: &[u8],
    plain: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let (cipher, nonce) = open(key, nonce)
        .ok_or_else(|| native("bad-request", "a key has 32 bytes and a nonce 24"))?;
    let sealed = cipher
        .encrypt(&nonce, plain)
        .map_err(|_| native("bad-request", "this is too long to be sealed"))?;
    Ok(PyBytes::new(py, &sealed))
}

/// What was sealed; None for bytes that were not sealed under this key and nonce.
#[pyfunction]
pub(crate) fn unseal<'py>(
    py: Python<'py>,
    key: &[u8],
    nonce: &[u8],
    sealed: &[u8],
) -> Option<Bound<'py, PyBytes>> {
    let (cipher, nonce) = open(key, nonce)?;
    cipher.decrypt(&nonce, sealed).ok().map(|plain| PyBytes::new(py, &plain))
}

fn open(key: &[u8], nonce: &[u8]) -> Option<(XChaCha20Poly1305, XNonce)> {
    let cipher = XChaCha20Poly1305::new_from_slice(key).ok()?;
    Some((cipher, XNonce::try_from(nonce).ok()?))
}
