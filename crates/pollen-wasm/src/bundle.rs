//! The bundle of a seed: the files that a runner reads by name, as one zip archive.
//!
//! Decides: which archive is a bundle, and its bytes when one is written.
//! Does not know: what the files mean, but for the manifest's list of them.
//! Invariants: an archive of a stranger never makes this panic, and never takes more memory than
//! [`MAX_UNPACKED`]; no name in it leads out of it; the same files are written as the same bytes.
//! Source: docs/design/guest-abi.md#bundles.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Cursor, Read, Write};
use std::sync::Arc;

use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use crate::error::SandboxError;

/// The first entry of a bundle: `main`, and all other entries in `files`.
pub const MANIFEST: &str = "pollen.json";

/// What the runner said of the seed's functions, in a bundle that was prepared.
pub const DESCRIPTION: &str = "describe.json";

/// Largest bundle, bytes. Raising it lets larger data travel with a seed. Guess: half of the largest module.
pub const MAX_PACKED: usize = 32 << 20;

/// All files of a bundle unpacked, bytes: this much of the node's memory at most. Guess.
pub const MAX_UNPACKED: u64 = 128 << 20;

/// Most files of a bundle. Guess: 30 packages of 150 files.
pub const MAX_FILES: usize = 5_000;

/// Longest name of a file, bytes.
const MAX_NAME: usize = 255;

/// How an archive without a comment ends: the signature of its end, and 18 bytes.
const END: &[u8; 4] = b"PK\x05\x06";
const END_BYTES: usize = 22;

type File = Arc<Vec<u8>>;

/// A bundle, unpacked.
#[derive(Clone)]
pub struct Bundle {
    manifest: File,
    files: BTreeMap<String, File>,
    bytes: u64,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.files.keys().collect();
        f.debug_struct("Bundle").field("files", &names).field("bytes", &self.bytes).finish()
    }
}

impl Bundle {
    /// Unpacks an archive.
    ///
    /// # Errors
    /// `bundle-invalid` with what is wrong and where; nothing is kept.
    pub fn open(archive: &[u8]) -> Result<Self, SandboxError> {
        if archive.len() > MAX_PACKED {
            let (size, most) = (archive.len(), MAX_PACKED >> 20);
            return Err(invalid(format!("the bundle has {size} bytes; the limit is {most} MiB")));
        }
        let entries = entries(archive)?;
        let broken = |error| invalid(format!("the bundle is not a zip archive: {error}"));
        let mut archive = ZipArchive::new(Cursor::new(archive)).map_err(broken)?;
        if archive.len() != entries {
            let text = format!("the bundle names {entries} files, {} are different", archive.len());
            return Err(invalid(text));
        }
        let mut bundle = Self { manifest: File::default(), files: BTreeMap::new(), bytes: 0 };
        for at in 0..entries {
            bundle.take(&mut archive, at)?;
        }
        let manifest = bundle.files.get(MANIFEST).cloned();
        bundle.manifest = manifest.ok_or_else(|| invalid("the bundle has no file pollen.json"))?;
        bundle.listed()?;
        Ok(bundle)
    }

    fn take(
        &mut self,
        archive: &mut ZipArchive<Cursor<&[u8]>>,
        at: usize,
    ) -> Result<(), SandboxError> {
        let broken =
            |error: ZipError| invalid(format!("file {at} of the bundle is broken: {error}"));
        let file = archive.by_index(at).map_err(broken)?;
        let name = file.name().map_err(broken)?.into_owned();
        check_name(&name)?;
        if at == 0 && name != MANIFEST {
            return Err(invalid(format!("the bundle begins with {name}, not with {MANIFEST}")));
        }
        let room = MAX_UNPACKED.saturating_sub(self.bytes);
        let mut bytes = Vec::new();
        // One byte more than there is room for: the size in the archive is its maker's word.
        let read = file.take(room.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| invalid(format!("{name} in the bundle is broken: {error}")))?;
        let size = bytes.len() as u64;
        if size > room {
            let most = MAX_UNPACKED >> 20;
            return Err(invalid(format!("the files of the bundle have over {most} MiB in all")));
        }
        self.bytes = self.bytes.saturating_add(size);
        self.files.insert(name, Arc::new(bytes));
        Ok(())
    }

