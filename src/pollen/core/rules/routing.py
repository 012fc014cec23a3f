"""The reference of the rules that the muscles run call by call, those that are functions.

Decides: for one call: where it goes, whether it is retried, whether its caller may pass, whether
    it runs now, which queued call is refused, and what a child call inherits.
Does not know: tables, links or time; each function sees its arguments only.
Invariants: total over its inputs; integers only; the same cases in ``tests/vectors/routing_*.json``
    are run by the Rust side. Sums and products saturate at 2**64 - 1.
Source: docs/internals/seam.md#the-rules-of-a-request; docs/design/protocol.md#calls. Power of
    two choices: Mitzenmacher 2001. Refused: least-loaded of all, which herds on a stale view.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from decimal import Decimal

import msgspec

from pollen.core.rules import numbers

U64_MAX = (1 << 64) - 1
I64_MIN = -(1 << 63)

_PLACE_SLUGS = frozenset({"unreachable", "overloaded"})


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One replica as the chooser sees it, nearest first in its list."""

    price_us: int
    in_flight: int
    service_us: int
    ejected: bool = False
    saturated: bool = False
    tried: bool = False


class Retry(enum.Enum):
    """What becomes of a failed attempt."""

    ELSEWHERE = "elsewhere"
    GIVE_UP = "give-up"


class Admission(enum.Enum):
    """What becomes of an arriving call."""

    RUN = "run"
    QUEUE = "queue"
    SHED = "shed"
    OVERLOADED = "overloaded"
    DUPLICATE = "duplicate"


