//! ed25519 keys and their files.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use pollen_net::{PublicKey, SecretKey, Signature};
use pyo3::{prelude::*, types::PyBytes};

use crate::error::native;

/// What a key file begins with; 64 hex digits and a newline follow.
const MAGIC: &str = "pollen-key-1 ";

/// An ed25519 key pair. The private half leaves this object only through `save`.
#[pyclass(frozen, module = "pollen._native")]
pub struct KeyPair(pub(crate) SecretKey);

#[pymethods]
impl KeyPair {
    #[staticmethod]
    fn generate() -> Self {
        Self(SecretKey::generate())
    }

    /// Read a key file of ours.
    #[staticmethod]
    fn load(path: &str) -> PyResult<Self> {
        let unusable = |why: String| native("state-unusable", format!("the key file {path} {why}"));
        let mut text = String::new();
        File::open(path)
            .and_then(|mut file| file.read_to_string(&mut text))
            .map_err(|e| unusable(format!("cannot be read: {e}")))?;
        let secret = text.trim_end().strip_prefix(MAGIC).and_then(from_hex);
        secret
            .map(|secret| Self(SecretKey::from_bytes(&secret)))
            .ok_or_else(|| unusable("is not a key of pollen".into()))
    }

    /// Create `path` with mode 0600 and fsync it and its folder; an existing file is kept.
    fn save(&self, path: &str) -> PyResult<()> {
        let failed = |e: std::io::Error| {
            native("state-unusable", format!("the key file {path} cannot be written: {e}"))
        };
        let mut text = MAGIC.to_owned();
        for byte in self.0.to_bytes() {
            text.push_str(&format!("{byte:02x}"));
        }
        text.push('\n');
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        let folder = Path::new(path).parent().filter(|p| !p.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new("."))).and_then(|f| f.sync_all()).map_err(failed)
    }

    #[getter]
    fn public<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.public().as_bytes())
    }

    /// The 64-byte signature of the exact bytes.
    fn sign<'py>(&self, py: Python<'py>, message: &[u8]) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.sign(message).to_bytes())
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut out = [0; 32];
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(out)
}

/// Whether the signature of the message is the key's; malformed parts are a no.
pub(crate) fn verify(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Ok(key) = key.try_into() else { return false };
    let Ok(signature) = signature.try_into() else { return false };
    PublicKey::from_bytes(key)
        .is_ok_and(|key| key.verify(message, &Signature::from_bytes(signature)).is_ok())
}
