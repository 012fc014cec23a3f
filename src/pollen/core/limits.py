"""The numbers that the core obeys, with their units and where they come from.

Decides: nothing; it names the limits so that docs, code and tests quote one place.
Does not know: who enforces a limit. The muscles keep their own copies of the wire limits;
``pollen.sizes`` has the sizes that the client obeys as well.
Invariants: integers only; the unit is in the name (``_NS``, ``_MS``, ``_US``, ``_BYTES``) or said.
Source: docs/design/protocol.md for most; an entry names it, or is marked measured or guess.
"""

from __future__ import annotations

from pollen.core.ids import DAY, HOUR, MILLISECOND, MINUTE, SECOND

# Close codes of a link: the peer sees the number. Source: docs/internals/seam.md#links.
CLOSE_NOT_A_MEMBER = 1
CLOSE_VERSION_MISMATCH = 2
CLOSE_DUPLICATE_LINK = 3
CLOSE_DENIED = 4
CLOSE_SHUTTING_DOWN = 5
CLOSE_PROTOCOL_ERROR = 6
CLOSE_IDLE = 7
CLOSE_TWIN = 8

# The minor versions of ``pollen/1`` that this code speaks. Source: docs/design/protocol.md#calls.
MINOR_MIN = 1
MINOR_MAX = 1

# -- records ------------------------------------------------------------------------------------
# The largest record body. Raising it lets one owner fill links faster. Source:
# docs/design/protocol.md#records.
RECORD_MAX_BYTES = 64 * 1024
# The longest key of a record within its kind. Guess: names have 63 bytes, hashes 32.
RECORD_KEY_MAX_BYTES = 255
# Records in one frame stay under this, so that a frame (1 MiB) holds them with its headers.
# Source: docs/internals/seam.md#links.
RECORDS_FRAME_BYTES = 768 * 1024
# What one owner may hold, by tier (leaf, publisher, admin) as (records, bytes). Raising it costs
# every node memory; lowering it freezes busy owners. Guess: a claim for each of 4,000 seeds; 4,000
# seeds of one publisher with small specs; twice that.
OWNER_CAPS = ((4_096, 2 << 20), (8_192, 32 << 20), (16_384, 64 << 20))
# The level of record kinds that this code speaks; a kind of a higher one waits for all live nodes.
# Source: docs/design/protocol.md#records.
SPEAKS = 1
# Sequence numbers that one write to disk allows. Raising it wastes more of them at a restart,
# lowering it writes more often. The number is a guess.
SEQ_BLOCK = 4_096
# The shortest time between two jumps to a new epoch: two live processes with one key would
# otherwise outbid each other as fast as their disks can write. Guess.
EPOCH_JUMP_NS = 5 * SECOND
# Bytes and items of one peer that wait to be looked at; what is over is dropped and found missing
# by the next digest. Raising it costs memory under a flood. Guess: the largest set of one owner.
INBOX_BYTES_MAX = 64 << 20
INBOX_ITEMS_MAX = 65_536
# Records that wait for a gap before them, of one owner and of all. Guess.
ASIDE_OWNER_MAX = 64
ASIDE_MAX = 4_096
# Owners of whom records but no certificate are known. A member that floods with made-up owners is
# stopped here; lowering it refuses owners whose certificate comes later. Guess.
STRANGERS_MAX = 1_024
# Decoded records that a process remembers by their bytes. 1,000 simulated nodes share them. Guess:
# 60 bodies of 1,000 nodes each; a real node holds fewer.
INTERNED_RECORDS = 65_536
# The largest epoch and sequence number. Source: docs/design/protocol.md#records (u32, u64).
EPOCH_MAX = (1 << 32) - 1
SEQ_MAX = (1 << 64) - 1
# Schema byte that this code writes and applies; higher ones are kept and forwarded unread. Source:
# docs/design/protocol.md#records.
SCHEMA = 1

