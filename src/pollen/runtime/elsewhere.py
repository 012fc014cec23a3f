"""Status, figures and logs of other nodes: what this one asks of them, and what it tells an admin
of itself.

Errors: ``peer-not-found`` and ``ambiguous`` for a name that is no member's or several members';
what ``core.desk.admin`` says of a node that cannot or will not answer; ``bad-request`` for an
answer of another version, or one that no honest node gives: any member may answer anything. Nothing
is kept between two questions: who follows a log says how far it has read.
Source: docs/design/protocol.md#admin-requests.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from pollen.core import commands as cmd
from pollen.core.figures import Figures
from pollen.errors import BadRequest, PollenError, error_from
from pollen.runtime.figures import FiguresList, NodeFigures
from pollen.runtime.watch import logs

# How long another node has to answer: a link may have to be made first.
WAIT_MS = 10_000
# Who looks each second would rather see that a node is silent than wait for it.
GLANCE_MS = 2_000
NOT_ADMIN = "[denied] nodes tell an admin's node only, and this one is none"
# So many nodes are asked at once.
ASKED_AT_ONCE = 64
# Lines of one answer stay under this, so that it is one message (1 MiB) with its head.
ANSWER_BYTES = 512 * 1024
# So many of the newest lines are looked through for what came after a time.
LOOKED_THROUGH = 10_000
# Counters and times of a node fit a u64 (``core.codec.U64``). A number of 400 digits is no float,
# and ends the command line that shows it.
_INTEGER_END = 1 << 64
# So many levels may the fields of a line have. Guess: nearly all are flat, and a reader gives up at
# hundreds.
_LINE_DEPTH = 16

T = TypeVar("T")
Ask = Callable[[cmd.Command, float], Awaitable[msgspec.Struct]]


class LogsWish(msgspec.Struct, frozen=True, kw_only=True):
    """The newest ``lines`` of a log, of one seed when it is named; or what came since ``after``,
    the time of the last line that was read, of which ``skip`` lines had that very time.
    """

    lines: int = 50
    seed: str = ""
    after: str = ""
    skip: int = 0


class Elsewhere:
    """Both sides. ``ask`` gives this node's brain a command and waits so many seconds."""

    def __init__(self, own: str, ask: Ask, log_path: Path) -> None:
        self._own = own
        self._ask = ask
        self._log_path = log_path

    def verbs(self) -> dict[str, Callable[[bytes], Awaitable[bytes]]]:
        """What admins elsewhere may have this node tell them."""
        return {"status": self.tell_status, "figures": self.tell_figures, "logs": self.tell_logs}

    # -- asking ---------------------------------------------------------------------------------

    async def status_of(self, node: str) -> cmd.Status:
        """What ``pln status`` shows on a node, named by its name or the first digits of its id."""
        peer = await self.found(node)
        if peer == self._own:
            return await self._status()
        return read(await self.answer(peer, "status", b""), peer, cmd.Status)

    async def figures(self) -> FiguresList:
        """What each node that is online does now. One that does not tell in time has a problem
        instead; nothing is raised for it."""
        own = await self._own_figures(with_nodes=True)
        # Nobody is asked in vain each second: a refusal is a warning in the other's log.
        is_admin = any(n.state == "self" and n.tier == "admin" for n in own.nodes)
        room = asyncio.Semaphore(ASKED_AT_ONCE)

        async def asked(node: cmd.NodeView) -> NodeFigures:
            figures, problem = None, ""
            if node.node == self._own:
                figures = own.figures
            elif not is_admin:
                problem = NOT_ADMIN
            else:
                async with room:
                    try:
                        body = await self.answer(node.node, "figures", b"", GLANCE_MS)
                        figures = read(body, node.node, Figures)
                    except PollenError as error:
                        problem = f"[{error.slug}] {error.reason}"
            return NodeFigures(
                node=node.node,
                name=node.name,
                state=node.state,
                ready=node.ready,
                memory_bytes=node.memory_bytes,
                problem=problem,
                figures=figures,
            )

        return FiguresList(nodes=await asyncio.gather(*map(asked, own.nodes)))

    async def logs_of(self, node: str, wish: LogsWish) -> list[str]:
        """Lines of a node's log, each a JSON object, oldest first."""
        peer = await self.found(node)
        if peer == self._own:
            return await asyncio.to_thread(chosen, self._log_path, wish)
        body = await self.answer(peer, "logs", msgspec.json.encode(wish))
        lines = read(body, peer, list[str])
        if not all(map(_is_line, lines)):
            raise _unreadable(peer, "it holds what is not a line of a log")
        return lines

    async def answer(self, peer: str, verb: str, args: bytes, wait_ms: int = WAIT_MS) -> bytes:
        """What a node of this id answers to a verb."""
        command = cmd.AdminCommand(node=peer, verb=verb, args=args, wait_ms=wait_ms)
        answered = await self._ask(command, wait_ms / 1000 + 1)
        assert isinstance(answered, cmd.Administered)
        return answered.body

    async def _own_figures(self, *, with_nodes: bool) -> cmd.OwnFigures:
        told = await self._ask(cmd.FiguresCommand(nodes=with_nodes), WAIT_MS / 1000)
        assert isinstance(told, cmd.OwnFigures)
        return told

    async def _status(self) -> cmd.Status:
        status = await self._ask(cmd.StatusCommand(), WAIT_MS / 1000)
        assert isinstance(status, cmd.Status)
        return status

    async def found(self, text: str) -> str:
        """The id of the one member that a text names."""
        nodes = (await self._status()).nodes
        found = [node for node in nodes if node.name == text]
        found = found or [node for node in nodes if text and node.node.startswith(text.lower())]
        if not found:
            raise error_from(
                "peer-not-found", f"no node {text[:80]!r} is known", "pln status nodes"
            )
        if len(found) > 1:
            ways = ", ".join(f"{node.name} {node.node[:8]}" for node in found[:8])
            reason = f"{text[:80]!r} means {len(found)} nodes"
            raise error_from("ambiguous", reason, f"one of: {ways}")
        return found[0].node

    # -- telling --------------------------------------------------------------------------------

    async def tell_status(self, args: bytes) -> bytes:
        """The verb ``status``."""
        return msgspec.json.encode(await self._status())

    async def tell_figures(self, args: bytes) -> bytes:
        """The verb ``figures``."""
        return msgspec.json.encode((await self._own_figures(with_nodes=False)).figures)

    async def tell_logs(self, args: bytes) -> bytes:
        """The verb ``logs``."""
        try:
            wish = msgspec.json.decode(args, type=LogsWish)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            remedy = "bring both nodes to one version"
            raise BadRequest(
                "bad-request", f"the request is none for logs: {error}", remedy
            ) from None
        return msgspec.json.encode(await asyncio.to_thread(chosen, self._log_path, wish))


