"""The numbers of the muscles that their rules and their model obey.

Decides: nothing; it names them with unit, effect and provenance.
Does not know: who obeys one.
Invariants: integers only; the unit is in the name or said. ``pollen_rules::numbers`` holds the
    same; ``tests/vectors/numbers.json`` holds both.
Source: docs/design/protocol.md#calls and #liveness, docs/internals/seam.md#links; each entry says
    so, or says measured or guess.
"""

from __future__ import annotations

from pollen.core.ids import MILLISECOND, SECOND

# -- the caller ---------------------------------------------------------------------------------
# How long a call waits for a change of a row that lists no replica, or an old one. Raising it holds
# calls of a seed that nobody can host; lowering it refuses calls of a fresh one. Guess; measured
# against in docs/decisions/a-call-waits-for-a-fresh-seed.md.
COLD_NS = 10 * SECOND
# How long a call leaves a replica alone that had let its seed go, while the row stays as it is: two
# ticks of the tables and the way of a claim. Raising it holds callers up who missed that the seed
# was woken there again; lowering it asks hosts that only wait for their row. Source:
# docs/internals/seam.md.
ROW_AGAIN_NS = 250 * MILLISECOND
# How long a call waits for a link to a replica that is alive and not linked, or silent. Raising it
# lets callers wait for who does not come back; lowering it below the idle end of a link
# (``LINK_IDLE_END_NS``) and a dial fails calls whose link is replaced. Source:
# docs/decisions/a-silent-path.md#a-link-that-fell-silent.
REACH_NS = 10 * SECOND
# Retries of a call that names no number. Source: docs/internals/seam.md.
RETRIES = 3
# Below this remaining budget a retry cannot come back in time. Source: docs/internals/seam.md.
RETRY_MIN_BUDGET_US = 1_000
# How long a peer is left alone whose reply had a fullness of ``FULL``. Guess: a few calls' time.
SATURATED_NS = 100 * MILLISECOND
# The brain hears at most so often that a link to one peer is wanted. Guess.
WANTED_NS = SECOND
# Nested calls that may follow one another, and calls of a whole tree. Source:
# docs/design/protocol.md#calls.
HOPS = 16
CALLS = 1_000
# How long the id of a call that came over a link is remembered. Source:
# docs/design/protocol.md#calls.
SEEN_NS = 60 * SECOND

# -- the callee ---------------------------------------------------------------------------------
# Running slots of one core, and how many of them may be fresh. Source: measured
# (docs/decisions/few-fresh-calls-a-core.md).
SLOTS_A_CORE = 16
FRESH_A_CORE = 4
# Calls that wait on one node at most. Guess: each costs about 1 kB, and 10,000 suspended parents
# may each wait for a child.
QUEUE_MAX = 16_384
# The fullness that a node reports when its queue is full as well: the largest byte.
FULL = 255
# A seed whose calls run shorter passes those that burn. Source: measured
# (docs/decisions/few-fresh-calls-a-core.md).
CALL_SHORT_US = 500
# A queue for slots that stands for so long (gaps up to the second included) may be found to grow;
# then a call waits for the third, or for half of what a call of its seed runs. Source: measured
# (docs/decisions/few-fresh-calls-a-core.md); the first lets callers join for 1 s.
QUEUE_STANDING_US = 2_000_000
QUEUE_GAP_US = 500_000
QUEUE_WAIT_US = 50_000
# The patience with a queue whose calls wait long: one and a half times their wait, at most this.
# Raising it lets a larger loop be joined slowly, and an overload of twice what a node does last
# longer unseen.
# Source: docs/decisions/few-fresh-calls-a-core.md.
QUEUE_STANDING_MAX_US = 5_000_000
# A backlog that was not higher than ever before for so long does not grow now. A guess: an
# overload of 10 % of 100 calls a second rises ten times a second.
QUEUE_QUIET_US = 250_000
# A backlog that rises after it rested for half of its age, at most so long, begins again. Guess.
QUEUE_REST_MAX_US = 30_000_000
# So many times more that wait than in the step before are a burst, which waits in full. An overload
# that is judged, after 2 s, at most doubles within a step. Source:
# measured (docs/decisions/few-fresh-calls-a-core.md).
BURST_STEP_US = 1_000_000
BURST_TIMES = 3

# -- links --------------------------------------------------------------------------------------
# A link with calls under way is looked at so often. Source: docs/design/protocol.md#liveness.
SILENCE_NS = 100 * MILLISECOND
# The time without a byte after a probe at which a link is ejected: so many smoothed round trips and
# the second, but at least the third. Source: docs/design/protocol.md#liveness.
EJECT_TRIPS = 6
EJECT_EXTRA_NS = 75 * MILLISECOND
EJECT_FLOOR_NS = 400 * MILLISECOND
# The time between probes of a link that is not suspected. It keeps NATs open. Source:
# docs/internals/seam.md#links.
HEARTBEAT_NS = SECOND
# Without a packet for so long a connection ends by itself. Guess: several heartbeats.
LINK_IDLE_END_NS = 8 * SECOND
# A handshake that nobody answers is given up. Guess: three retransmissions.
HANDSHAKE_NS = 10 * SECOND
# Control frames that may wait for one link before a sender is refused. Guess.
CONTROL_QUEUE = 1_024
# A duplicate link may finish its calls for so long; two looks so far apart must find it idle.
# Guess: replies take their time.
DUPLICATE_GRACE_NS = 30 * SECOND
DUPLICATE_LOOK_NS = 500 * MILLISECOND
