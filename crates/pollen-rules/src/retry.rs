//! retry class: what becomes of a failed attempt. Where the next one goes, and which places are left
//! out, is in `attempts.rs`.

use crate::numbers::RETRY_MIN_BUDGET_US;

/// How an attempt failed and what is left.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Of the error table.
    pub slug: &'a str,
    /// The guest may have run.
    pub may_have_executed: bool,
    /// Running it twice does no harm.
    pub idempotent: bool,
    /// Another host answered, so that its `seed-not-found` speaks of that place only.
    pub remote: bool,
    /// Retries left.
    pub retries: u64,
    /// Time left.
    pub budget_us: u64,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Try another replica.
    Elsewhere,
    /// Tell the caller.
    GiveUp,
}

/// Judges a failed attempt (docs/design/protocol.md#calls).
#[inline]
pub fn classify_retry(attempt: &Attempt<'_>) -> Retry {
    if attempt.retries == 0 || attempt.budget_us < RETRY_MIN_BUDGET_US {
        return Retry::GiveUp;
    }
    let elsewhere = match attempt.slug {
        "unreachable" => !attempt.may_have_executed || attempt.idempotent,
        "overloaded" => !attempt.may_have_executed,
        "seed-not-found" => attempt.remote && !attempt.may_have_executed,
        _ => false,
    };
    if elsewhere { Retry::Elsewhere } else { Retry::GiveUp }
}
