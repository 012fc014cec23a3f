//! Held content is checked for being a module, for the brain; with a bundle, that is prepared.

use bytes::Bytes;
use pollen_wasm::{Bundle, ModuleInfo, Sandbox, SandboxError};
use pollen_wire::Id;

use crate::{events::Event, limits::STORE_REMEDY, plane::Plane};

/// What was found.
struct Found {
    /// Of the module, bytes.
    size: u64,
    info: ModuleInfo,
    /// The prepared bundle, and what its runner says of its functions.
    bundle: Option<(Id, String)>,
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

    fn internal(size: u64, reason: String) -> Self {
        Self { size, slug: "internal".to_owned(), reason, ..Self::default() }
    }
}

impl Plane {
    /// Checks held content for being a module; with a bundle it has to be the runner, which prepares
    /// the bundle. Ends in `Event::Inspected`; the prepared bundle is held then.
    pub fn inspect(&self, request: u64, content: Id, bundle: Option<Id>) {
        let plane = self.clone();
        self.handle().spawn(async move {
            let found = plane.inspected(content, bundle).await;
            plane.events().emit(event(request, content, found)).await;
        });
    }

    async fn inspected(&self, content: Id, bundle: Option<Id>) -> Result<Found, Fault> {
        let wasm = self.read_held(content).await?;
        let size = wasm.len() as u64;
        let module = wasm.clone();
        // Parsing a large module takes milliseconds: not on a network thread.
        let info = match tokio::task::spawn_blocking(move || Sandbox::inspect(&module)).await {
            Ok(Ok(info)) => info,
            Ok(Err(error)) => return Err(Fault::of(size, &error)),
            Err(error) => return Err(Fault::internal(size, error.to_string())),
        };
        let Some(bundle) = bundle else { return Ok(Found { size, info, bundle: None }) };
        let (functions, prepared) = self.prepared(wasm, content, bundle).await?;
        Ok(Found { size, info: ModuleInfo { functions, ..info }, bundle: Some(prepared) })
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
        self.net().content().read(content).await.map_err(|error| Fault {
            slug: error.slug().to_owned(),
            reason: error.to_string(),
            remedy: STORE_REMEDY.to_owned(),
            ..Fault::default()
        })
    }
}

fn event(request: u64, content: Id, found: Result<Found, Fault>) -> Event {
    let (size, info, prepared, fault) = match found {
        Ok(Found { size, info, bundle }) => (size, Some(info), bundle, Fault::default()),
        Err(fault) => (fault.size, None, None, fault),
    };
    let (functions, memory_bytes, may_be_program) = info.map_or_else(Default::default, |info| {
        (info.functions, info.minimum_memory_bytes, info.may_be_program)
    });
    let (bundle, description) =
        prepared.map_or_else(Default::default, |(bundle, text)| (bundle.to_vec(), text));
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
