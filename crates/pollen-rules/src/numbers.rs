//! Every number that a rule and its caller, or the muscles and their model, share.
//!
//! The same stand in `pollen.core.rules.numbers` and `pollen.core.limits` with their provenance;
//! `tests/vectors/numbers.json` holds both. Times are `Duration`, or microseconds where the name
//! says so.

use std::time::Duration;

/// How long a call waits for a change of a row that lists no replica, or an old one.
pub const COLD: Duration = Duration::from_secs(10);
/// How long a call leaves a replica alone that had let its seed go, while the row stays as it is.
pub const ROW_AGAIN: Duration = Duration::from_millis(250);
/// How long a call waits for a link to a replica that is alive and not linked, or silent: longer than
/// [`LINK_IDLE_END`] and a dial.
pub const REACH: Duration = Duration::from_secs(10);
/// Retries of a call that names no number.
pub const RETRIES: u8 = 3;
/// Least time left that makes another attempt worth while.
pub const RETRY_MIN_BUDGET_US: u64 = 1_000;
/// How long a peer is left alone whose reply had a fullness of [`FULL`].
pub const SATURATED: Duration = Duration::from_millis(100);
/// The brain hears at most so often that a link to one peer is wanted.
pub const WANTED: Duration = Duration::from_secs(1);
/// Nested calls that may follow one another.
pub const HOPS: u8 = 16;
/// Calls of a whole tree.
pub const CALLS: u32 = 1_000;
/// Replicas that a row names at most.
pub const ROW_REPLICAS: usize = 16;
/// How long the id of a call that came over a link is remembered.
pub const SEEN: Duration = Duration::from_secs(60);

/// Parts and depth of a policy at most.
pub const POLICY_NODES: usize = 64;
/// See [`POLICY_NODES`].
pub const POLICY_DEPTH: usize = 16;
/// Running slots of one core, and how many of them may be fresh.
pub const SLOTS_A_CORE: u64 = 16;
/// See [`SLOTS_A_CORE`].
pub const FRESH_A_CORE: u64 = 4;
/// Calls that wait on one node at most.
pub const QUEUE_MAX: u64 = 16_384;
/// The fullness that a node reports when its queue is full as well.
pub const FULL: u8 = u8::MAX;
/// A seed whose calls run shorter passes those that burn.
pub const CALL_SHORT_US: u64 = 500;
/// Of a queue that stands for so long it is asked whether it grows.
pub const QUEUE_STANDING_US: u64 = 2_000_000;
/// A queue that comes back within so long was never gone.
pub const QUEUE_GAP_US: u64 = 500_000;
/// In a queue that grows a call waits for so long, or for half of what a call of its seed runs.
pub const QUEUE_WAIT_US: u64 = 50_000;
/// The patience with a queue whose calls wait long: 1.5 times their wait, at most this.
pub const QUEUE_STANDING_MAX_US: u64 = 5_000_000;
/// A backlog that was not higher than ever before for so long does not grow now.
pub const QUEUE_QUIET_US: u64 = 250_000;
/// A backlog that rises after it rested for half of its age, at most so long, begins again.
pub const QUEUE_REST_MAX_US: u64 = 30_000_000;
/// The step in which a backlog is compared with the one before.
pub const BURST_STEP_US: u64 = 1_000_000;
/// So many times more that wait than in the step before are a burst. An overload that is
/// judged, after 2 s, at most doubles within one.
pub const BURST_TIMES: u64 = 3;

/// Silence after which a link with calls under way is probed, and the time between such probes.
pub const SILENCE: Duration = Duration::from_millis(100);
/// Least time without a byte after a probe before calls are routed around a link.
pub const EJECT_FLOOR: Duration = Duration::from_millis(400);
/// That time is so many smoothed round trips and [`EJECT_EXTRA`].
pub const EJECT_TRIPS: u32 = 6;
/// See [`EJECT_TRIPS`].
pub const EJECT_EXTRA: Duration = Duration::from_millis(75);
/// A peer whose brain is silent for so long gets no new call.
pub const BRAIN_DRAIN: Duration = Duration::from_secs(15);
/// Time between probes of a link that is not suspected: carries the brain's age and keeps NATs open.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Without a packet for so long a connection ends by itself.
pub const LINK_IDLE_END: Duration = Duration::from_secs(8);
/// A handshake that nobody answers is given up.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Control frames that may wait for one link before a sender is refused.
pub const CONTROL_QUEUE: usize = 1024;
/// A duplicate link may finish its calls for so long.
pub const DUPLICATE_GRACE: Duration = Duration::from_secs(30);
/// Two looks so far apart must find a duplicate idle: until the peer has heard of the other link it
/// begins calls on this one, and replies take their time.
pub const DUPLICATE_LOOK: Duration = Duration::from_millis(500);
