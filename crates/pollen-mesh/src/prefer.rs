//! Which path of a peer is used: IP before a relay of iroh's before the mesh, and within one kind
//! the fastest. And the path through the mesh once, where it is wished for: so it is opened. An
//! address from which nothing comes any more goes last.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use iroh::endpoint::{
    Path, PathList,
    transports::{
        Addr, FourTuple, PathSelection, PathSelectionContext, PathSelectionData, PathSelector,
    },
};
use parking_lot::Mutex;
use pollen_wire::{
    Id,
    packet::{Short, short},
};

use crate::{mint::mint, transport::peer_of};

/// What a path must be faster by, for a change within one kind. As iroh's own selector has it.
const STICKY: Duration = Duration::from_millis(5);
/// What a path over IPv6 may be slower. As iroh's own selector has it.
const IPV6: Duration = Duration::from_millis(3);

/// Peers whose path through the mesh is kept to be chosen; beyond, all are forgotten. One is a
/// hundred bytes, and is made again in a millisecond or two.
const KNOWN_MAX: usize = 4096;

/// The selector to build an endpoint with; a clone is the same one.
///
/// iroh opens the path that is selected on all connections to a peer that this side dialled, and
/// selects at each path and connection that comes or goes. So [`Self::wish`] makes it select the
/// path through the mesh once; the next event selects IP again.
#[derive(Debug, Clone, Default)]
pub struct Prefer(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// The path through the mesh to each of these peers, as a selection.
    known: HashMap<Short, PathSelection>,
    /// By the address that a peer's packets come from now.
    wishes: HashMap<SocketAddr, PathSelection>,
    /// Addresses that are doubted, and by how many.
    doubts: HashMap<SocketAddr, usize>,
}

/// An address is doubted until this is dropped.
#[derive(Debug)]
pub struct Doubt {
    of: Prefer,
    at: SocketAddr,
}

impl Drop for Doubt {
    fn drop(&mut self) {
        let mut kept = self.of.0.lock();
        if let Some(count) = kept.doubts.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                kept.doubts.remove(&self.at);
            }
        }
    }
}

impl Prefer {
    /// Connections to the peer that is at that address get a path through the mesh, too, with the
    /// next path or connection that comes. False: this machine is too busy to say which path.
    pub async fn wish(&self, at: SocketAddr, peer: &Id) -> bool {
        let peer = short(peer);
        let known = self.0.lock().known.get(&peer).cloned();
        let found = match known {
            Some(known) => Some(known),
            None => mint(peer).await,
        };
        let Some(selection) = found else { return false };
        let mut kept = self.0.lock();
        kept.know(peer, || selection.clone());
        kept.wishes.insert(at, selection);
        true
    }

    /// Nothing comes from that address any more: with the next path or connection that comes or goes,
    /// any other path goes before it.
    ///
    /// A connection never gives up its last path. While one of a peer's connections has such a path
    /// only, it would stay the selected one, all others would be kept from what they have, and first
    /// packets of new ones would go to where nobody is.
    #[must_use]
    pub fn doubt(&self, at: SocketAddr) -> Doubt {
        *self.0.lock().doubts.entry(at).or_default() += 1;
        Doubt { of: self.clone(), at }
    }

    /// The wish for that address is over.
    pub fn drop_wish(&self, at: SocketAddr) {
        self.0.lock().wishes.remove(&at);
    }
}

impl Kept {
    fn know(&mut self, peer: Short, selection: impl FnOnce() -> PathSelection) {
        if self.known.contains_key(&peer) {
            return;
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(peer, selection());
    }
}

/// The smaller is the better.
type Rank = (u8, Duration);

fn rank(path: &FourTuple, trip: Duration, doubts: &HashMap<SocketAddr, usize>) -> Rank {
    match path.remote() {
        Addr::Ip(address) if doubts.contains_key(&address) => (3, trip),
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
        let mut kept = self.0.lock();
        for path in context.paths() {
            match path.network_path().remote() {
                Addr::Ip(address) => {
                    if let Some(wished) = kept.wishes.remove(&address) {
                        return wished;
                    }
                }
                Addr::Custom(address) => {
                    if let Some(peer) = peer_of(&address) {
                        kept.know(peer, || only(&path));
                    }
                }
                Addr::Relay(..) => {}
            }
            let Some(stats) = path.stats() else { continue };
            let rank = rank(path.network_path(), stats.rtt, &kept.doubts);
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

fn only(path: &PathSelectionData<'_>) -> PathSelection {
    let mut selection = PathSelection::none();
    selection.set(path);
    selection
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
    fn an_address_that_is_doubted_goes_behind_the_mesh_until_nobody_doubts_it() {
        let (prefer, trip) = (Prefer::default(), Duration::from_millis(1));
        let there = SocketAddr::from(([192, 0, 2, 1], 60611));
        let ip = FourTuple::from_remote(Addr::Ip(there));
        let mesh = FourTuple::from_remote(Addr::Custom(crate::transport::of_short(7)));
        let is_ip_better = || {
            let kept = prefer.0.lock();
            rank(&ip, trip, &kept.doubts) < rank(&mesh, trip, &kept.doubts)
        };
        assert!(is_ip_better());
        let doubts = [prefer.doubt(there), prefer.doubt(there)];
        assert!(!is_ip_better());
        let [one, two] = doubts;
        drop(one);
        assert!(!is_ip_better());
        drop(two);
        assert!(is_ip_better());
        assert!(prefer.0.lock().doubts.is_empty());
    }

    #[test]
    fn within_a_kind_only_five_milliseconds_are() {
        let ms = Duration::from_millis;
        assert!(!is_worth(Some((0, ms(20))), (0, ms(16))));
        assert!(is_worth(Some((0, ms(20))), (0, ms(15))));
    }
}
