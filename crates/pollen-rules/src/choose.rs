//! choose: which replica to try.

/// One replica as the chooser sees it, nearest first in its list.
#[derive(Debug, Clone, Copy, Default)]
pub struct Candidate {
    /// The peer's price, from the pushed table.
    pub price_us: u64,
    /// Calls under way to it from here.
    pub in_flight: u64,
    /// Smoothed time it takes to run this seed.
    pub service_us: u64,
    /// Silent although asked.
    pub ejected: bool,
    /// Said lately that it is full.
    pub saturated: bool,
    /// Already tried for this call.
    pub tried: bool,
}

impl Candidate {
    fn is_usable(&self) -> bool {
        !(self.ejected || self.saturated || self.tried)
    }

    fn cost(&self) -> u64 {
        self.in_flight
            .saturating_add(1)
            .saturating_mul(self.service_us)
            .saturating_add(self.price_us)
    }
}

/// Of ranks in their order the first usable one: callers on many nodes wake the same.
#[inline]
pub fn choose_rank(ranks: &[Candidate]) -> Option<usize> {
    ranks.iter().position(Candidate::is_usable)
}

/// The nearest usable one competes with one drawn from the other usable ones; the lower cost wins,
/// the nearest on a tie. `None` when none is usable.
#[inline]
pub fn choose(candidates: &[Candidate], draw: u64) -> Option<usize> {
    let usable = || candidates.iter().enumerate().filter(|(_, c)| c.is_usable());
    let (nearest, near) = usable().next()?;
    let others = u64::try_from(usable().count() - 1).ok().filter(|others| *others > 0);
    let Some(others) = others else { return Some(nearest) };
    let drawn = usize::try_from(1 + draw % others).ok()?;
    let (other, far) = usable().nth(drawn)?;
    Some(if far.cost() < near.cost() { other } else { nearest })
}
