//! Every number of the doors, with unit, effect and provenance.
//!
//! Decides: how much of the node a stranger may hold, and for how long.
//! Does not know: who is refused, or what is answered.
//! Invariants: how many connections there may be in all stands in `pollen_plane::files_of_strangers`.
//! Source: docs/decisions/a-head-is-judged-before-hyper.md; each number names its own.

use std::time::Duration;

/// Connections of one client address (IPv6: of one /64). A browser opens 6 and a pool of a proxy
/// seldom over 128. Guess.
pub(crate) const CONNECTIONS_OF_ADDRESS: usize = 256;
/// Of the connections, this part more is kept for addresses that hold fewer than
/// [`NEWCOMER`]: many addresses that fill the door do not lock out a client that comes later. Guess.
pub(crate) const NEWCOMERS_PART: usize = 8;
/// Connections that an address may hold and still count as a newcomer. What a browser opens.
pub(crate) const NEWCOMER: usize = 8;
/// Refused connections that stay open for a moment so that the answer is read before the reset.
pub(crate) const LINGERING: usize = 64;
/// How long a connection that was answered early is read on, so that its client sees the answer
/// and no reset. As nginx `lingering_timeout`, shortened. Guess.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are thrown away meanwhile: twice the largest input, so that a client whose body is a
/// little too large reads the answer instead of a broken pipe. Guess.
pub(crate) const LINGER_BYTES: usize = 8 << 20;

/// A client that says nothing is dropped; so long an idle connection is kept.
pub(crate) const FIRST_BYTE: Duration = Duration::from_secs(30);
/// From the first byte of a head to its last. A head is one packet, or a few. Guess.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request line. RFC 9112, 3: at least 8,000 octets.
pub(crate) const LINE_MAX: usize = 8 * 1024;
/// Bytes of a head, its request line included. Twice what Apache, nginx and node take. Guess.
pub(crate) const HEAD_MAX: usize = 64 * 1024;
/// Lines of a head behind the first. hyper's own limit; Apache takes 100 too.
pub(crate) const HEADERS_MAX: usize = 100;
/// What hyper may hold unread of one connection, bytes; hyper's own default. Over `HEAD_MAX`, so that it
/// never meets a head that it finds too large; with 128 KiB a body of 200 kB took twice its time.
pub(crate) const READ_MAX: usize = 400 * 1024;

/// A body that comes, and an answer that goes, is measured each so long.
pub(crate) const RATE_WINDOW: Duration = Duration::from_secs(5);
/// Bytes that must pass in a window: 1 KiB/s, a tenth of a modem.
pub(crate) const RATE_BYTES: u64 = 5 * 1024;
/// Bytes of a body or an answer that are not counted: with them a small call costs no look at the
/// account. 4,096 connections hold 64 MiB of such at most.
pub(crate) const FREE_BYTES: usize = 16 * 1024;
/// The account of bodies and answers at the TCP door, bytes: a quarter of the memory for guests
/// within these bounds. Guess.
pub(crate) const BYTES_LEAST: u64 = 32 << 20;
pub(crate) const BYTES_MOST: u64 = 128 << 20;
/// The part of the account that one address may hold; two of the largest bodies at least. Guess.
pub(crate) const BYTES_PART: usize = 4;
/// Size of the parts in which a body is kept until it is whole, bytes. Guess.
pub(crate) const PART: usize = 64 * 1024;
/// How long a body waits for room in the account, and then is refused as `overloaded`. Guess.
pub(crate) const BYTES_WAIT: Duration = Duration::from_secs(1);

/// Budget of an HTTP call that names none.
pub(crate) const DEFAULT_BUDGET: Duration = Duration::from_secs(30);
/// The longest that one may name, and that an upload of the owner takes.
pub(crate) const MAX_BUDGET: Duration = Duration::from_secs(3600);

/// The allocator is asked for its free pages when the account was so full and is empty again. Bytes.
/// After 210 hostile clients with 4 MiB each the process then has 78 MiB of 656, 72 before (measured).
/// Refused: a fixed `M_MMAP_THRESHOLD`, which lowers the peak by 200 MiB and doubles the time of a
/// call with 4 MiB by page faults.
pub(crate) const GIVE_BACK: usize = 8 << 20;

/// Chunks of one `pollen-call/1` connection that wait for its socket, bytes: the next ones wait with their
/// guests. A guess: it is more than a socket's buffer, so the socket never waits for what was written.
pub(crate) const CHUNKS_WAITING: usize = 1024 * 1024;
