//! A call on its way through this node, and how it ended.

use std::{borrow::Cow, sync::Arc, time::Instant};

use bytes::Bytes;
use pollen_net::NetError;
use pollen_wire::Id;

use crate::{
    hex::{hex, parse_hex},
    limits::STORE_REMEDY,
    outlet::{Extras, Outlet},
    trace::Trace,
    trees::Below,
};

/// Who asks, as far as this node can tell for sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    /// The key at the other end of the link, or this node's own for its unix sockets.
    Node(Id),
    /// A client of the TCP door: no properties, public seeds only.
    Anonymous,
}

impl Principal {
    /// Guests are reused within one identity only.
    pub(crate) fn identity(self) -> Id {
        match self {
            Self::Node(id) => id,
            Self::Anonymous => [0; 32],
        }
    }
}

/// Which seed is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeedRef {
    /// By name, resolved in the tables at each attempt.
    Name(Arc<str>),
    /// By spec hash.
    Hash(Id),
}

impl SeedRef {
    /// A name, or a hash when it is 64 hex digits.
    pub fn parse(text: &str) -> Self {
        match parse_hex(text) {
            Some(hash) => Self::Hash(hash),
            None => Self::Name(text.into()),
        }
    }
}

impl std::fmt::Display for SeedRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Hash(hash) => f.write_str(&hex(hash)),
        }
    }
}

/// `pln://seed/<name or hash>/<function>`; the function may contain `/`.
pub(crate) fn parse_uri(uri: &str) -> Result<(SeedRef, Arc<str>), CallError> {
    let bad = || {
        let reason = format!("\"{uri}\" is not a seed address");
        CallError::refused("bad-request", reason, "write pln://seed/<name>/<function>")
    };
    let rest = uri.strip_prefix("pln://seed/").ok_or_else(bad)?;
    let (seed, function) =
        rest.split_once('/').filter(|(s, f)| !s.is_empty() && !f.is_empty()).ok_or_else(bad)?;
    Ok((SeedRef::parse(seed), function.into()))
}

pub(crate) fn over_limit(slug: &'static str, from: &str, uri: &str) -> CallError {
    let reason = match slug {
        "hop-limit" => format!("{from} -> {uri}: the chain of calls is too long (16 hops)"),
        _ => format!("{from} -> {uri}: the tree of calls is too large (1,000 calls)"),
    };
    CallError::refused(slug, reason, "look for seeds that call each other in a circle")
}

/// A call to be made from this node.
#[derive(Debug, Clone)]
pub struct Request {
    /// The same for all attempts and for a tail call that is followed; children have their own.
    pub id: [u8; 16],
    /// What to call.
    pub seed: SeedRef,
    /// `None`: the only export.
    pub function: Option<Arc<str>>,
    /// At most the input limit.
    pub input: Bytes,
    /// When to give up.
    pub deadline: Instant,
    /// Nested calls that may follow one another.
    pub hops: u8,
    /// Calls that this one and those below may still make.
    pub calls_left: u32,
    /// Retries that this one and those below may still make.
    pub retries: u8,
    /// Running it twice does no harm, by the caller's word.
    pub idempotent: bool,
    /// Who asks.
    pub principal: Principal,
    /// The seed on whose behalf this node asks, for a nested call.
    pub acting: Option<Id>,
    /// Where the tree of calls began.
    pub origin: Id,
    /// Of a call that a guest of this node made: where that one notes what it took.
    pub(crate) below: Option<Arc<Below>>,
    /// Its span at the node where it begins.
    pub trace: Trace,
    /// When it came to this node.
    pub began: Instant,
    /// A request head, and the way of a streamed reply.
    pub extras: Option<Arc<Extras>>,
}

impl Request {
    /// The way of a streamed reply, if the caller takes one.
    pub(crate) fn outlet(&self) -> Option<&Outlet> {
        self.extras.as_ref()?.outlet.as_ref()
    }

