"""What the muscles tried to reach a member or a service: what the brain cannot say in ``pln why``.

Decides: nothing; the words.
Does not know: why a path is used or not (``core.desk.ways``), who is tried first
    (``core.services``); who asks.
Invariants: any other answer passes as it is. Muscles that do not answer add nothing.
Source: docs/design/cli.md#why; docs/internals/seam.md#links.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec

from pollen.core.whywords import AnsweredView, TriedView, WhyPath, WhyService
from pollen.runtime.loop.native import Muscles


class _Path(msgspec.Struct, frozen=True, kw_only=True):
    """An open path; without an address it leads through other members."""

    address: str
    selected: bool
    rtt_us: int


class _Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """Where the member was ever said, or seen, to be."""

    address: str


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``Muscles.paths``, as far as it is told."""

    paths: list[_Path]
    candidates: list[_Candidate]


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One of ``Muscles.answers``: what a provider said to the last client of this node."""

    node: bytes
    slug: str
    reason: str
    ago_ms: int


_decoder = msgspec.msgpack.Decoder(_Known)
_answers = msgspec.msgpack.Decoder(list[_Answer])


async def with_tried(answer: msgspec.Struct, muscles: Muscles | None) -> msgspec.Struct:
    """The answer to ``WhyPathCommand`` or ``WhyServiceCommand`` with what was tried; any other as
    it is."""
    if muscles is not None and isinstance(answer, WhyService):
        return _with_answers(answer, _answers.decode(muscles.answers(answer.name)))
    if muscles is None or not isinstance(answer, WhyPath):
        return answer
    known = _decoder.decode(await asyncio.to_thread(muscles.paths, bytes.fromhex(answer.node)))
    tried = list(_tried(known))
    words = [] if answer.path == "direct" else list(_words(tried))
    return msgspec.structs.replace(answer, tried=tried, why=[*answer.why, *words])


def _with_answers(answer: WhyService, said: list[_Answer]) -> WhyService:
    """The provider that was tried last is told in words as well."""
    by_node = {
        one.node.hex(): AnsweredView(slug=one.slug, reason=one.reason, ago_ms=one.ago_ms)
        for one in said
    }
    ways = [msgspec.structs.replace(w, answered=by_node.get(w.node)) for w in answer.providers]
    tried = [way for way in ways if way.answered is not None]
    last = min(tried, key=lambda way: way.answered.ago_ms if way.answered else 0, default=None)
    words = []
    if last is not None and last.answered is not None:
        told = last.answered
        what = f"refused it: {told.reason} [{told.slug}]" if told.slug else "took it"
        words = [f"the last client of this node was led to {last.name}, which {what}"]
    return msgspec.structs.replace(answer, providers=ways, why=[*answer.why, *words])


def _tried(known: _Known) -> Iterator[TriedView]:
    """Each address once: those with a path first, the one in use before the others."""
    for path in sorted(known.paths, key=lambda path: not path.selected):
        state = "used" if path.selected else "open"
        yield TriedView(address=path.address, state=state, rtt_us=path.rtt_us)
    held = {path.address for path in known.paths}
    for address in sorted({candidate.address for candidate in known.candidates} - held):
        yield TriedView(address=address, state="tried")


def _words(tried: list[TriedView]) -> Iterator[str]:
    standing = [one.address for one in tried if one.state == "open" and one.address]
    if standing:
        yield f"a direct path is open and not used: {', '.join(standing)}"
    vain = [one.address for one in tried if one.state == "tried" and one.address]
    if vain:
        yield f"addresses at which it was sought, without a path now: {', '.join(vain)}"
