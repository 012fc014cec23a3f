//! The bulk connection to one peer, for all who open streams on it: one dial at a time, and what came of it.
//!
//! Decides: for how long a dial that failed stands for the next ones.
//! Does not know: where a peer is dialled.
//! Invariants: a failure counts for the link over which it was met, and no other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    error::NetError,
    lane::{Busy, Lane},
};

/// A dial that failed is not repeated for so long: whoever comes meanwhile has the same error at once. Guess: a
/// burst of clients is shorter, and a person who tries it another time is slower.
const FAILED: Duration = Duration::from_secs(1);

/// Of one peer. Locked while it is dialled.
pub(crate) type LaneSlot = Arc<tokio::sync::Mutex<Slot>>;

/// What came of the last dial.
#[derive(Default)]
pub(crate) enum Slot {
    #[default]
    Empty,
    Held(Arc<Lane>),
    Failed {
        link: u64,
        at: Instant,
        error: NetError,
    },
}

impl Slot {
    /// The connection, if it is alive.
    pub(crate) fn alive(&self) -> Option<&Arc<Lane>> {
        self.lane().filter(|lane| lane.is_alive())
    }

    pub(crate) fn lane(&self) -> Option<&Arc<Lane>> {
        match self {
            Self::Held(lane) => Some(lane),
            Self::Empty | Self::Failed { .. } => None,
        }
    }

    /// A place on the connection; none on one that is closed.
    pub(crate) fn begin(&self) -> Option<(Arc<Lane>, Busy)> {
        let lane = self.lane()?;
        Some((lane.clone(), lane.begin()?))
    }

    /// The error of a dial over this link that failed just now.
    pub(crate) fn error(&self, link: u64) -> Option<NetError> {
        match self {
            Self::Failed { link: of, at, error } if *of == link && at.elapsed() < FAILED => {
                Some(error.clone())
            }
            _ => None,
        }
    }

    /// A dial over this link failed.
    pub(crate) fn fail(&mut self, link: u64, error: &NetError) {
        *self = Self::Failed { link, at: Instant::now(), error: error.clone() };
    }
}