    /// Bytes of a streamed reply that were handed on.
    pub(crate) fn streamed(&self) -> u64 {
        self.outlet().map_or(0, Outlet::sent)
    }
}

/// How a call ended, with what it took.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The output and the guest's return code, or the error.
    pub result: Result<(Bytes, i32), CallError>,
    /// Where the last attempt went.
    pub node: Option<Id>,
    /// Attempts made.
    pub attempts: u8,
    /// What its last attempt took, and the calls of all of them.
    pub spent: Spent,
    /// From its beginning to its end, microseconds.
    pub total_us: u32,
}

impl Reply {
    /// Of a call that was refused before any attempt.
    pub fn refused(error: CallError) -> Self {
        let spent = Spent::default();
        Self { result: Err(error), node: None, attempts: 0, spent, total_us: 0 }
    }
}

/// What an attempt of a call took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Time it waited for a slot, microseconds.
    pub queue_us: u32,
    /// Time the guest ran, microseconds.
    pub run_us: u32,
    /// Time until the seed was loaded for it, microseconds; 0 when it was loaded before.
    pub wake_us: u32,
    /// Round trip to the node, microseconds; 0 for this one.
    pub rtt_us: u32,
    /// Calls that it and those below it made, itself included.
    pub calls_used: u32,
}

impl Spent {
    /// Of an attempt whose guest did not run: it is a call all the same.
    pub(crate) const ONE_CALL: Self =
        Self { queue_us: 0, run_us: 0, wake_us: 0, rtt_us: 0, calls_used: 1 };
}

/// Why a call failed; the fields are those of the error table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    /// The stable name.
    pub slug: Cow<'static, str>,
    /// What happened.
    pub reason: String,
    /// What to do next.
    pub remedy: String,
    /// The guest may have run.
    pub may_have_executed: bool,
    /// With `overloaded`: when a retry may fare better.
    pub retry_after_ms: u32,
}

impl CallError {
    /// An error of a call whose guest did not run.
    pub fn refused(slug: &'static str, reason: impl Into<String>, remedy: &str) -> Self {
        Self {
            slug: Cow::Borrowed(slug),
            reason: reason.into(),
            remedy: remedy.to_owned(),
            may_have_executed: false,
            retry_after_ms: 0,
        }
    }

    /// For a content store that failed; the slug is `storage-full` or `state-unusable`.
    pub fn of_store(error: &NetError) -> Self {
        let is_full = matches!(error, NetError::Full(_));
        let slug = if is_full { "storage-full" } else { "state-unusable" };
        Self::refused(slug, error.to_string(), STORE_REMEDY)
    }

    /// The same error, with this word on whether the guest may have run.
    pub fn executed(mut self, may_have_executed: bool) -> Self {
        self.may_have_executed = may_have_executed;
        self
    }

    /// A refusal for want of room; nothing was executed.
    pub fn overloaded(reason: impl Into<String>, retry_after_ms: u32) -> Self {
        let remedy = "wait as long as retry-after says, or add a node";
        Self { retry_after_ms, ..Self::refused("overloaded", reason, remedy) }
    }

    pub(crate) fn deadline(may_have_executed: bool) -> Self {
        let remedy = "give the call more time (--timeout), or look at what it waits for";
        Self::refused("deadline", "the call's time ran out", remedy).executed(may_have_executed)
    }

    pub(crate) fn shutting_down() -> Self {
        Self::refused("unreachable", "this node is shutting down", "call another node")
    }
}

impl From<&pollen_wasm::SandboxError> for CallError {
    fn from(error: &pollen_wasm::SandboxError) -> Self {
        Self {
            slug: Cow::Borrowed(error.slug()),
            reason: error.reason().to_owned(),
            remedy: error.remedy().to_owned(),
            may_have_executed: error.may_have_executed(),
            retry_after_ms: if error.slug() == "overloaded" { 100 } else { 0 },
        }
    }
}
