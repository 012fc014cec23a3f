//! The rules of a single call and of a single link: pure functions and machines without I/O,
//! without a clock and without chance.
//!
//! The list is closed: whatever else must be decided for a call is decided by the brain beforehand.
//! Each rule has its sentence in docs/internals/seam.md, its reference in `pollen.core.rules`, and
//! vectors in `tests/vectors` that both run; the simulator runs the reference.
//!
//! - at the caller: [`Attempts`] (which asks [`aim`], [`choose`], [`choose_rank`] and
//!   [`classify_retry`]);
//! - at the callee: [`match_gate`] and its [`Policy`], [`admit`], [`admit_wake`], [`shed`], [`is_late`] over a
//!   [`Backlog`], [`fullness`], and [`split`] for the calls beneath;
//! - at a link: [`Silence`];
//! - [`numbers`]: what the rules and those who drive them share.
//!
//! Rules on the way of each call are `#[inline]`: the build has no link-time optimization, so that a
//! function of another crate would stay a call.

#![forbid(unsafe_code)]

mod admit;
mod aim;
mod attempts;
mod backlog;
mod choose;
mod gate;
pub mod numbers;
mod policy;
mod retry;
mod shed;
mod silence;
mod split;

pub use admit::{
    Admission, Arrival, Fit, Room, Stock, Wake, Wakening, admit, admit_wake, fullness, is_short,
};
pub use aim::{Aim, Met, Place, View, aim};
pub use attempts::{Action, Attempts, End, Event, Failure, Step};
pub use backlog::Backlog;
pub use choose::{Candidate, choose, choose_rank};
pub use gate::match_gate;
pub use policy::{Party, Policy, Words};
pub use retry::{Attempt, Retry, classify_retry};
pub use shed::{Wait, is_late, shed};
pub use silence::{Heard, Silence, eject_after};
pub use split::{Share, split};
