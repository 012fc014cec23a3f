//! The host heap of one call, with the semantics of Extism's kernel.
//!
//! Decides: where blocks lie, what reads and writes outside of them give. Does not know: wasmtime,
//! limits (a [`Quota`] is asked before it grows), names of imports.
//! Invariants: total, whatever the guest passes: no panic, no trap; a live block never overlaps
//! another; block metadata lies outside the bytes that a guest can write. `blocks` is sorted by
//! offset, because blocks are only ever appended at the top and keep their place and capacity.
//! Source: docs/design/guest-abi.md; golden traces of the real kernel in
//! `tests/vectors/kernel.json`. Refused: running the real kernel's wasm (1.1 us more a call).
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::classes::{CLASSES, capacity_of, class_of};
use crate::engine::budget::Quota;

/// Offsets below this are never a block, so that 0 stays the null handle.
const BASE: u64 = 64;

/// The heap keeps at most this much between calls, bytes.
const KEEP: usize = 256 << 10;

/// Block descriptors kept between calls.
const KEEP_BLOCKS: usize = 1024;

/// The arena grows in steps of at least this, bytes.
const STEP: u64 = 64 << 10;

/// No block.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Block {
    offset: u64,
    /// Bytes in use; at most the capacity of the class.
    used: u64,
    /// Next free block of the same class while this one is free.
    next: u32,
    class: u8,
    live: bool,
}

/// A freed block that must not be reused yet, because the output or the error still points at it.
type Parked = [u32; 2];

