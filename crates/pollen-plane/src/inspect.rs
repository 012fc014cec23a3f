//! Held content is checked for being a module, for the brain.

use pollen_wasm::{ModuleInfo, Sandbox};
use pollen_wire::Id;

use crate::{events::Event, limits::STORE_REMEDY, plane::Plane};

/// A module and its size in bytes.
type Found = (u64, ModuleInfo);

/// Why content is not a module, or could not be read.
#[derive(Default)]
struct Fault {
    /// Bytes that were read of it.
    size: u64,
    slug: String,
    reason: String,
    remedy: String,
}

impl Plane {
    /// Checks held content for being a module; ends in `Event::Inspected`.
    pub fn inspect(&self, request: u64, content: Id) {
        let plane = self.clone();
        self.handle().spawn(async move {
            let found = plane.inspected(content).await;
            plane.events().emit(event(request, content, found)).await;
        });
    }

    async fn inspected(&self, content: Id) -> Result<Found, Fault> {
        let bytes = self.net().content().read(content).await.map_err(|error| Fault {
            slug: error.slug().to_owned(),
            reason: error.to_string(),
            remedy: STORE_REMEDY.to_owned(),
            ..Fault::default()
        })?;
        let size = bytes.len() as u64;
        // Parsing a large module takes milliseconds: not on a network thread.
        match tokio::task::spawn_blocking(move || Sandbox::inspect(&bytes)).await {
            Ok(Ok(info)) => Ok((size, info)),
            Ok(Err(error)) => Err(Fault {
                size,
                slug: error.slug().to_owned(),
                reason: error.reason().to_owned(),
                remedy: error.remedy().to_owned(),
            }),
            Err(error) => Err(Fault {
                size,
                slug: "internal".to_owned(),
                reason: error.to_string(),
                ..Fault::default()
            }),
        }
    }
}

fn event(request: u64, content: Id, found: Result<Found, Fault>) -> Event {
    let (size, info, fault) = match found {
        Ok((size, info)) => (size, Some(info), Fault::default()),
        Err(fault) => (fault.size, None, fault),
    };
    let (functions, memory_bytes, may_be_program) = info.map_or_else(Default::default, |info| {
        (info.functions, info.minimum_memory_bytes, info.may_be_program)
    });
    let Fault { slug, reason, remedy, .. } = fault;
    Event::Inspected {
        request,
        content,
        size,
        functions,
        memory_bytes,
        may_be_program,
        slug,
        reason,
        remedy,
    }
}