class Wake(enum.Enum):
    """What becomes of a call at a host that may not have its seed loaded."""

    READY = "ready"
    LOAD = "load"
    JOIN = "join"
    SILENT = "silent"
    OVERLOADED = "overloaded"
    REFUSE = "refuse"


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a child call inherits. Its parent waits and has no calls left meanwhile."""

    hops: int
    calls: int
    retries: int


def choose(candidates: Sequence[Candidate], draw: int, *, wake: bool = False) -> int | None:
    """The index of the replica to try, or None when none is left.

    The nearest competes with one drawn from the others; the lower cost wins, the nearest on a tie.
    With ``wake`` the candidates are ranks in their order, and the first that is left is taken:
    callers on many nodes then wake the same one.
    """
    usable = [i for i, c in enumerate(candidates) if not (c.ejected or c.saturated or c.tried)]
    if not usable:
        return None
    nearest = usable[0]
    if wake or len(usable) == 1:
        return nearest
    other = usable[1 + draw % (len(usable) - 1)]
    return other if cost_of(candidates[other]) < cost_of(candidates[nearest]) else nearest


def cost_of(candidate: Candidate) -> int:
    """price_us + (in_flight + 1) x service_us, saturating."""
    waiting = min((candidate.in_flight + 1) * candidate.service_us, U64_MAX)
    return min(candidate.price_us + waiting, U64_MAX)


def classify_retry(
    *,
    slug: str,
    may_have_executed: bool,
    idempotent: bool,
    remote: bool,
    retries: int,
    budget_us: int,
) -> Retry:
    """Whether a failed attempt is tried elsewhere (docs/design/protocol.md#calls).

    ``remote``: another host answered, so that its ``seed-not-found`` speaks of that place only.
    """
    if retries <= 0 or budget_us < numbers.RETRY_MIN_BUDGET_US:
        return Retry.GIVE_UP
    if may_have_executed:
        return Retry.ELSEWHERE if idempotent and slug == "unreachable" else Retry.GIVE_UP
    if slug in _PLACE_SLUGS or (remote and slug == "seed-not-found"):
        return Retry.ELSEWHERE
    return Retry.GIVE_UP


def match_gate(pairs: Sequence[tuple[str, str]], properties: str) -> bool:
    """Whether a caller with these properties (a JSON object) may pass.

    No pair: open. Every key must match; values of one key are alternatives. Text that is not JSON
    object matches nothing.
    """
    if not pairs:
        return True
    try:
        held: object = msgspec.json.decode(properties)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False
    keys = dict.fromkeys(key for key, _ in pairs)
    return all(any(_holds(held, key, value) for k, value in pairs if k == key) for key in keys)


def _holds(properties: object, key: str, value: str) -> bool:
    found = properties
    for step in key.split("."):
        if not isinstance(found, dict) or step not in found:
            return False
        found = found[step]
    if isinstance(found, list):
        return any(canonical_text(item) == value for item in found)
    return canonical_text(found) == value


def canonical_text(value: object) -> str | None:
    """The text a gate compares: None for null, objects and lists, which match nothing.

    Integers in decimal; other numbers in the shortest decimal that reads back as the same
    double, without exponent and without a trailing ``.0``; integers outside 64 bits as doubles.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and I64_MIN <= value <= U64_MAX:
        return str(value)
    if isinstance(value, int | float):
        text = format(Decimal(repr(float(value))), "f").removesuffix(".0")
        return "0" if text == "-0" else text
    return None


def admit(
    *,
    running: int,
    slots: int,
    fresh: int,
    fresh_slots: int,
    service_us: int,
    queued: int,
    queue_limit: int,
    depth: int,
    memory_free: int,
    memory_reserve: int,
    memory_need: int,
    tree_free: int,
    tree_need: int,
    under_way: int,
    seen: bool,
) -> Admission:
    """Whether an arriving call runs, waits or is refused.

    The reserve is for calls with depth > 0 only, so that a chain begun can end
    (docs/design/protocol.md#calls). Such a
    call never waits for memory: its caller keeps some until it has ended. A call at depth 0 waits
    until the memory that its tree was seen to need is not promised to those under way. When none
    is, it starts whatever its tree needs, and is refused if its own guest does not fit.
    ``fresh``: those running that have not burned for long yet; calls of a short seed neither count
    there nor wait for them (multilevel feedback: Corbató et al., "An Experimental Time-Sharing
    System", 1962).
    """
    if seen:
        return Admission.DUPLICATE
    usable = memory_free if depth > 0 else max(0, memory_free - memory_reserve)
    is_short = memory_need > usable
    if is_short and (depth > 0 or under_way == 0):
        return Admission.OVERLOADED
    is_promised = depth == 0 and under_way > 0 and tree_need > tree_free
    is_free = has_slot(
        running=running, slots=slots, fresh=fresh, fresh_slots=fresh_slots, service_us=service_us
    )
    if is_free and not is_short and not is_promised:
        return Admission.RUN
    return Admission.QUEUE if queued < queue_limit else Admission.SHED


def has_slot(*, running: int, slots: int, fresh: int, fresh_slots: int, service_us: int) -> bool:
    """Whether a call takes a slot at once: at its arrival, and at the head of the queue."""
    return running < slots and (service_us < numbers.CALL_SHORT_US or fresh < fresh_slots)


def fullness(
    *, running: int, slots: int, fresh: int, fresh_slots: int, queued: int, queue_limit: int
) -> int:
    """How full a node is, as its replies report it: 0 idle, 127 all slots taken, 255 the queue is
    full too.
    """

    def part(taken: int, of: int) -> int:
        return min(taken, of) * 127 // max(of, 1)

    filled = max(part(running, slots), part(fresh, fresh_slots)) + part(queued, queue_limit)
    return numbers.FULL if filled >= 2 * 127 else filled


def admit_wake(
    *,
    asked: bool,
    ready: bool,
    rank: bool,
    leased: bool,
    loading: bool,
    memory_free: int,
    memory_need: int,
) -> Wake:
    """Whether an arriving call finds its seed, loads it, or waits for a load under way.

    ``asked``: it is marked ``wake``. ``rank``: this node's own row lists it among those to wake, or
    as a replica still.
    ``memory_need``: the limit of one instance, as the brain asks for before it loads.
    """
    if ready:
        return Wake.READY
    if not (asked and rank):
        return Wake.REFUSE
    if not leased:
        return Wake.SILENT
    if loading:
        return Wake.JOIN
    return Wake.OVERLOADED if memory_need > memory_free else Wake.LOAD


def shed(queued_us: Sequence[int], newcomer_us: int, wait_us: int) -> int | None:
    """Which call a full queue refuses: an index into the queue, or None for the newcomer.

    A call whose budget is below the expected wait goes first, the smallest budget of these; the
    older queue place wins a tie among queued calls, and the newcomer loses one.
    """
    victim: int | None = None
    smallest = newcomer_us
    for i, budget in enumerate(queued_us):
        if budget < wait_us and budget < smallest:
            victim, smallest = i, budget
    return victim


def is_late(
    *,
    waited_us: int,
    standing_us: int,
    quiet_us: int,
    backlog: int,
    backlog_before: int,
    service_us: int,
    depth: int,
) -> bool:
    """Whether a call that comes to the head of the queue is refused after all.

    A burst waits in full. ``backlog``: the calls that came since there is a queue and were not
    served, those waiting and those refused; ``backlog_before``: the same after a half to a quarter
    of that time. Callers who each wait for their answer leave it as it is, and all are served:
    it is ``quiet_us`` since it was last higher than ever before. While they join it rises; who
    waits long in it shows that there are many, and has more patience.
    Calls that come faster than they are served double it with the time: there everybody would wait
    for all those before, and nobody be served in time (Nichols and Jacobson, "Controlling Queue
    Delay", 2012). ``service_us``: what a call of its seed runs.
    """
    most, least = numbers.QUEUE_STANDING_MAX_US, numbers.QUEUE_STANDING_US
    patience = max(least, min(3 * waited_us // 2, most))
    grows = quiet_us < numbers.QUEUE_QUIET_US and 2 * backlog > 3 * backlog_before
    if depth > 0 or standing_us < patience or not grows:
        return False
    return waited_us > max(numbers.QUEUE_WAIT_US, service_us // 2)


def split(*, hops: int, calls_left: int, retries: int) -> Share | str:
    """What a child call gets, or the slug of the limit that forbids it.

    The child costs one hop and one call, and gets all the rest: a guest makes one call at a time,
    and what the child did not use comes back with its reply.
    """
    if hops <= 0:
        return "hop-limit"
    if calls_left <= 0:
        return "call-limit"
    return Share(hops=hops - 1, calls=calls_left - 1, retries=retries)