def chosen(path: Path, wish: LogsWish) -> list[str]:
    """The lines that a wish names, within ``ANSWER_BYTES``: of the newest the last ones, of what
    came since a time the first ones, so that the next wish goes on behind them."""
    if not wish.after:
        newest = logs.tail(path, min(max(wish.lines, 0), LOOKED_THROUGH), wish.seed)
        return within(newest[::-1])[::-1]
    lines = logs.tail(path, LOOKED_THROUGH, wish.seed)
    since = [line for line in lines if logs.time_of(line) >= wish.after]
    seen = sum(logs.time_of(line) == wish.after for line in since[: wish.skip])
    return within(since[seen:])


def within(lines: Sequence[str]) -> list[str]:
    """The first lines that have room in one answer."""
    sizes = itertools.accumulate(len(line.encode()) + 1 for line in lines)
    return [line for line, size in zip(lines, sizes, strict=True) if size <= ANSWER_BYTES]


def read(body: bytes, peer: str, kind: type[T]) -> T:
    """An answer of another node. Whatever it is, the fault is that node's, and said of it."""
    try:
        answer = msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _unreadable(peer, str(error)) from None
    if not _has_integers_of_a_node(answer):
        raise _unreadable(peer, "it holds a number over 64 bits")
    return answer


def _has_integers_of_a_node(answer: object) -> bool:
    waiting = [msgspec.to_builtins(answer)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int) and abs(value) >= _INTEGER_END:
            return False
    return True


def _is_line(text: str) -> bool:
    """Whether who prints lines can print it: an object of some depth, or no JSON, as a torn one."""
    if "\n" in text or "\r" in text:
        return False
    try:
        value = json.loads(text)
    except ValueError:
        return True
    except RecursionError:
        return False
    return isinstance(value, dict) and _fits_in(value, _LINE_DEPTH)


def _fits_in(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_fits_in(each, levels - 1) for each in inner)


def _unreadable(peer: str, why: str) -> BadRequest:
    reason = f"what node {peer[:8]} answered cannot be read: {why}"
    return BadRequest("bad-request", reason, "bring both nodes to one version")