    /// The manifest as an object.
    fn listed(&self) -> Result<serde_json::Map<String, serde_json::Value>, SandboxError> {
        let broken =
            |error| invalid(format!("{MANIFEST} of the bundle is no JSON object: {error}"));
        serde_json::from_slice(&self.manifest).map_err(broken)
    }

    /// The bytes of the manifest.
    pub(crate) fn manifest(&self) -> File {
        self.manifest.clone()
    }

    /// A file by its name.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<Arc<Vec<u8>>> {
        self.files.get(name).cloned()
    }

    /// Its Python sources, by name.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let sources = self.files.iter().filter(|(name, _)| name.ends_with(".py"));
        sources.map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// All files together, bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The functions that the runner found, and its description; none of a bundle that was not prepared.
    #[must_use]
    pub fn description(&self) -> Option<(Vec<String>, String)> {
        let text = String::from_utf8(self.files.get(DESCRIPTION)?.to_vec()).ok()?;
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        let functions = value.get("functions")?.as_object()?.keys().cloned().collect();
        Some((functions, text))
    }
}

/// How many entries the end of an archive names. An archive with a comment is refused: in it two ends
/// could be found.
fn entries(archive: &[u8]) -> Result<usize, SandboxError> {
    let at = archive.len().checked_sub(END_BYTES);
    let end = at.and_then(|at| archive.get(at..)).filter(|end| end.starts_with(END));
    let count = end.and_then(|end| end.get(10..12)?.try_into().ok()).map(u16::from_le_bytes);
    match count.map(usize::from) {
        Some(count) if count <= MAX_FILES => Ok(count),
        Some(count) => {
            Err(invalid(format!("the bundle has {count} files; the limit is {MAX_FILES}")))
        }
        None => Err(invalid("the bundle is not a zip archive, or it is cut off")),
    }
}

fn check_name(name: &str) -> Result<(), SandboxError> {
    let is_part = |part: &str| !part.is_empty() && part != "." && part != "..";
    let is_good =
        name.len() <= MAX_NAME && !name.contains(['\\', '\0']) && name.split('/').all(is_part);
    if is_good {
        return Ok(());
    }
    let why =
        "names are relative, without empty parts, dots, backslashes and NUL, 255 bytes at most";
    Err(invalid(format!("{name:?} in the bundle is no name of a file: {why}")))
}

fn invalid(reason: impl Into<String>) -> SandboxError {
    SandboxError::refused("bundle-invalid", reason, "make the bundle again: pln seed FILE.py")
}

/// Writes a bundle.
pub(crate) struct Writer {
    manifest: Result<serde_json::Map<String, serde_json::Value>, SandboxError>,
    files: BTreeMap<String, File>,
}

impl Writer {
    /// With all files of another one.
    pub(crate) fn of(bundle: &Bundle) -> Self {
        Self { manifest: bundle.listed(), files: bundle.files.clone() }
    }

    /// Adds a file, or replaces it.
    pub(crate) fn add(&mut self, name: String, bytes: Vec<u8>) {
        self.files.insert(name, Arc::new(bytes));
    }

    /// The archive: the manifest with the list of all files first, then they by name.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>, SandboxError> {
        let mut manifest = self.manifest?;
        self.files.remove(MANIFEST);
        let names = self.files.keys().map(|name| name.clone().into()).collect();
        manifest.insert("files".to_owned(), serde_json::Value::Array(names));
        let manifest = serde_json::Value::Object(manifest).to_string();
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        write(&mut zip, MANIFEST, manifest.as_bytes())?;
        for (name, bytes) in &self.files {
            write(&mut zip, name, bytes)?;
        }
        let written = zip.finish().map_err(|error| unwritten(&error))?.into_inner();
        if written.len() > MAX_PACKED {
            let (size, most) = (written.len(), MAX_PACKED >> 20);
            let text =
                format!("with its compiled files the bundle has {size} bytes, over {most} MiB");
            return Err(invalid(text));
        }
        Ok(written)
    }
}

fn write(
    zip: &mut ZipWriter<Cursor<Vec<u8>>>,
    name: &str,
    bytes: &[u8],
) -> Result<(), SandboxError> {
    // 1980: the time of writing would make other bytes of the same files.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o644);
    zip.start_file(name, options).map_err(|error| unwritten(&error))?;
    zip.write_all(bytes).map_err(|error| unwritten(&error.into()))
}

fn unwritten(error: &ZipError) -> SandboxError {
    SandboxError::internal(format!("the bundle cannot be written: {error}"), false)
}