# -- forgetting ---------------------------------------------------------------------------------
# How often a node looks for what may be forgotten, the first time after its start. Guess.
SWEEP_FIRST_NS = MINUTE
SWEEP_NS = 10 * MINUTE
# How old a tombstone of ours must be, and how many of them there must be, before the gc_version is
# raised. A peer that slept longer takes our whole set again; fewer are not worth signing our
# records again for. Guess.
TOMBSTONE_KEEP_NS = 6 * HOUR
TOMBSTONES_MIN = 64
# For how long this node must see others but not an owner before what does not last of that one is
# forgotten, and how long the proof of its version is kept then. Source:
# docs/design/protocol.md#deleting (a year); the first is a guess.
ABSENT_KEEP_NS = 30 * DAY
GRAVE_KEEP_NS = 365 * DAY
# Owners that are buried in one look, and rows up to which it notes who is absent: a share of 10 ms
# each. Guess.
BURIALS_MAX = 16
ABSENCES_MAX = 128
# Links that must tell of a grave before it is believed, all of them when there are fewer, and for
# how long each of them counts. The first as in ``QUORUM``; the second is a guess: many digests.
GRAVE_TELLERS = 3
GRAVE_TOLD_NS = 5 * MINUTE
# How often one peer is told of one grave, and how often we go to a new epoch because we were told
# of our own: lowering it lets a liar make us sign everything again more often. Guess.
GRAVE_TELL_NS = 30 * SECOND
GRAVE_JUMP_NS = 10 * MINUTE

# -- gossip -------------------------------------------------------------------------------------
# How often a node compares digests with one of its links, by chance. A root is 40 bytes; when it
# differs the buckets are 2 KiB and a line 70 bytes. Idle: 40 bytes / 5 s = 8 B/s. Busy, the worst
# case of a single link, both ways: 2 x (40 + 2,051 + 10 x 70) / 5 s = 1.1 kB/s; with n links a
# link's share is 1/n of that. Raising it heals later what pushes lost. Guess.
DIGEST_NS = 5 * SECOND
# Links that pushes go over, at least. Raising it costs a copy of every change on every node,
# lowering it lets one lost node cut others off until a digest. Guess: a random graph of degree 3
# is connected and loses nobody with one node.
EAGER_MIN = 3
# How often changes are announced on a few of the other links, and on how many. Raising the first
# heals a lost push later; raising the second costs 40 bytes a change each. Guess.
LAZY_NS = 200 * MILLISECOND
LAZY_FANOUT = 4
# How long an announced change may take to come by push before it is pulled. Guess: a push over
# three more links.
GRAFT_WAIT_NS = 150 * MILLISECOND
# How long a peer that was asked to stop pushing may take before it is asked again. Guess: a long
# path and a busy brain.
PRUNE_NS = 2 * SECOND
# A pull without an answer may be asked elsewhere after this. Guess: a long path, a large set.
PULL_NS = 10 * SECOND
# Owners that are pulled from one peer at a time, and records in one slice of an answer. Guess: a
# slice of 256 records takes well under 10 ms.
PULLS_MAX = 256
ANSWER_RECORDS = 256
# Owners described in one exchange of lines; the rest follows later. Guess: under 10 ms of work.
LINES_MAX = 1_024
# Owners that one peer may make us want at a time; what is over is named again by a later digest.
# Raising it costs memory under a lie, lowering it takes more digests to learn a large cluster.
# Guess: four exchanges of lines.
WANTED_MAX = 4_096
# A set that differs at an equal version is asked for whole at most so often, by owner and peer.
# Guess: a liar costs us one set in half a minute.
DOUBT_NS = 30 * SECOND

# -- specs --------------------------------------------------------------------------------------
# The longest encoded spec, and so the longest embedded ``previous``. Source:
# docs/design/protocol.md#names-and-specs.
SPEC_MAX_BYTES = 24 * 1024
# Nodes that a blob is sealed for, at most: each is some 100 bytes of its head, 9 of its spec, and
# 65 of the head of the upload, of which a door takes 64 KiB. Guess that more need no such gate.
RECIPIENTS_MAX = 500
# The longest function name, in bytes of UTF-8. Source: docs/design/protocol.md#names-and-specs.
FUNCTION_NAME_MAX_BYTES = 255

# -- calls --------------------------------------------------------------------------------------
# Replica ids in one route row, nearest first. Source: docs/design/protocol.md#tables. The numbers
# that only the muscles and their model obey are in ``rules.numbers``.
ROW_REPLICAS = 16

