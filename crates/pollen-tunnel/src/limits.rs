//! Every number of tunnels, with unit, effect and provenance.
//!
//! Decides: how much of the node tunnels may hold, and for how long somebody waits.
//! Does not know: who is refused.
//! Invariants: tunnels leave files for the doors, the stores and QUIC.
//! Source: docs/internals/seam.md#tunnels; each number names its own.

use std::time::Duration;

/// How long a target may take to accept. Guess: three SYNs of Linux (0, 1, 3 s) and an answer.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);
/// How long a peer may take to answer an OPEN: its target's time and three seconds for the way.
pub(crate) const ANSWER: Duration = Duration::from_secs(8);
/// Bytes of a client that are kept while a provider is looked for. They fit a stream's window of
/// 256 KiB, so writing them never waits for a provider. Guess.
pub(crate) const EARLY: usize = 64 * 1024;
/// What is read at once, bytes; one such buffer a thread. 45 packets of a link, so that a system
/// call moves as much as arrives at once.
pub(crate) const SCRATCH: usize = 64 * 1024;
/// Providers without a link that are asked for at once.
pub(crate) const WANTED: usize = 3;
/// Connections of one listener. What a bulk connection carries.
pub(crate) const CONNECTIONS: usize = 10_000;
