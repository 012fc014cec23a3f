"""What came of a call, as both clients say it: a reply, or the typed error.

Decides: the words for a node that is not there, goes away or is silent, and how long it may be.
Does not know: connections; ``client`` and ``blocking`` have one each.
Source: docs/guide/call-it.md.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pollen.errors import (
    BadRequest,
    CallError,
    DeadlineExceeded,
    GuestError,
    PollenError,
    Unreachable,
)
from pollen.paths import Paths
from pollen.sdk import door
from pollen.sdk.control import not_ours

# How long past a call's own time-out a client waits for the node to say so, seconds: at most, and
# for a time-out of nothing. Guesses: a busy node answers in milliseconds, a loaded machine later.
GRACE = 2.0
GRACE_LEAST = 0.25


def grace(timeout: float) -> float:
    """How long to wait past a time-out: who asks for little does not wait for long."""
    return min(GRACE, GRACE_LEAST + timeout)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a call brought back.

    ``node`` is the hex id of where it ran; ``elapsed``, ``queue``, ``run`` and ``rtt`` are seconds
    as the node measured them (``rtt`` 0.0 when it ran on the nearest node itself). ``wake`` is how
    long it took until a seed that ran nowhere was loaded for the call, 0.0 when it was loaded.
    """

    data: bytes
    node: str
    attempts: int
    elapsed: float
    queue: float
    run: float
    rtt: float
    wake: float = 0.0

    @property
    def text(self) -> str:
        """The data as UTF-8; raises ``UnicodeDecodeError``."""
        return self.data.decode()

    def json(self) -> Any:
        """The data as JSON; raises ``ValueError`` with what the data is when it is none."""
        try:
            return msgspec.json.decode(self.data)
        except msgspec.DecodeError as error:
            raise ValueError(f"the output is not JSON ({error}): {self.data[:60]!r}") from None


def reply(answer: door.Answer) -> Reply:
    """The reply, or the typed error that the answer is."""
    if isinstance(answer, door.Failed):
        raise answer.error()
    node = answer.node.hex()
    if answer.guest_status is not None:
        error = GuestError(
            "guest-status",
            f"the function returned the code {answer.guest_status}",
            "see pln logs on the node that ran it",
            node=node,
            attempts=answer.attempts,
        )
        error.output, error.status = answer.output, answer.guest_status
        raise error
    return Reply(
        data=answer.output,
        node=node,
        attempts=answer.attempts,
        elapsed=answer.total_us / 1e6,
        queue=answer.queue_us / 1e6,
        run=answer.run_us / 1e6,
        rtt=answer.rtt_us / 1e6,
        wake=answer.wake_us / 1e6,
    )


def gone(paths: Paths, why: object) -> CallError:
    """No connection to the node could be made."""
    if isinstance(why, PermissionError):
        return not_ours(paths)
    slug = "unreachable"
    if isinstance(why, FileNotFoundError | ConnectionRefusedError):
        slug = "daemon-not-running"
    text = why.strerror if isinstance(why, OSError) and why.strerror else why
    reason = f"no node answers at {paths.call_socket}: {text}"
    remedy = f"start it with: {paths.command('up -d')}"
    return Unreachable(slug, reason, remedy, may_have_executed=False)


def broken(why: object) -> CallError:
    """The connection ended while the call waited."""
    reason = f"the node went away during the call: {why}"
    remedy = "the next call connects again"
    return Unreachable("unreachable", reason, remedy, may_have_executed=True)


def silent(paths: Paths, timeout: float) -> CallError:
    """The node said nothing until well after the call's time was up."""
    node = f"of {paths.place}" if paths.host else f"at {paths.call_socket}"
    reason = f"the node {node} gave no answer within {timeout:g} s"
    remedy = f"see: {paths.command('doctor')}"
    return DeadlineExceeded("deadline", reason, remedy, may_have_executed=True)


def late(paths: Paths, timeout: float) -> CallError:
    """The way to another machine took the whole time of a call."""
    reason = f"no connection to {paths.place} within the {timeout:g} s of the call"
    remedy = f"give it more time, or see: {paths.command('doctor')}"
    return Unreachable("unreachable", reason, remedy, may_have_executed=False)


def closed() -> PollenError:
    """It was closed, and nobody opened it again."""
    reason = "this mesh is closed"
    return BadRequest("bad-request", reason, "connect again, or call before it is closed")


def forked() -> PollenError:
    """The connection is another process's; using it would mix two conversations."""
    reason = "this connection belongs to the process that this one was forked from"
    remedy = "connect in each process, or start it with spawn"
    return PollenError("forked", reason, remedy)
