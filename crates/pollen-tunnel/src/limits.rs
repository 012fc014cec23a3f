//! Every number of tunnels, with unit, effect and provenance.
//!
//! Decides: how much of the node tunnels may hold, and for how long somebody waits.
//! Does not know: who is refused.
//! Invariants: tunnels leave files for the doors, the stores and QUIC.
//! Source: docs/internals/seam.md#tunnels; each number names its own.

use std::time::Duration;

/// How long a target may take to accept. Guess: three SYNs of Linux (0, 1, 3 s) and an answer.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);
/// What is read of the answer to a check, so that its program is not reset for saying more than a
/// status. Guess: a page of health.
pub(crate) const PROBE_BYTES: usize = 64 * 1024;
/// How long a peer may take to answer an OPEN: its target's time and three seconds for the way.
pub(crate) const ANSWER: Duration = Duration::from_secs(8);
/// Bytes of a client that are kept while a provider is looked for. They fit a stream's window of
/// 512 KiB, so writing them never waits for a provider. Guess.
pub(crate) const EARLY: usize = 64 * 1024;
/// What is read at once, bytes; one such buffer a thread. 45 packets of a link, so that a system
/// call moves as much as arrives at once.
pub(crate) const SCRATCH: usize = 64 * 1024;
/// Pieces that come from a link at once, and go to a socket in one system call: with 1,400 bytes
/// each as much as [`SCRATCH`].
pub(crate) const PIECES: usize = 48;
/// Providers of a service that a row has at most. As `ROW_PROVIDERS` in `pollen.core.services.records`.
pub(crate) const ROW_PROVIDERS: usize = 64;
/// A socket on which nothing comes is asked after so long whether its other end is there, and again
/// every quarter of it; after nine times in vain it is broken. NATs forget a connection after an hour
/// or more, often after five minutes. Guess.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Providers without a link that are asked for at once.
pub(crate) const WANTED: usize = 3;
/// How long a client of the proxy door may take to say what it wants, and to take a refusal. Guess.
pub(crate) const PROXY_HEAD: Duration = Duration::from_secs(10);
/// How long a client with a wrong password waits for the word. Guess: slow for who tries many.
pub(crate) const WRONG: Duration = Duration::from_secs(1);
/// Bytes of the head of a request at the proxy door. As at the doors of a node.
pub(crate) const PROXY_HEAD_BYTES: usize = 16 * 1024;
/// Connections of one listener. What a bulk connection carries.
pub(crate) const CONNECTIONS: usize = 10_000;
/// Sessions of datagrams of a node; beyond, the one that was idle longest goes.
pub(crate) const SESSIONS: usize = 4096;
/// Datagrams of a client that wait for its session. Guess: 0.2 s of 5,000 a second.
pub(crate) const DATAGRAMS: usize = 1024;
/// What waits for the sessions of one listener, bytes. Guess: 2 s of 5,000 of the largest a second.
pub(crate) const WAITING_BYTES: usize = 16 * 1024 * 1024;
/// The largest datagram, bytes: what UDP carries.
pub(crate) const DATAGRAM: usize = 65_535;
/// What the kernel is asked to buffer for a UDP socket, bytes: 0.3 s of 5,000 datagrams of 1,400 a
/// second. It may give less (`net.core.rmem_max`).
pub(crate) const UDP_BUFFER: usize = 2 * 1024 * 1024;
/// Least idle time of a session. One that a row ends at once would carry no answer. Guess.
pub(crate) const IDLE_LEAST: Duration = Duration::from_millis(100);
/// Most idle time of a session: a clock cannot add every number of milliseconds. As for the brain.
pub(crate) const IDLE_MOST: Duration = Duration::from_secs(24 * 60 * 60);
/// Datagrams of a client that got no session are thrown away for so long: each of them would ask
/// all providers again. Guess.
pub(crate) const REFUSED: Duration = Duration::from_secs(1);
/// A large datagram must be on its way within this time, or its session ends.
pub(crate) const LARGE: Duration = Duration::from_secs(1);
