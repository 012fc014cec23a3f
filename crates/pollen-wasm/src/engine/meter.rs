//! Memory of one guest: its limit, and what it was charged of the node's budget.
//!
//! Invariant: a guest gives everything back when it is dropped. A refused growth is remembered, so
//! that the trap which usually follows can be named `guest-out-of-memory`.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use crate::engine::budget::Quota;
use crate::engine::registry::Registry;

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

/// What a guest is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A call, or the proof that a seed works.
    Call,
    /// A call that a guest made: it may use the memory reserve.
    Nested,
    /// A later call. Nobody waits for it, so nobody gives way while it is made.
    Stock,
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
    /// towards the limit and is not charged.
    shared: u64,
    /// How much more may be shared.
    sharable: u64,
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
        Self {
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
        self.peak = self.charged;
    }

    /// Counts the guest's memory among that of guests kept for reuse; false when the registry's
    /// cap is reached. Costs a shared write only when the size changed since the last call.
    pub(crate) fn pool(&mut self) -> bool {
        if self.pooled == self.charged {
            return true;
        }
        let fits = self.registry.pool(self.pooled, self.charged);
        if fits {
            self.pooled = self.charged;
        }
        fits
    }

    pub(crate) fn refused(&self) -> Option<Refusal> {
        self.refused
    }

    pub(crate) fn charged(&self) -> u64 {
        self.charged
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
        self.peak = self.peak.max(sum);
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
