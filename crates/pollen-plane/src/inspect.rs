//! Held content is checked for being a module, for the brain; with a bundle, that is prepared.

use bytes::Bytes;
use futures_util::StreamExt as _;
use pollen_net::NetError;
use pollen_wasm::{Bundle, ModuleInfo, Sandbox, SandboxError};
use pollen_wire::{Id, fetch::MAX_MODULE};

use crate::{events::Event, limits::STORE_REMEDY, plane::Plane, tables::Kind};

/// So many bytes tell whether a file is sealed.
const HEAD_LEAST: u64 = 64;

/// What was found.
struct Found {
    /// Of the module, bytes.
    size: u64,
    /// Of a module.
    info: Option<ModuleInfo>,
    /// The prepared bundle, and what its runner says of its functions.
    bundle: Option<(Id, String)>,
}

impl Found {
    fn blob(size: u64) -> Self {
        Self { size, info: None, bundle: None }
    }
}

/// Why content is not a module, or could not be read.
#[derive(Default)]
struct Fault {
    /// Bytes that were read of it.
    size: u64,
    slug: String,
    reason: String,
    remedy: String,
}

impl Fault {
    fn of(size: u64, error: &SandboxError) -> Self {
        Self {
            size,
            slug: error.slug().to_owned(),
            reason: error.reason().to_owned(),
            remedy: error.remedy().to_owned(),
        }
    }

    fn of_store(error: &NetError) -> Self {
        Self {
            slug: error.slug().to_owned(),
            reason: error.to_string(),
            remedy: STORE_REMEDY.to_owned(),
            ..Self::default()
        }
    }

    fn internal(size: u64, reason: String) -> Self {
        Self { size, slug: "internal".to_owned(), reason, ..Self::default() }
    }
}

impl Plane {
    /// Checks held content for being a module; with a bundle it has to be the runner, which prepares
    /// the bundle. A blob has to be held, whatever it is. Ends in `Event::Inspected`; the prepared
    /// bundle is held then.
    pub fn inspect(&self, request: u64, content: Id, bundle: Option<Id>, kind: Kind) {
        let plane = self.clone();
        self.handle().spawn(async move {
            let found = match kind {
                Kind::Module => plane.inspected(content, bundle).await,
                Kind::Blob | Kind::Site => plane.measured(content).await.map(Found::blob),
                Kind::Sealed => plane.sealed(content).await.map(Found::blob),
            };
            plane.events().emit(event(request, content, found)).await;
        });
    }

    async fn inspected(&self, content: Id, bundle: Option<Id>) -> Result<Found, Fault> {
        let size = self.measured(content).await?;
        if size > MAX_MODULE {
            let reason = format!("the module is over the limit of {} MiB", MAX_MODULE >> 20);
            return Err(Fault {
                size,
                slug: "module-invalid".to_owned(),
                reason,
                remedy: "strip it: wasm-opt -Oz --strip-debug".to_owned(),
            });
        }
        let wasm = self.read_held(content).await?;
        let module = wasm.clone();
        // Parsing a large module takes milliseconds: not on a network thread.
        let info = match tokio::task::spawn_blocking(move || Sandbox::inspect(&module)).await {
            Ok(Ok(info)) => info,
            Ok(Err(error)) => return Err(Fault::of(size, &error)),
            Err(error) => return Err(Fault::internal(size, error.to_string())),
        };
        let Some(bundle) = bundle else {
            return Ok(Found { size, info: Some(info), bundle: None });
        };
        let (functions, prepared) = self.prepared(wasm, content, bundle).await?;
        let info = Some(ModuleInfo { functions, ..info });
        Ok(Found { size, info, bundle: Some(prepared) })
    }

    /// The functions of a bundle, and the prepared one with its description.
    async fn prepared(
        &self,
        wasm: Bytes,
        content: Id,
        bundle: Id,
    ) -> Result<(Vec<String>, (Id, String)), Fault> {
        let size = wasm.len() as u64;
        let packed = self.read_held(bundle).await?;
        let prepared = self.sandbox().prepare(wasm, content, packed).await;
        let prepared = Bytes::from(prepared.map_err(|error| Fault::of(size, &error))?);
        let opened = Bundle::open(&prepared).map_err(|error| Fault::of(size, &error))?;
        let nothing = || Fault {
            size,
            slug: "bundle-invalid".to_owned(),
            reason: "the runner described no functions".to_owned(),
            remedy: "use the runner of this version of Pollen".to_owned(),
        };
        let (functions, description) = opened.description().ok_or_else(nothing)?;
        let held = self.net().content().add(prepared).await.map_err(|error| Fault {
            size,
            slug: error.slug().to_owned(),
            reason: error.to_string(),
            remedy: STORE_REMEDY.to_owned(),
        })?;
        if held != bundle
            && let Err(error) = self.net().content().unpin(bundle).await
        {
            tracing::warn!(%error, "a bundle could not be let go");
        }
        Ok((functions, (held, description)))
    }

    async fn read_held(&self, content: Id) -> Result<Bytes, Fault> {
        self.check_own(content).await?;
        self.net().content().read(content).await.map_err(|error| Fault::of_store(&error))
    }

    /// Bytes of held content that says that it is sealed.
    async fn sealed(&self, content: Id) -> Result<u64, Fault> {
        let size = self.measured(content).await?;
        let mut begin = Vec::new();
        let mut parts = self.net().content().read_range(content, 0..size.min(HEAD_LEAST));
        while let Some(part) = parts.next().await {
            begin.extend_from_slice(&part.map_err(|error| Fault::of_store(&error))?);
        }
        if pollen_seal::is_sealed(&begin) {
            return Ok(size);
        }
        Err(Fault {
            size,
            slug: "bad-request".to_owned(),
            reason: "the content is not sealed".to_owned(),
            remedy: "pln seed FILE NAME --sealed seals it on its way".to_owned(),
        })
    }

    /// What is here for others alone is to this node's user as what is not here.
    async fn check_own(&self, content: Id) -> Result<(), Fault> {
        let is_own = self.net().content().is_for(content, self.id()).await;
        match is_own.map_err(|error| Fault::of_store(&error))? {
            true => Ok(()),
            false => Err(Fault::of_store(&NetError::Missing)),
        }
    }

    /// Bytes of held content.
    async fn measured(&self, content: Id) -> Result<u64, Fault> {
        self.check_own(content).await?;
        let size = self.net().content().size(content).await;
        let size = size.map_err(|error| Fault::of_store(&error))?;
        size.ok_or_else(|| Fault::of_store(&NetError::Missing))
    }
}

fn event(request: u64, content: Id, found: Result<Found, Fault>) -> Event {
    let (size, info, prepared, fault) = match found {
        Ok(Found { size, info, bundle }) => (size, info, bundle, Fault::default()),
        Err(fault) => (fault.size, None, None, fault),
    };
    let info = info.unwrap_or_default();
    let ModuleInfo { functions, may_be_program, minimum_memory_bytes: memory_bytes, .. } = info;
    let (bundle, description) =
        prepared.map_or((Vec::new(), info.description), |(id, text)| (id.to_vec(), text));
    let Fault { slug, reason, remedy, .. } = fault;
    Event::Inspected {
        request,
        content,
        size,
        functions,
        memory_bytes,
        may_be_program,
        bundle: bundle.into(),
        description,
        slug,
        reason,
        remedy,
    }
}
