//! aim: where the next attempt of a call goes, among the places that its caller sees.

use crate::{
    choose::{Candidate, choose, choose_rank},
    numbers::ROW_REPLICAS,
};

/// One replica, or one rank that would wake the seed, as the caller sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place<N> {
    /// Which node.
    pub node: N,
    /// The peer's price, from the pushed table; 0 for the caller's own node.
    pub price_us: u64,
    /// Calls under way to it from here.
    pub in_flight: u64,
    /// Smoothed time it takes to run this seed.
    pub service_us: u64,
    /// Not to be called: no member, without a link, silent although asked, or its brain is dead.
    pub ejected: bool,
    /// Said lately that it is full.
    pub saturated: bool,
    /// It is a member, and all that it lacks is a link.
    pub unlinked: bool,
    /// It is a member, and its link is silent although asked: it may go on, by another way.
    pub silent: bool,
}

/// What a caller sees of a seed at one moment.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, N> {
    /// The seed runs nowhere: the places are the ranks that would wake it, in their order.
    pub cold: bool,
    /// Running this version twice does no harm.
    pub idempotent: bool,
    /// The row is another one than that of the last attempt.
    pub changed: bool,
    /// In the row's order.
    pub places: &'a [Place<N>],
    /// 64 random bits; used when there are three places or more.
    pub draw: u64,
}

/// Where to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Aim {
    /// The place to try.
    pub target: Option<usize>,
    /// The first place that lacks only a link, if calls would go there rather than to the target.
    pub wanted: Option<usize>,
    /// Some place that may be tried lacks only a link, or is silent.
    pub may_come: bool,
}

/// The places that an attempt of this call met.
#[derive(Debug, Clone, Copy)]
pub struct Met<'a, N> {
    /// They are not tried again.
    pub tried: &'a [N],
    /// They had let the seed go: not tried again for now.
    pub gone: &'a [N],
    /// The way to them broke: they are tried again when there is no other.
    pub cut: &'a [N],
}

impl<N: Copy + Eq> Met<'_, N> {
    fn is_over(&self, node: &N) -> bool {
        self.tried.contains(node) || self.gone.contains(node)
    }
}

/// Of replicas the nearest by price and one drawn; of ranks the first. A full one is better than
/// none: it says itself that it is.
///
/// One to which the way broke is better than none, too, when it is there again.
pub fn aim<N: Copy + Eq>(view: &View<'_, N>, met: Met<'_, N>) -> Aim {
    match view.places {
        [] => Aim::default(),
        // A single candidate needs no comparison.
        [only] => {
            let is_tried = met.is_over(&only.node);
            let unlinked = only.unlinked && !is_tried;
            let target = (!only.ejected && !is_tried).then_some(0);
            let wanted = (unlinked && target.is_none()).then_some(0);
            Aim { target, wanted, may_come: unlinked || only.silent && !is_tried }
        }
        several => aim_among(view, several.get(..ROW_REPLICAS).unwrap_or(several), met),
    }
}

fn aim_among<N: Copy + Eq>(view: &View<'_, N>, places: &[Place<N>], met: Met<'_, N>) -> Aim {
    let mut order: [usize; ROW_REPLICAS] = std::array::from_fn(|index| index);
    let order = order.get_mut(..places.len()).unwrap_or_default();
    if !view.cold {
        // Stable: at one price the row's order decides.
        order.sort_by_key(|index| places.get(*index).map(|place| place.price_us));
    }
    let mut candidates = [Candidate::default(); ROW_REPLICAS];
    let (mut unlinked, mut may_come) = (None, false);
    for (at, (slot, index)) in candidates.iter_mut().zip(order.iter()).enumerate() {
        let Some(place) = places.get(*index) else { continue };
        let is_tried = met.is_over(&place.node);
        *slot = Candidate {
            price_us: place.price_us,
            in_flight: place.in_flight,
            service_us: place.service_us,
            ejected: place.ejected,
            saturated: place.saturated,
            tried: is_tried || met.cut.contains(&place.node),
        };
        may_come |= (place.unlinked || place.silent) && !is_tried;
        if place.unlinked && !is_tried {
            unlinked = unlinked.or(Some(at));
        }
    }
    let candidates = candidates.get_mut(..places.len()).unwrap_or_default();
    let pick = |candidates: &[Candidate]| match view.cold {
        true => choose_rank(candidates),
        false => choose(candidates, view.draw),
    };
    let pick_full = |candidates: &mut [Candidate]| {
        let chosen = pick(candidates);
        if chosen.is_some() || !candidates.iter().any(|candidate| candidate.saturated) {
            return chosen;
        }
        candidates.iter_mut().for_each(|candidate| candidate.saturated = false);
        pick(candidates)
    };
    let mut chosen = pick_full(candidates);
    if chosen.is_none() && !met.cut.is_empty() {
        for (slot, index) in candidates.iter_mut().zip(order.iter()) {
            let Some(place) = places.get(*index) else { continue };
            (slot.tried, slot.saturated) = (met.is_over(&place.node), place.saturated);
        }
        chosen = pick_full(candidates);
    }
    let wanted = unlinked.filter(|first| chosen.is_none_or(|at| *first < at));
    let index_of = |at: Option<usize>| at.and_then(|at| order.get(at)).copied();
    Aim { target: index_of(chosen), wanted: index_of(wanted), may_come }
}