# -- tables -------------------------------------------------------------------------------------
# How long the muscles trust a push. Raising it routes longer on a dead brain's view; lowering it
# makes a busy brain look dead. Source: docs/design/protocol.md#tables.
TABLE_LEASE_MS = 15_000
# How often an unchanged table is renewed: three misses still leave the lease alive.
# Guess: a lease divided by that.
TABLE_RENEW_NS = 4 * SECOND
# The shortest time between two pushes that nothing urgent asks for. Source:
# docs/design/protocol.md#tables (10 Hz).
TABLE_PUSH_NS = 100 * MILLISECOND
# The price of a peer before its round-trip time is known, in microseconds. Guess: a home LAN.
PRICE_UNKNOWN_US = 1_000
# A price moves only past this hysteresis, in basis points. Source:
# docs/design/protocol.md#placement.
PRICE_HYSTERESIS_BP = 2_500

# -- links --------------------------------------------------------------------------------------
# First and longest wait before a peer is dialled again (half to one and a half of it by chance).
# Up to so many attempts the wait is bounded by the number of absent peers alone, so that a node
# dials about twice a second in all and the one cut between two halves is found within seconds of
# its healing; a peer that was absent longer costs a dial in half a minute. Guess.
REDIAL_FIRST_NS = 500 * MILLISECOND
REDIAL_SOON_NS = 2_500 * MILLISECOND
REDIAL_EACH_NS = 500 * MILLISECOND
REDIAL_SOON_ATTEMPTS = 60
REDIAL_MAX_NS = 30 * SECOND
# A dial without an answer is given up after this, should the muscles lose it. Guess.
DIAL_DEADLINE_NS = 20 * SECOND
# Members up to which everybody is linked with everybody. Raising it costs links (n squared) and
# probes; lowering it makes calls over links that must be dialled first. Guess.
FULL_MESH = 64
# How far a member reaches on each ring: four places both ways on the first are the eight neighbours
# that a view guarantees; the others are shortcuts by chance, at least a quarter of any view.
# Source: docs/design/protocol.md#liveness (eight watchers).
RING_REACH = (4, 1, 1)
# A view has 2 log2(members) links and these. Source: docs/internals/liveness.md#links.
VIEW_EXTRA = 4
# How often near neighbours are looked for, among so many drawn by chance, and how much nearer (as
# a part of the old distance) a newcomer must be. Guess: slow churn.
NEAR_LOOK_NS = 10 * SECOND
NEAR_DRAWN = 48
NEAR_HYSTERESIS_BP = 7_500
# A link that nobody wants is closed when it moved less than this between two telemetries for so
# long. Probes and keep-alives move about 100 bytes in that time. Guess.
LINK_IDLE_BYTES = 1_024
LINK_IDLE_NS = MINUTE
# Links below which a member of a large cluster dials anybody. Source:
# docs/design/protocol.md#liveness.
VIEW_MIN = 8
# Unlinked peers that a node without enough links dials each half second, by chance. Guess.
EXPLORE_DIALS = 4
# How often a member of a large cluster dials one remembered peer by chance that nobody here thinks
# alive: the other half of a partition is found by it. Guess: 1,000 nodes make 200 dials a second.
REACH_OUT_NS = 5 * SECOND
# Peers remembered on disk. Source: docs/internals/liveness.md#links.
KNOWN_PEERS_MAX = 4_096
# Addresses remembered for one peer. Guess: interfaces x families.
PEER_ADDRESSES_MAX = 16
# Boot ids remembered for one peer, to tell a twin from a restart. Guess.
BOOTS_REMEMBERED = 4

# How long a key that showed two live copies is warned of. They show again within seconds. Guess.
TWIN_TOLD_NS = MINUTE

# How long a node warns that a peer lets it in no more. A peer is dialled again every half minute,
# so one that goes on refusing is told of without end. Guess.
SHUT_OUT_TOLD_NS = 2 * MINUTE

