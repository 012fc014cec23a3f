//! Memory of one guest: its limit, and what it was charged of the node's budget.
//!
//! Invariant: a guest gives everything back when it is dropped. A refused growth is remembered, so
//! that the trap which usually follows can be named `guest-out-of-memory`.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use crate::engine::budget::Quota;
pub(crate) use crate::engine::registry::Purpose;
use crate::engine::registry::Registry;
use crate::engine::touched::Touched;

/// Bytes per table element in the host.
const TABLE_ELEMENT: usize = 8;

/// What refused a growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The guest's own limit.
    Limit,
    /// The budget of the node.
    Budget,
}

/// The memory account of one guest.
pub(crate) struct Meter {
    registry: Arc<Registry>,
    limit: u64,
    charged: u64,
    /// Highest charge since the last [`Meter::begin`].
    peak: u64,
    nested: bool,
    /// Nobody waits for the guest: nobody makes room for it.
    spare: bool,
    refused: Option<Refusal>,
    /// What the registry counts for this guest among those kept for reuse.
    pooled: u64,
    /// Charge of a growth that wasmtime may still report as failed.
    pending: u64,
    /// What of its first memory all guests of the module share until they write to it: it counts
    /// towards the limit, and what the guest wrote to is charged.
    shared: u64,
    /// How much more may be shared.
    sharable: u64,
    /// The account of what is shared; none where nothing is.
    touched: Option<Arc<Touched>>,
}

impl Meter {
    /// `sharable` is what of the first memory is shared by all guests of the module, bytes.
    pub(crate) fn new(
        registry: Arc<Registry>,
        limit: u64,
        purpose: Purpose,
        sharable: u64,
    ) -> Self {
        registry.instance_made();
        let account = || Arc::new(Touched::new(registry.clone(), purpose));
        Self {
            touched: (sharable > 0).then(account),
            registry,
            limit,
            charged: 0,
            peak: 0,
            nested: purpose == Purpose::Nested,
            spare: purpose == Purpose::Stock,
            refused: None,
            pooled: 0,
            pending: 0,
            shared: 0,
            sharable,
        }
    }

    /// Starts a call.
    pub(crate) fn begin(&mut self, nested: bool) {
        self.nested = nested;
        self.spare = false;
        self.refused = None;
        if let Some(touched) = &self.touched {
            touched.begin(nested);
        }
        self.peak = self.charged();
    }

    /// The account of what the guest shares with others, for whoever looks when it stops.
    pub(crate) fn touched(&self) -> Option<&Arc<Touched>> {
        self.touched.as_ref()
    }

    /// The memory whose first pages are shared is all that lies at this address: from now on what the
    /// guest wrote to is charged of it. Nothing there means that nobody knows, and all is charged.
    /// False when the node has no memory for that.
    pub(crate) fn found(&mut self, address: usize, bytes: usize) -> bool {
        let Some(touched) = self.touched.clone() else { return true };
        let (known, shared) = (bytes as u64, self.shared);
        // What no page is looked at for is charged as any memory is.
        if known < shared && !self.charge_back(shared - known) {
            return false;
        }
        let least = known.saturating_sub(shared).min(self.charged);
        self.charged -= least;
        self.registry.budget.release(least);
        (self.shared, self.sharable) = (known, 0);
        touched.found(address, bytes, least);
        self.settle()
    }

    fn charge_back(&mut self, bytes: u64) -> bool {
        self.shared -= bytes;
        self.charge(bytes)
    }

    /// Charges what the guest wrote to of the memory that it shares; false when the node has none.
    pub(crate) fn settle(&mut self) -> bool {
        let fits = self.touched.as_ref().is_none_or(|touched| touched.settle());
        if !fits {
            self.refused = Some(Refusal::Budget);
        }
        self.peak = self.peak.max(self.charged());
        fits
    }

    /// The same at the end of a call: from now on nothing is charged but what it wrote to.
    pub(crate) fn settle_used(&mut self) -> bool {
        if let Some(touched) = &self.touched {
            touched.used();
        }
        self.settle()
    }

    /// The memory that it has, shared or not, bytes.
    pub(crate) fn size(&self) -> u64 {
        self.charged.saturating_add(self.shared)
    }

    /// Counts the guest's memory among that of guests kept for reuse; false when the registry's
    /// cap is reached. Costs a shared write only when the size changed since the last call.
    pub(crate) fn pool(&mut self) -> bool {
        let charged = self.charged();
        if self.pooled == charged {
            return true;
        }
        let fits = self.registry.pool(self.pooled, charged);
        if fits {
            self.pooled = charged;
        }
        fits
    }

    pub(crate) fn refused(&self) -> Option<Refusal> {
        self.refused
    }

    pub(crate) fn charged(&self) -> u64 {
        let touched = self.touched.as_ref().map_or(0, |touched| touched.charged());
        self.charged.saturating_add(touched)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak
    }
}

impl Quota for Meter {
    fn charge(&mut self, bytes: u64) -> bool {
        let sum = self.charged.saturating_add(bytes);
        if sum.saturating_add(self.shared) > self.limit {
            self.refused = Some(Refusal::Limit);
            return false;
        }
        let fits = if self.spare {
            self.registry.budget.charge(bytes, false)
        } else {
            self.registry.charge(bytes, self.nested)
        };
        if !fits {
            self.refused = Some(Refusal::Budget);
            return false;
        }
        self.charged = sum;
        self.peak = self.peak.max(self.charged());
        true
    }

    fn release(&mut self, bytes: u64) {
        let bytes = bytes.min(self.charged);
        self.charged -= bytes;
        self.registry.budget.release(bytes);
    }
}

impl Meter {
    /// Charges what grows, in elements of `size` bytes; false when it may not.
    fn grow(&mut self, current: usize, desired: usize, most: Option<usize>, size: usize) -> bool {
        self.pending = 0;
        if most.is_some_and(|most| desired > most) {
            return false;
        }
        let bytes = desired.saturating_sub(current).saturating_mul(size) as u64;
        let granted = self.charge(bytes);
        self.pending = if granted { bytes } else { 0 };
        granted
    }

    /// Takes what may be shared off a first memory; what is left is to be charged.
    fn share(&mut self, bytes: usize) -> usize {
        let shared = self.sharable.min(bytes as u64);
        (self.sharable, self.shared) = (self.sharable - shared, self.shared + shared);
        if let Some(touched) = &self.touched {
            touched.share(shared);
        }
        bytes.saturating_sub(usize::try_from(shared).unwrap_or(usize::MAX))
    }

    /// What was charged last did not grow after all.
    fn grow_failed(&mut self) {
        let bytes = std::mem::take(&mut self.pending);
        self.release(bytes);
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if current == 0 && self.sharable > 0 {
            let fresh = self.share(desired);
            return Ok(self.grow(0, fresh, maximum, 1));
        }
        Ok(self.grow(current, desired, maximum, 1))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.grow_failed();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired, maximum, TABLE_ELEMENT))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.grow_failed();
        Ok(())
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.registry.budget.release(self.charged);
        self.registry.pool(self.pooled, 0);
        self.registry.instance_dropped();
    }
}
