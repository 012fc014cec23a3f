//! Size classes of the host heap: what a block really takes, so that a freed one fits again.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// Size classes: 16 bytes, then four steps a doubling, up to 4 GiB.
pub(crate) const CLASSES: usize = 128;

/// The size class that holds `n` bytes, and its capacity; none for 0 and for more than 4 GiB.
#[inline]
pub(crate) fn class_of(n: u64) -> Option<(usize, u64)> {
    if n == 0 || n > u64::from(u32::MAX) {
        return None;
    }
    if n <= 16 {
        return Some((0, 16));
    }
    // Four classes to each doubling: 16 < 20 < 24 < 28 < 32 < 40 ... in units of 4 at first.
    let doubling = n.saturating_sub(1).checked_ilog2()?.checked_sub(4)?;
    let step = 4_u64.checked_shl(doubling)?;
    let base = 16_u64.checked_shl(doubling)?;
    let quarter = n.saturating_sub(base).div_ceil(step);
    let class = u64::from(doubling).checked_mul(4)?.checked_add(quarter)?;
    let capacity = base.checked_add(quarter.checked_mul(step)?)?;
    Some((usize::try_from(class).ok().filter(|class| *class < CLASSES)?, capacity))
}

/// Capacity of a class: the inverse of [`class_of`].
pub(crate) fn capacity_of(class: u8) -> u64 {
    let class = u32::from(class);
    if class == 0 {
        return 16;
    }
    let doubling = class.saturating_sub(1) / 4;
    let quarter = u64::from(class).saturating_sub(u64::from(doubling).saturating_mul(4));
    let base = 16_u64.checked_shl(doubling).unwrap_or(u64::MAX);
    let step = 4_u64.checked_shl(doubling).unwrap_or(u64::MAX);
    base.saturating_add(quarter.saturating_mul(step))
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_the_smallest_that_holds_its_size() {
        for n in (1..5000_u64).chain((1..32).map(|bit| 1 << bit)).chain([u64::from(u32::MAX)]) {
            let Some((class, capacity)) = class_of(n) else { panic!("no class for {n}") };
            assert!(capacity >= n, "{n} in {capacity}");
            assert_eq!(capacity, capacity_of(class as u8), "class {class} of {n}");
            assert!(capacity == 16 || capacity <= n + n / 4 + 4, "{n} wastes {capacity}");
        }
        assert_eq!(None, class_of(0));
        assert_eq!(None, class_of(u64::MAX));
    }
}