# -- liveness -----------------------------------------------------------------------------------
# How long a link may be silent before we accuse its peer, with three smoothed round trips on top
# and times the local health multiplier. A live peer is heard every second, so this is one lost
# heartbeat and half a heartbeat of room. Source: tests/unit/peers/test_liveness_model.py.
SUSPICION_NS = 1_500 * MILLISECOND
# The longest patience, whatever a node thinks of itself. Guess: ten times the shortest.
SUSPICION_MAX_NS = 15 * SECOND
# Accusers that make a death. Raising it costs small clusters nothing and delays verdicts in large
# ones; lowering it lets two confused nodes kill. Source: docs/design/protocol.md#liveness.
QUORUM = 3
# Accusations that are published at all: a quorum, and as many that may die with their accuser.
# Guess: twice QUORUM.
ACCUSERS_WANTED = 6
# How long an accusation stands alone before it is confirmed. Guess: twice what a refutation takes
# to come round at 300 ms of jitter.
CONFIRM_NS = 2 * SECOND
# How long a death is doubted before it is acted upon; the second for a peer whose packets arrive
# here, so that a brain that stalls for 1.5 s can still refute. Guess;
# docs/internals/liveness.md#measured.
GRACE_NS = 400 * MILLISECOND
GRACE_HEARD_NS = 2 * SECOND
# How long a peer that was never linked in this run may be silent. Guess: a dial or two.
UNMET_NS = 5 * SECOND
# More than half of the links silent for this long: we are cut off, not they. Above one heartbeat.
# For how long that is remembered, and how many times longer we are patient then. Guess.
LONELY_SILENT_NS = 1_100 * MILLISECOND
LONELY_WITHIN_NS = 30 * SECOND
LONELY_FACTOR = 3
# The local health multiplier is 1 + strain; a stall or an accusation adds one, calm takes one off.
# Source: Lifeguard (maximum 8).
STRAIN_MAX = 7
STRAIN_EASE_NS = 10 * SECOND
# Waits before somebody that refuted us is accused again, doubled each time: it lives, and our path
# to it does not. Guess; the caps bound the records that a broken path costs for ever.
QUIET_FIRST_NS = 2 * SECOND
QUIET_MET_MAX_NS = 30 * SECOND
QUIET_UNMET_MAX_NS = 5 * MINUTE
# The age of a peer's brain from which nothing new is placed there. Source:
# docs/design/protocol.md#liveness.
BRAIN_DRAIN_MS = 15_000
# Starts within the window that no good end followed and that make a node unfit to host, and for how
# long. Guess: a crash loop under a supervisor restarts every few seconds.
RESTARTS_QUARANTINE = 5
RESTARTS_WITHIN_NS = 10 * MINUTE
# A gap between events, or between the two clocks, that means that we did not run. The driver feeds
# an event every half second. Source: docs/internals/liveness.md#the-watcher.
STALL_NS = 1_200 * MILLISECOND
CLOCK_STEP_NS = SECOND
# How far two right clocks may differ. Source: the clock skew of Kerberos (RFC 4120: 5 minutes).
CLOCK_TOLERANCE_NS = 5 * MINUTE
# How long a member's clock is remembered, and of how many members. Guess: several rounds of
# digests; a quorum of 64 is as hard to forge as one of all.
CLOCK_FRESH_NS = 10 * MINUTE
CLOCK_VOTERS_MAX = 64

# -- coordinates --------------------------------------------------------------------------------
# The edge of the map; a coordinate beyond it is a lie. Guess: no round trip on Earth takes 30 s.
COORDINATE_MAX_US = 30_000_000
# The farthest that one sample moves a node. Guess: a tenth of the edge would be half the Earth.
COORDINATE_STEP_US = 100_000
# The least height: access links of one LAN. Source: Vivaldi 5.4 (a height is positive); guess.
COORDINATE_HEIGHT_MIN_US = 50
# The error, in parts of a thousand, above which a place prices nothing. Guess: half.
COORDINATE_ERROR_MAX = 500
# A place is told again when it moved by this and by a quarter of the usual round trip. Guess: a
# millisecond changes no choice of a replica between sites.
COORDINATE_MOVE_MIN_US = 1_000

# -- discovery ----------------------------------------------------------------------------------
# The largest datagram, and how many leave a strategy a second and at once. Source:
# docs/internals/discovery.md.
DATAGRAM_MAX_BYTES = 2_048
DATAGRAM_RATE = 32
DATAGRAM_BURST = 8
# Prepared answers, by the asker's nonce. Guess: askers of one LAN after a power cut.
ANSWERS_CACHED = 64
# The first wait of a survey, how much farther each next one reaches (a step doubles those who
# answer), and the longest wait once everybody is asked. Guess.
SURVEY_FIRST_NS = 500 * MILLISECOND
SURVEY_STEP = 1
SURVEY_MAX_NS = 15 * SECOND
# Without a reachable peer for so long multicast starts by itself. Source:
# docs/internals/discovery.md.
ALONE_NS = 30 * SECOND
# How long an advertisement lasts; renewed at half of it. Guess: an address that is gone misleads
# for minutes, not for hours.
ADVERTISE_NS = 10 * MINUTE
# Peers that a search wants. Guess: one is enough, and two of three may be out of date.
FIND_LIMIT = 3
# Peers that are tried at an address whose owner is not known. Guess: the remembered peers of one
# home.
ANYBODY_DIALS = 32