/// The heap. All offsets are absolute; 0 is the null handle.
pub struct Kernel {
    arena: Vec<u8>,
    /// Everything from here on was never handed out since the last reset.
    top: u64,
    blocks: Vec<Block>,
    free: [u32; CLASSES],
    parked: Parked,
    input: (u64, u64),
    output: (u64, u64),
    error: u64,
    /// What the quota was charged.
    charged: u64,
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

impl Kernel {
    /// An empty heap; allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            arena: Vec::new(),
            top: BASE,
            blocks: Vec::new(),
            free: [NONE; CLASSES],
            parked: [NONE; 2],
            input: (0, 0),
            output: (0, 0),
            error: 0,
            charged: 0,
        }
    }

    /// A block of `n` bytes; 0 for `n` = 0 and on failure.
    #[inline]
    pub fn alloc(&mut self, n: u64, quota: &mut impl Quota) -> u64 {
        let Some((class, capacity)) = class_of(n) else { return 0 };
        if let Some(head) = self.free.get(class).copied()
            && head != NONE
        {
            return self.reuse(class, head, n);
        }
        let Some(end) = self.top.checked_add(capacity) else { return 0 };
        if end > self.arena.len() as u64 && !self.grow(end, quota) {
            return 0;
        }
        if self.blocks.len() == self.blocks.capacity() && !self.grow_blocks(quota) {
            return 0;
        }
        let offset = self.top;
        self.blocks.push(Block { offset, used: n, next: NONE, class: class as u8, live: true });
        self.top = end;
        offset
    }

    /// A block holding a copy of `bytes`; 0 for empty bytes and on failure.
    pub fn put(&mut self, bytes: &[u8], quota: &mut impl Quota) -> u64 {
        let offset = self.alloc(bytes.len() as u64, quota);
        if let Some(to) = range(offset, bytes.len() as u64).and_then(|r| self.arena.get_mut(r))
            && offset != 0
        {
            to.copy_from_slice(bytes);
        }
        offset
    }

    /// A live block of length 0, which `alloc` never gives; 0 on failure.
    pub fn alloc_empty(&mut self, quota: &mut impl Quota) -> u64 {
        let offset = self.alloc(1, quota);
        if let Some(block) = self.search(offset).and_then(|at| self.blocks.get_mut(at)) {
            block.used = 0;
        }
        offset
    }

    /// Frees the block that starts at `offset`; anything else is ignored.
    pub fn free(&mut self, offset: u64) {
        let Some(at) = self.find(offset) else { return };
        if let Some(block) = self.blocks.get_mut(at as usize) {
            block.live = false;
        }
        if offset == self.input.0 {
            self.input.1 = 0;
        }
        self.give_back(at);
    }

    /// Size of the live block that starts exactly at `offset`, else 0.
    #[inline]
    #[must_use]
    pub fn length(&self, offset: u64) -> u64 {
        self.find(offset).and_then(|at| self.blocks.get(at as usize)).map_or(0, |block| block.used)
    }

    /// Bytes of the live block that starts exactly at `offset`; empty for anything else.
    #[must_use]
    pub fn block(&self, offset: u64) -> &[u8] {
        self.bytes(offset, self.length(offset))
    }

    /// A byte; 0 out of bounds.
    #[inline]
    #[must_use]
    pub fn load_u8(&self, offset: u64) -> u8 {
        usize::try_from(offset).ok().and_then(|at| self.arena.get(at)).copied().unwrap_or(0)
    }

    /// Eight bytes, little endian; 0 when any of them is out of bounds.
    #[inline]
    #[must_use]
    pub fn load_u64(&self, offset: u64) -> u64 {
        word(self.bytes(offset, 8))
    }

    /// Writes a byte; ignored out of bounds.
    #[inline]
    pub fn store_u8(&mut self, offset: u64, value: u8) {
        if offset >= BASE
            && let Some(to) = usize::try_from(offset).ok().and_then(|at| self.arena.get_mut(at))
        {
            *to = value;
        }
    }

    /// Writes eight bytes, little endian; ignored when any of them is out of bounds.
    #[inline]
    pub fn store_u64(&mut self, offset: u64, value: u64) {
        if offset >= BASE
            && let Some(to) = range(offset, 8).and_then(|r| self.arena.get_mut(r))
        {
            to.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Length of the input.
    #[inline]
    #[must_use]
    pub fn input_length(&self) -> u64 {
        self.input.1
    }

    /// Offset of the input; 0 when there is none.
    #[must_use]
    pub fn input_offset(&self) -> u64 {
        self.input.0
    }

    /// A byte of the input; 0 past its end.
    #[inline]
    #[must_use]
    pub fn input_load_u8(&self, offset: u64) -> u8 {
        if offset >= self.input.1 {
            return 0;
        }
        self.input.0.checked_add(offset).map_or(0, |at| self.load_u8(at))
    }

    /// Eight bytes of the input, little endian; 0 when any is past its end.
    #[inline]
    #[must_use]
    pub fn input_load_u64(&self, offset: u64) -> u64 {
        match offset.checked_add(8) {
            Some(end) if end <= self.input.1 => {
                self.input.0.checked_add(offset).map_or(0, |at| self.load_u64(at))
            }
            _ => 0,
        }
    }

    /// Declares the input; ignored when the range is out of bounds.
    pub fn input_set(&mut self, offset: u64, length: u64) {
        if self.in_bounds(offset, length) {
            self.input = (offset, length);
        }
    }

    /// Declares the output; the last one wins, a range out of bounds is ignored.
    /// False, and nothing changed, when it is out of bounds.
    pub fn output_set(&mut self, offset: u64, length: u64) -> bool {
        let fits = self.in_bounds(offset, length);
        if fits {
            self.output = (offset, length);
            self.unpark();
        }
        fits
    }

    /// Offset of the output.
    #[must_use]
    pub fn output_offset(&self) -> u64 {
        self.output.0
    }

    /// Length of the output.
    #[must_use]
    pub fn output_length(&self) -> u64 {
        self.output.1
    }

    /// The output's bytes as they are now.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.bytes(self.output.0, self.output.1)
    }

    /// Declares the error message; 0 clears it, an offset out of bounds is ignored.
    pub fn error_set(&mut self, offset: u64) {
        if offset == 0 || self.in_bounds(offset, 1) {
            self.error = offset;
            self.unpark();
        }
    }

    /// Offset of the error message; 0 when there is none.
    #[must_use]
    pub fn error_get(&self) -> u64 {
        self.error
    }

    /// The error message, if one is set and not empty. A freed message still counts.
    #[must_use]
    pub fn error(&self) -> Option<&[u8]> {
        let at = self.search(self.error)?;
        let used = self.blocks.get(at)?.used;
        let bytes = self.bytes(self.error, used);
        (!bytes.is_empty()).then_some(bytes)
    }

    /// Size of the heap in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.arena.len() as u64
    }

    /// Drops all blocks, input, output and error, and zeroes what was written.
    pub fn reset(&mut self) {
        let top = usize::try_from(self.top).unwrap_or(usize::MAX).min(self.arena.len());
        if let Some(used) = self.arena.get_mut(..top) {
            used.fill(0);
        }
        if !self.blocks.is_empty() {
            self.free = [NONE; CLASSES];
        }
        self.blocks.clear();
        self.top = BASE;
        self.parked = [NONE; 2];
        self.input = (0, 0);
        self.output = (0, 0);
        self.error = 0;
    }

    /// Resets, and gives memory beyond 256 KiB back to the system and the quota.
    pub fn recycle(&mut self, quota: &mut impl Quota) {
        if self.arena.len() <= KEEP && self.blocks.capacity() <= KEEP_BLOCKS {
            return self.reset();
        }
        self.arena = Vec::new();
        self.blocks = Vec::new();
        self.reset();
        self.free = [NONE; CLASSES];
        quota.release(self.charged);
        self.charged = 0;
    }

    #[inline]
    fn reuse(&mut self, class: usize, head: u32, n: u64) -> u64 {
        let Some(block) = self.blocks.get_mut(head as usize) else { return 0 };
        let next = std::mem::replace(&mut block.next, NONE);
        block.used = n;
        block.live = true;
        let offset = block.offset;
        if let Some(slot) = self.free.get_mut(class) {
            *slot = next;
        }
        offset
    }

    fn grow(&mut self, end: u64, quota: &mut impl Quota) -> bool {
        let len = self.arena.len() as u64;
        // Doubling up to 1 MiB, then by half, so that big replies do not copy too often.
        let wish = if len < 1 << 20 { len.saturating_mul(2) } else { len.saturating_add(len / 2) };
        let wanted = [wish, end].map(|size| size.max(STEP).next_multiple_of(STEP));
        wanted.into_iter().any(|size| size >= end && self.grow_to(size, quota))
    }

    fn grow_to(&mut self, size: u64, quota: &mut impl Quota) -> bool {
        let Ok(len) = usize::try_from(size) else { return false };
        let more = len.saturating_sub(self.arena.len());
        if !quota.charge(more as u64) {
            return false;
        }
        if self.arena.try_reserve_exact(more).is_err() {
            quota.release(more as u64);
            return false;
        }
        self.arena.resize(len, 0);
        self.charged = self.charged.saturating_add(more as u64);
        true
    }

    fn grow_blocks(&mut self, quota: &mut impl Quota) -> bool {
        let more = self.blocks.capacity().max(64);
        let bytes = more.saturating_mul(size_of::<Block>()) as u64;
        if self.blocks.len().saturating_add(more) >= NONE as usize || !quota.charge(bytes) {
            return false;
        }
        if self.blocks.try_reserve_exact(more).is_err() {
            quota.release(bytes);
            return false;
        }
        self.charged = self.charged.saturating_add(bytes);
        true
    }

    /// Index of the block that starts at `offset`, live or not.
    #[inline]
    fn search(&self, offset: u64) -> Option<usize> {
        // The last block is the one asked for most often: a reply, a fresh output.
        if let Some(last) = self.blocks.last()
            && last.offset == offset
        {
            return self.blocks.len().checked_sub(1);
        }
        self.blocks.binary_search_by_key(&offset, |block| block.offset).ok()
    }

    #[inline]
    fn find(&self, offset: u64) -> Option<u32> {
        let at = self.search(offset)?;
        if self.blocks.get(at)?.live { u32::try_from(at).ok() } else { None }
    }

    /// Puts a dead block on its free list, or parks it while the output or the error is in it.
    fn give_back(&mut self, at: u32) {
        let Some(block) = self.blocks.get(at as usize).copied() else { return };
        let end = block.offset.saturating_add(capacity_of(block.class));
        let holds = |offset: u64| block.offset <= offset && offset < end;
        let output_end = self.output.0.saturating_add(self.output.1);
        let in_output = self.output.1 > 0 && self.output.0 < end && block.offset < output_end;
        let [output, error] = &mut self.parked;
        if in_output && *output == NONE {
            *output = at;
        } else if self.error != 0 && holds(self.error) && *error == NONE {
            *error = at;
        } else if !in_output {
            let Some(head) = self.free.get_mut(block.class as usize) else { return };
            let next = std::mem::replace(head, at);
            if let Some(block) = self.blocks.get_mut(at as usize) {
                block.next = next;
            }
        }
        // An output that spans several freed blocks keeps them all until the reset.
    }

    fn unpark(&mut self) {
        if self.parked == [NONE; 2] {
            return;
        }
        for at in std::mem::replace(&mut self.parked, [NONE; 2]) {
            if at != NONE {
                self.give_back(at);
            }
        }
    }

    #[inline]
    fn in_bounds(&self, offset: u64, length: u64) -> bool {
        if length == 0 {
            return offset <= self.arena.len() as u64;
        }
        offset >= BASE
            && offset.checked_add(length).is_some_and(|end| end <= self.arena.len() as u64)
    }

    #[inline]
    fn bytes(&self, offset: u64, length: u64) -> &[u8] {
        range(offset, length).and_then(|r| self.arena.get(r)).unwrap_or(&[])
    }
}

#[inline]
fn range(offset: u64, length: u64) -> Option<std::ops::Range<usize>> {
    let end = offset.checked_add(length)?;
    Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    <[u8; 8]>::try_from(bytes).map_or(0, u64::from_le_bytes)
}
