//! Which path of a peer is used: IP before a relay of iroh's before the mesh, and within one kind
//! the fastest.

use std::time::Duration;

use iroh::endpoint::{
    Path, PathList,
    transports::{Addr, FourTuple, PathSelection, PathSelectionContext, PathSelector},
};

/// What a path must be faster by, for a change within one kind. As iroh's own selector has it.
const STICKY: Duration = Duration::from_millis(5);
/// What a path over IPv6 may be slower. As iroh's own selector has it.
const IPV6: Duration = Duration::from_millis(3);

/// The selector to build an endpoint with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prefer;

/// The smaller is the better.
type Rank = (u8, Duration);

fn rank(path: &FourTuple, trip: Duration) -> Rank {
    match path.remote() {
        Addr::Ip(address) if address.is_ipv6() => (0, trip.saturating_sub(IPV6)),
        Addr::Ip(_) => (0, trip),
        Addr::Relay(..) => (1, trip),
        Addr::Custom(_) => (2, trip),
    }
}

/// Whether one leaves the path in use for another.
fn is_worth(held: Option<Rank>, other: Rank) -> bool {
    held.is_none_or(|held| other.0 < held.0 || other.0 == held.0 && other.1 + STICKY <= held.1)
}

impl PathSelector for Prefer {
    fn select(&self, context: &PathSelectionContext<'_>) -> PathSelection {
        let mut chosen = PathSelection::none();
        let (mut best, mut held) = (None, None::<Rank>);
        for path in context.paths() {
            let Some(stats) = path.stats() else { continue };
            let rank = rank(path.network_path(), stats.rtt);
            if Some(path.network_path()) == context.current() {
                held = Some(held.map_or(rank, |held| held.min(rank)));
            }
            if best.as_ref().is_none_or(|(_, other)| rank < *other) {
                best = Some((path, rank));
            }
        }
        if let Some((path, rank)) = best
            && is_worth(held, rank)
        {
            chosen.set(&path);
        }
        chosen
    }
}

/// The path that a connection's packets go on; `None` when it has none.
///
/// iroh selects one for all connections to a peer. A peer that was killed and began again has another
/// port behind many a NAT: until the old connection ends, and beyond, its path stays the selected
/// one, which the new connection does not have. Then the new one's packets go on what it has.
pub fn in_use<'a>(paths: &'a PathList<'_>) -> Option<Path<'a>> {
    let selected = paths.iter().find(Path::is_selected);
    selected.or_else(|| paths.iter().find(Path::is_ip)).or_else(|| paths.iter().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_better_kind_is_always_worth_a_change_and_a_worse_one_never() {
        let ms = Duration::from_millis;
        assert!(is_worth(Some((2, ms(1))), (0, ms(300))));
        assert!(!is_worth(Some((0, ms(300))), (2, ms(1))));
        assert!(is_worth(None, (2, ms(300))), "without a path any is good");
    }

    #[test]
    fn within_a_kind_only_five_milliseconds_are() {
        let ms = Duration::from_millis;
        assert!(!is_worth(Some((0, ms(20))), (0, ms(16))));
        assert!(is_worth(Some((0, ms(20))), (0, ms(15))));
    }
}