# -- placement ----------------------------------------------------------------------------------
# The plan that this code makes, and the oldest one it can still make. Source:
# docs/design/protocol.md#placement.
PLAN_VERSION = 1
PLAN_VERSION_MIN = 1
# A seed's load grows its replicas past the first share of their slots, and shrinks them when one
# less would stay under the second, in basis points. Closer together they flap. Guess.
GROW_BP = 7_500
SHRINK_BP = 3_500
# An incumbent's bid is divided by 2**n, that of a node where calls begin as well. Raising the
# first keeps replicas where they are though better places appear; lowering it moves them for
# noise: 2 outlasts one step of any bucket. Guess.
INCUMBENT_SHIFT = 2
ORIGIN_SHIFT = 1
# A node's weight is at most so many MiB: one huge machine does not take everything. Guess.
WEIGHT_MAX_MIB = 1 << 16
# A node tells its fast values at most so often, and a value only when it moved by more than this
# since it was told, in basis points. Source: docs/design/protocol.md#placement.
FAST_TICK_NS = 2 * SECOND
FAST_HYSTERESIS_BP = 2_500
# Seeds in a node's demand. Source: docs/design/protocol.md#placement.
DEMAND_SEEDS = 32
# A rate that fell moves by the share of this time that passed. Raising it keeps replicas longer
# after a burst; lowering it moves them for a pause. Guess.
DEMAND_DECAY_NS = 30 * SECOND
# A seed without a call for so long is in no demand: the default of the setting ``idle_ms``, and its
# least value. Source: docs/design/cli.md#seeding; below the least, telemetry and its tick are
# coarser.
DEMAND_KEEP_NS = 5 * MINUTE
DEMAND_KEEP_MIN_NS = SECOND
# How long a seed that a call woke stays without demand: the caller's node tells it within a tick of
# its counters and one of FAST_TICK_NS. Lowering it drains what was just woken. Guess: twice that.
WOKEN_STAY_NS = 6 * SECOND
# Ranks that a cold seed's row lists. Source: docs/design/protocol.md#placement.
WAKE_RANKS = 3
# Ranks kept beyond those in use, so that a death seldom ranks a seed again. Guess.
RANKS_SPARE = 5
# Rankings remembered by what they follow from: the simulator's nodes share them. Guess: 4 MB.
RANKINGS_REMEMBERED = 4_096
# Pairs of seed and node that one slice of planning looks at: about 2 ms. Measured: 1-4 us each.
PLAN_SLICE_PAIRS = 500
# The same when a turn follows what its own claims changed: the rest goes to the next turn. Guess:
# under a millisecond.
PLAN_FOLLOW_PAIRS = 100
# Payloads of one kind whose decoded form is remembered: many nodes of one process read the same
# record, and a node reads some of them more than once. Guess.
DECODED_REMEMBERED = 4_096
# Seeds whose hosting and row one slice brings up to date: about 3 ms. Measured: 15-20 us each.
PLACE_SLICE_SEEDS = 100
# How often one turn follows what its own claims change in the plan; the rest goes to the next.
# Guess: a claim, the drain that it allows, and the row that follows.
PLACE_ROUNDS = 3
# Length of a hash, and so of a claim's key. Source: docs/design/protocol.md#encoding.
HASH_BYTES = 32
# A seed that did not load within this is refused by its host. Raising it lets a slow host hold a
# rank; lowering it refuses large modules on slow links. Guess: 64 MiB at 8 Mbit/s, and compiling.
LOAD_DEADLINE_NS = 2 * MINUTE
# The others skip an overdue host only after this: its own brain speaks first, clocks differ. Guess.
OVERDUE_GRACE_NS = 10 * SECOND
# A version is halted when so many nodes, or this share (bp) of those that tried, found it at fault.
# Source: docs/design/protocol.md#placement.
HALT_FAULTS = 2
HALT_SHARE_BP = 2_500
# A replaced version's successor is at fault where the guest failed so many calls of members and
# none ended well. Guess: one caller's bad input is not a verdict.
FAULT_CALLS = 5
# How long others were enough before a replica drains: lowering it drains into a host that is about
# to die. Source: docs/design/protocol.md#placement (one suspicion period).
DRAIN_HOLD_NS = 3 * SECOND
# How long a new version must have served before the old one, which could take over, drains. Guess.
ROLLOUT_TRIAL_NS = 10 * SECOND
# The longest reason in a claim. Guess: one line.
REASON_MAX_CHARS = 200
# How long ``down`` waits for its seeds to find other hosts. Guess: a load and a spread.
DRAIN_MAX_NS = 4 * SECOND
# How long nobody copies blobs of a node that said that it leaves: longer leaves fewer copies,
# shorter moves gigabytes for an upgrade. Guess: a reboot with updates.
REPAIR_DELAY_NS = 10 * MINUTE
# For so long after its first link a run hears what the others hold before it fetches a blob, and
# for so long at most: sooner it copies what has its copies, later a repair waits. Guess: a digest's
# answers and a probe over slow lines.
HEAR_NS = 2 * SECOND
HEAR_MAX_NS = 10 * SECOND
# Wait before a failed fetch is tried again; doubled up to the cap. The first is short: a holder
# refuses a fetcher whose node record it has not read yet. Guess.
LOAD_RETRY_FIRST_NS = 100 * MILLISECOND
LOAD_RETRY_MAX_NS = 30 * SECOND
# A blob that found no room is tried again when there is room, and not sooner than this. Lowering it
# says more about a disk that is nearly full. Guess.
ROOM_AGAIN_NS = 10 * SECOND
# How long a refusal for a reason of our own (memory, engine) stands before another try. Guess.
REFUSED_NS = 5 * MINUTE
# The longest that the check of a new replica may take; the seed's time-out where that is less.
# Raising it lets a host that hangs hold a rank; lowering it refuses slow starts. Guess.
CHECK_MS = 5_000
# Wait before a replica whose check failed is tried again; doubled with each failure up to
# REFUSED_NS. Raising it delays a replica whose neighbour was not up yet; lowering it loads and
# calls a broken version more often. Guess.
CHECK_RETRY_FIRST_NS = 2 * SECOND
# How much of the output of a call that the brain began comes back to it. Guess: a page of text.
OWN_OUTPUT_MAX_BYTES = 4 * 1024
# How long a drain waits for others to see the claims. Guess: a spread over every link and a push.
DRAIN_SETTLE_NS = 300 * MILLISECOND

