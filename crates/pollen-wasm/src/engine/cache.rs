//! Compiled code on disk. What lies there is executed without further checks, so it is treated as
//! somebody's program: a folder of our own (0700), a MAC under a key of the node, and any doubt
//! means compiling again. Compiled code is never taken from peers.

use std::fs::{self, DirBuilder, File};
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tracing::warn;
use wasmtime::Engine;

use crate::engine::code::{Code, Form};

const MAC: usize = 32;

/// Where compiled code is kept, whatever its form.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) key: [u8; 32],
    /// Of all entries together, bytes.
    pub(crate) quota: u64,
}

impl Place {
    /// Whether there may be code of a component that was compiled from the content of this id. It
    /// needs no engine: that of components is built for components only.
    pub(crate) fn may_hold_component(&self, id: &blake3::Hash) -> bool {
        let id = id.to_hex();
        let is_of_it = |name: &str| name.starts_with(&*id) && name.ends_with(COMPONENT);
        let Ok(entries) = fs::read_dir(&self.folder) else { return false };
        entries.flatten().any(|entry| entry.file_name().to_str().is_some_and(is_of_it))
    }
}

/// How the name of an entry ends.
const CORE: &str = ".code";
const COMPONENT: &str = ".component";

/// The cache of one engine.
pub(crate) struct Cache {
    place: Place,
    form: Form,
    engine: Engine,
    /// Identifies engine version, settings and pool rung.
    compatibility: [u8; 32],
}

impl Cache {
    /// Opens or makes the folder; none, with a warning, when it cannot be made private.
    pub(crate) fn open(place: Place, form: Form, engine: &Engine, rung: &str) -> Option<Self> {
        match private_folder(&place.folder) {
            Ok(()) => {
                let compatibility = compatibility(engine, rung);
                let cache = Self { place, form, engine: engine.clone(), compatibility };
                // The quota may have been lowered since.
                cache.note(cache.evict());
                Some(cache)
            }
            Err(error) => {
                let folder = place.folder.display();
                warn!(%folder, %error, "no cache of compiled code");
                None
            }
        }
    }

    /// The module compiled before from the content of this id, if its entry is genuine.
    pub(crate) fn load(&self, id: &blake3::Hash) -> Option<Code> {
        let path = self.path(id);
        let mut file = File::open(&path).ok()?;
        let size = usize::try_from(file.metadata().ok()?.len()).ok()?;
        let mut bytes = Vec::with_capacity(size);
        file.read_to_end(&mut bytes).ok()?;
        let split = bytes.split_at_checked(MAC);
        let genuine = split.and_then(|(mac, code)| {
            let mac = blake3::Hash::from_bytes(mac.try_into().ok()?);
            (self.mac(id, code) == mac).then_some(code)
        });
        let Some(code) = genuine else {
            warn!(path = %path.display(), "a cache entry was altered; compiling again");
            let _ = fs::remove_file(&path);
            return None;
        };
        // Why unsafe: the engine executes these bytes as they are. The MAC, under a key that only
        // this node has, over wasm hash, compatibility hash and code, says that this node's
        // compiler wrote exactly these bytes for exactly this module and engine.
        // Refused: to map the file (`deserialize_file`): the bytes checked would not be those run. What
        // guests share of their first memory lies in a memfd that wasmtime makes either way.
        #[allow(unsafe_code)]
        let code = unsafe { Code::load(self.form, &self.engine, code) };
        if let Err(error) = &code {
            warn!(path = %path.display(), %error, "a cache entry does not load; compiling again");
            let _ = fs::remove_file(&path);
        }
        // The age that eviction goes by is the last use.
        let _ = file.set_modified(SystemTime::now());
        code.ok()
    }

    /// Writes an entry; a failure costs a later compilation and nothing else.
    pub(crate) fn store(&self, wasm: &[u8], code: &[u8]) {
        self.note(self.write(wasm, code).and_then(|()| self.evict()));
    }

    fn note(&self, written: std::io::Result<()>) {
        if let Err(error) = written {
            warn!(folder = %self.place.folder.display(), %error, "compiled code was not cached");
        }
    }

    fn write(&self, wasm: &[u8], code: &[u8]) -> std::io::Result<()> {
        if code.len() as u64 > self.place.quota {
            return Ok(());
        }
        let id = blake3::hash(wasm);
        let mut file = tempfile::Builder::new().prefix("new-").tempfile_in(&self.place.folder)?;
        file.write_all(self.mac(&id, code).as_bytes())?;
        file.write_all(code)?;
        file.as_file().sync_all()?;
        file.persist(self.path(&id)).map_err(|error| error.error)?;
        Ok(())
    }

    /// Removes the entries used longest ago until the quota holds.
    fn evict(&self) -> std::io::Result<()> {
        let mut entries: Vec<(SystemTime, u64, PathBuf)> = fs::read_dir(&self.place.folder)?
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), entry.path()))
            })
            .collect();
        entries.sort();
        let mut sum: u64 = entries.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in entries {
            if sum <= self.place.quota {
                break;
            }
            fs::remove_file(path)?;
            sum = sum.saturating_sub(size);
        }
        Ok(())
    }

    fn mac(&self, id: &blake3::Hash, code: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.place.key);
        hasher.update(b"pollen-code/1\0");
        hasher.update(id.as_bytes());
        hasher.update(&self.compatibility);
        hasher.update(code);
        hasher.finalize()
    }

    fn path(&self, id: &blake3::Hash) -> PathBuf {
        let engine = blake3::Hash::from_bytes(self.compatibility).to_hex();
        let engine = engine.get(..16).unwrap_or("engine");
        let end = match self.form {
            Form::Core => CORE,
            Form::Component => COMPONENT,
        };
        self.place.folder.join(format!("{}-{engine}{end}", id.to_hex()))
    }
}

fn private_folder(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

fn compatibility(engine: &Engine, rung: &str) -> [u8; 32] {
    let mut hasher = Blake3(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    // Another version of ours may check modules in another way before it compiles them.
    hasher.write(env!("CARGO_PKG_VERSION").as_bytes());
    hasher.write(rung.as_bytes());
    *hasher.0.finalize().as_bytes()
}

/// blake3 where the standard library wants a hasher.
struct Blake3(blake3::Hasher);

impl Hasher for Blake3 {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}
