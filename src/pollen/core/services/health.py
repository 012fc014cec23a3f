"""How a program of a service is checked, and when it counts as failing.

Decides: what a check may be; after which results a provider counts as failing or healthy; what
    stands in the record for the others.
Does not know: time, sockets, who else serves the name.
Invariants: ``judged`` is pure: the same results in the same order give the same health. A target
    that comes and goes changes its mark less and less often. Where a program is, and which path is
    asked for, stand in no record.
Source: docs/design/services.md#health; https://docs.haproxy.org/3.0/configuration.html, 5.2
    (``fall 3 rise 2``); https://www.envoyproxy.io, outlier detection (an ejection lasts longer
    with each one before it).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from pollen.core.codec import U8, U64, Refusal, Rejection, decode, encode

TCP, HTTP = "tcp", "http:"
# Failures in a row after which a provider counts as failing, and successes after which it is
# healthy again. Source: https://docs.haproxy.org/3.0/configuration.html, 5.2 (fall, rise).
FALL = 3
RISE = 2
# A provider that fell again needs ``RISE`` successes for each fall, of so many falls at most; after
# so many successes in a row one fall is forgotten. Guess: with a check a second a target that
# flaps changes its mark twice in 23 s, and has a clean sheet after five minutes.
FALLS_MAX = 10
CALM = 30
# How often a program is checked, and how long it may take, in ms. Guess: as often as in Consul's
# examples; a second is what a program that logs each request still bears.
EVERY_MS = 10_000
EVERY_MIN_MS = 1_000
EVERY_MAX_MS = 3_600_000
TIMEOUT_MS = 2_000
TIMEOUT_MIN_MS = 100
# The longest path, and the longest reason in a record, in characters. Guess: a line of a terminal
# and a half.
_PATH_MAX = 256
REASON_MAX = 120


class State(IntEnum):
    """What is known of a program. ``UNKNOWN`` stands in no record."""

    UNKNOWN = 0
    HEALTHY = 1
    FAILING = 2

    @property
    def label(self) -> str:
        """The word that users read."""
        return self.name.lower()


class Check(msgspec.Struct, frozen=True, array_like=True):
    """How a program is checked: ``path`` is asked for by HTTP; without one it has to accept. Kept
    on disk as a part of its target. Fields are only appended."""

    path: str
    every_ms: int
    timeout_ms: int

    @property
    def text(self) -> str:
        """As a user writes it."""
        return f"{HTTP}{self.path}" if self.path else TCP


class Health(msgspec.Struct, frozen=True):
    """What the results came to. ``run``: results in a row that speak against the state, or of a
    healthy one for it (below 0). ``falls``: how often it fell lately."""

    state: State = State.UNKNOWN
    run: int = 0
    falls: int = 0

    @property
    def needed(self) -> int:
        """The results in a row that change the state."""
        if self.state is State.FAILING:
            return RISE * max(self.falls, 1)
        return FALL if self.state is State.HEALTHY else 1


def judged(health: Health, *, is_good: bool) -> Health:
    """The health after one more result."""
    if is_good == (health.state is State.HEALTHY) and health.state is not State.UNKNOWN:
        return _confirmed(health)
    run = max(health.run, 0) + 1
    if run < health.needed:
        return Health(health.state, run, health.falls)
    if is_good:
        return Health(State.HEALTHY, 0, health.falls)
    return Health(State.FAILING, 0, min(health.falls + 1, FALLS_MAX))


def _confirmed(health: Health) -> Health:
    """One more result says what is known; enough good ones in a row and a fall is forgotten."""
    if health.state is State.FAILING:
        return Health(health.state, 0, health.falls)
    run = min(health.run, 0) - 1
    if -run < CALM:
        return Health(health.state, run, health.falls)
    return Health(health.state, 0, max(health.falls - 1, 0))


def read_check(
    text: str, every_ms: int, timeout_ms: int, *, datagrams: bool
) -> Check | Refusal | None:
    """What a user means by ``tcp`` or ``http:/PATH``; 0 is the default of both times; None where
    nothing is to be checked."""
    if not text:
        if every_ms or timeout_ms:
            return Refusal(
                "usage", "there is no check whose times these are", "say which: --check tcp"
            )
        return None
    if datagrams:
        return Refusal(
            "usage",
            "a service of datagrams has nothing that a check could connect to",
            "leave --check out; what its node loses by itself is found: pln why service NAME",
        )
    path = ""
    if text != TCP:
        path = text.removeprefix(HTTP)
        if not text.startswith(HTTP) or not _is_path(path):
            return Refusal(
                "usage",
                f"{text[:80]!r} is not a check",
                "write tcp or http:/PATH: the path is asked for at the target itself",
            )
    return _timed(path, every_ms or EVERY_MS, timeout_ms)


def _timed(path: str, every_ms: int, timeout_ms: int) -> Check | Refusal:
    if not EVERY_MIN_MS <= every_ms <= EVERY_MAX_MS:
        return Refusal(
            "config-invalid",
            f"a check each {every_ms} ms is out of range",
            f"give --check-every from {EVERY_MIN_MS // 1_000}s to {EVERY_MAX_MS // 60_000}m",
        )
    timeout_ms = timeout_ms or min(TIMEOUT_MS, every_ms)
    if not TIMEOUT_MIN_MS <= timeout_ms <= every_ms:
        return Refusal(
            "config-invalid",
            f"a check may not take {timeout_ms} ms and come again after {every_ms} ms",
            f"give --check-timeout from {TIMEOUT_MIN_MS}ms to {every_ms}ms",
        )
    return Check(path, every_ms, timeout_ms)


def _is_path(path: str) -> bool:
    """A path on one line of a request, and not another host."""
    is_plain = path.isascii() and path.isprintable() and not set(path) & {" ", "#"}
    return is_plain and len(path) <= _PATH_MAX and path.startswith("/") and path[:2] != "//"


class HealthRecord(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a health record; its key is the name. Positional; fields are only appended.

    ``state``: a ``State``. ``since_unix_ms``: when it began. ``reason``: why it fails, empty
    otherwise.
    """

    state: U8
    since_unix_ms: U64
    reason: Annotated[str, msgspec.Meta(max_length=REASON_MAX)] = ""

    @property
    def label(self) -> str:
        """The word that users read."""
        return State(self.state).label

    @property
    def is_failing(self) -> bool:
        """Whether other providers are tried first."""
        return self.state == State.FAILING


def decode_health(payload: bytes) -> HealthRecord | Rejection:
    """What a record holds, when it obeys the rules: a state that nobody knows is none."""
    record = decode(HealthRecord, payload, "health-record")
    if isinstance(record, Rejection):
        return record
    if record.state not in (State.HEALTHY, State.FAILING):
        return Rejection("health-state", str(record.state))
    # It comes to the terminals of others.
    return record if record.reason.isprintable() else Rejection("health-reason")


def plain(reason: str) -> str:
    """A reason as it may stand in a record: one line of printable characters."""
    return "".join(c if c.isprintable() else "?" for c in reason[:REASON_MAX])


def record_of(state: State, since_unix_ms: int, reason: str) -> bytes:
    """The payload for the others."""
    told = plain(reason) if state is State.FAILING else ""
    return encode(HealthRecord(int(state), since_unix_ms, told))
