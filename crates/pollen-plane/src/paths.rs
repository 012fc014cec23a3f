//! How the packets of a link go, for whoever asks why.

use std::time::Duration;

use pollen_net::Paths;
use pollen_wire::Id;
use serde::Serialize;
use serde_bytes::ByteBuf;

use crate::{counters::micros, events::raw, plane::Plane};

/// The endpoint answers within so long, or its part is left out.
const ANSWER: Duration = Duration::from_millis(250);

/// What is known of the ways to a peer.
#[derive(Debug, Serialize)]
pub struct PathsView {
    since_ms: u64,
    paths: Vec<PathView>,
    candidates: Vec<CandidateView>,
}

/// A path: `kind` is `ip`, with an address, or `mesh`, with the member `via` whom it goes.
#[derive(Debug, Serialize)]
struct PathView {
    kind: &'static str,
    address: String,
    via: ByteBuf,
    selected: bool,
    rtt_us: u64,
}

#[derive(Debug, Serialize)]
struct CandidateView {
    kind: &'static str,
    address: String,
    active: bool,
}

impl Plane {
    /// What is known of the ways to a peer. Waits for the endpoint, which is a millisecond; must
    /// not be called from a thread of the runtimes.
    pub fn paths(&self, peer: Id) -> PathsView {
        let asked = self.net().paths(peer);
        let known = self.handle().block_on(async { tokio::time::timeout(ANSWER, asked).await });
        view(known.unwrap_or_default())
    }
}

fn view(known: Paths) -> PathsView {
    let kind = |is_ip: bool| if is_ip { "ip" } else { "mesh" };
    let paths = known.paths.into_iter().map(|path| PathView {
        kind: kind(path.address.is_some()),
        address: path.address.map_or_else(String::new, |address| address.to_string()),
        via: raw(path.via.as_ref().map_or(&[], |via| &via[..])),
        selected: path.is_selected,
        rtt_us: micros(path.rtt),
    });
    let candidates = known.candidates.into_iter().map(|candidate| CandidateView {
        kind: kind(candidate.address.is_some()),
        address: candidate.address.map_or_else(String::new, |address| address.to_string()),
        active: candidate.is_active,
    });
    PathsView {
        since_ms: u64::try_from(known.since.as_millis()).unwrap_or(u64::MAX),
        paths: paths.collect(),
        candidates: candidates.collect(),
    }
}