# -- trust --------------------------------------------------------------------------------------
# The longest chain in a Hello, and the largest join body. Source: docs/internals/seam.md#links.
CHAIN_MAX_BYTES = 64 * 1024
JOIN_MAX_BYTES = 64 * 1024
# The properties of one certificate, as JSON text. Guess: far above any use, far below the chain.
PROPERTIES_MAX_BYTES = 4 * 1024
# A policy: bytes of text, parts and depth of its tree. A call of its seed pays for them. Guess.
POLICY_BYTES, POLICY_NODES, POLICY_DEPTH = 1024, 64, 16
# Certificates in one chain: root -> admin -> publisher -> node with room. Guess.
CHAIN_MAX_CERTIFICATES = 8
# Chains that a node remembers as verified: one for each peer and one that it showed before. A lower
# number checks signatures again; a higher one costs about 2 kB an entry. Guess.
CHAINS_JUDGED_MAX = 8_192
# Successions that are kept until the root that they name is known. Guess: none in peace.
UNPROVEN_MAX = 64
# Default and longest life of a lease, and the shortest. Raising it lets a denied node that hides in
# a partition live longer there; lowering it ends the membership of machines that sleep for long
# until they ask again. Source: docs/design/protocol.md#trust; the bounds are a guess.
LEASE_NS = 30 * DAY
LEASE_MAX_NS = 365 * DAY
LEASE_MIN_NS = 10 * MINUTE
# What a denied admin signed is good for others this much longer, so that the rest of the admins can
# sign again before anybody falls. Source: docs/decisions/leases-of-a-denied-admin.md; a guess.
LEASE_GRACE_NS = 10 * MINUTE
# An admin takes back a lease of its own that ended so long ago: its member left for ever. Guess.
LEASE_KEEP_NS = 30 * DAY
# Admin of rank k renews this share of the lease's length, times k, after its half life; at most the
# cap. Raising it delays renewal when the first ranks are gone; lowering it signs twice. Guess.
LEASE_RANK_SHARE = 32
LEASE_RANK_MAX_NS = 60 * MINUTE
# Leases that one turn signs: a signature takes about 50 microseconds. Guess: far under 10 ms.
LEASES_A_TURN = 16
# The longest a node sleeps towards the next end of a membership. Guess: a timer of weeks is of no
# use on a machine that is suspended meanwhile.
STANDING_WAKE_MAX_NS = 60 * MINUTE
# How often an admin looks again at a member that is past half life and not to be seen. Guess.
LEASE_RECHECK_NS = 10 * MINUTE
# The largest generation of certificates and denies: whom a deny of it kills stays out. Source:
# docs/design/protocol.md#trust.
DENY_GENERATION_MAX = (1 << 32) - 2
# Denies of one key that a later one names; at the cap the key stays out. Guess: one a week, a year.
DENIES_NAMED_MAX = 64
# The longest reason in a deny. Guess: two lines of a terminal.
DENY_REASON_MAX_CHARS = 160
# The longest detail of an act. Guess: a line of a terminal and its properties.
ACT_DETAIL_MAX_CHARS = 500
# How long an administrative act is kept. Source: docs/design/protocol.md#grants-and-denies.
ACT_KEEP_NS = 365 * DAY
# Successions that are followed from the first root. Guess: a root is changed a few times, ever.
SUCCESSIONS_MAX = 8
# Default and longest life of an invite. Source: docs/design/cli.md#starting-and-joining; the cap is
# a guess.
INVITE_TTL_NS = 5 * MINUTE
INVITE_TTL_MAX_NS = 365 * DAY
INVITE_NONCE_BYTES = 16
# A used nonce is remembered this long after its invite expired, so that a repeated request of the
# same joiner is still answered alike. Guess.
NONCE_KEEP_NS = DAY
# First and longest wait between two questions of a member whose lease ran out, and how long the
# muscles wait for an answer. Guess: as for dialling.
ASK_LEASE_FIRST_NS = SECOND
ASK_LEASE_MAX_NS = MINUTE
ASK_JOIN_MS = 20_000
# Requests of joiners that wait here for another node's answer, and for how long. Guess: joins are
# rare; the joiner's own patience is 20 s.
CARRIED_MAX = 64
CARRY_WAIT_NS = 10 * SECOND
# What a node does for admins at once, and how long it may take. Guess: loads are made by hand; an
# hour is the longest that `pln load` takes, and its calls end within a minute.
ADMIN_RUNS_MAX = 4
ADMIN_WAIT_MAX_MS = 3_720_000
ADMIN_ARGS_MAX_BYTES = 1024 * 1024 - 4096
# The longest token text that is looked at. Guess: the longest chain within a token, twice over.
TOKEN_MAX_CHARS = 16 * 1024

