//! The six per-call algorithms: pure functions of what the brain pushed and what was counted here.
//!
//! Each has its reference in `pollen.core.rules.routing`; both run `tests/vectors/routing_*.json`. There
//! is no seventh: whatever else must be decided for a call is decided by the brain beforehand.

mod admit;
mod choose;
mod gate;
mod retry;
mod shed;
mod split;

pub(crate) use admit::is_short;
pub use admit::{Admission, Arrival, Fit, Room, Stock, Wake, Wakening, admit, admit_wake};
pub use choose::{Candidate, choose, choose_rank};
pub use gate::match_gate;
pub use retry::{Attempt, Retry, classify_retry};
pub(crate) use shed::{GAP_US, STANDING_US};
pub use shed::{Wait, is_late, shed};
pub use split::{Share, split};
