//! One live guest: made with what room there is, and counted.

use crate::abi::contract::Birth;
use crate::abi::{Linked, Living};
use crate::engine::meter::Purpose;
use crate::error::SandboxError;

/// A live guest, ready to be called.
pub(crate) struct Guest {
    pub(crate) living: Living,
    /// Calls served so far, wrapping.
    pub(crate) calls: u32,
    /// Memory after initialisation, shared or not, bytes.
    pub(crate) initial: u64,
}

impl Guest {
    /// Instantiates and initialises.
    ///
    /// Errors: `overloaded` when the pool or the node's memory is full, `deadline`, and what the
    /// initialisation did; none of them ran the called function. Nothing is left behind.
    pub(crate) async fn make(
        linked: &Linked,
        birth: &Birth<'_>,
    ) -> Result<Box<Self>, SandboxError> {
        if birth.purpose == Purpose::Stock {
            return Self::attempt(linked, birth).await;
        }
        // The pool, or the memory, is full: a few idle guests of other seeds make room, then all of them.
        // Others may take that room first.
        for count in [8, 64, usize::MAX] {
            match Self::attempt(linked, birth).await {
                Err(error)
                    if error.slug() == "overloaded"
                        && birth.registry.evict_guests(linked.form(), count) => {}
                made => return made,
            }
        }
        Self::attempt(linked, birth).await
    }

    async fn attempt(linked: &Linked, birth: &Birth<'_>) -> Result<Box<Self>, SandboxError> {
        let mut living = linked.make(birth).await?;
        let initial = living.meter().size();
        Ok(Box::new(Self { living, calls: 0, initial }))
    }
}