# -- work ---------------------------------------------------------------------------------------
# What one turn may spend on long work; a unit is about a microsecond of a slow machine (a
# Raspberry Pi). Raising it makes turns longer, lowering it makes long work take more turns.
# Source: docs/design/protocol.md#turns (10 ms; two thirds for what follows from the work).
WORK_SLICE_UNITS = 3_500

# -- the node itself ----------------------------------------------------------------------------
# The longest node name, in characters. Source: docs/design/protocol.md#names-and-specs.
NODE_NAME_MAX = 63
# How often a rejection of one kind is written to the log; all are counted. Guess.
REJECTION_LOG_NS = 10 * SECOND
# Addresses that a node publishes for itself. Guess: interfaces x families.
OWN_ADDRESSES_MAX = 16
# Smallest step by which the remembered wall clock moves on disk. Guess: one write an hour.
WALL_SAVE_NS = 60 * MINUTE

# -- waits of users -----------------------------------------------------------------------------
# How many commands may wait for seeds at a node. Guess: every terminal of a team, many times over.
WAITS_MAX = 1_024
# How long one may wait at the most. Guess: a compile of the largest module, ten times over.
WAIT_MAX_NS = 10 * MINUTE
# After so long a seed that nobody is to host yet is taken for one that waits to be called.
# Guess: two rounds of placement.
WAIT_LOOK_NS = 500 * MILLISECOND
