"""How a root key is replaced: a successor that the old root signed in advance.

Decides: whether a succession holds, and which roots count, from the first one on.
Does not know: records, links, the clock.
Invariants: the cluster id stays that of the first root. The line of roots is a pure function of
    the first root and the successions that hold; every root of the line counts for what it signed.
    Of two successors of one root the one signed earlier stands, by hash among equals.
Source: docs/internals/trust.md#what-counts. Refused: ending the old root's certificates with it,
    which would end every member's. Not defended: an old root in the wrong hands; no record can tell
    whom its signatures are by.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

import msgspec

from pollen.core import limits
from pollen.core.codec import (
    SUCCESSION_DOMAIN,
    U64,
    Rejection,
    Signed,
    WireClusterId,
    WirePeerId,
    decode,
    encode,
    signing_bytes,
)
from pollen.core.ids import ClusterId, Hash, KeyRole, PeerId, Sign, Verify, hash_of


class Succession(msgspec.Struct, frozen=True, array_like=True):
    """``root`` says that ``successor`` may sign like it. ``issued`` is wall nanoseconds."""

    cluster: WireClusterId
    root: WirePeerId
    successor: WirePeerId
    issued: U64


def issue_succession(succession: Succession, sign: Sign) -> Signed:
    """The succession as carried, signed by the root."""
    body = encode(succession)
    return Signed(body, sign(KeyRole.ROOT, signing_bytes(SUCCESSION_DOMAIN, body)))


def issue(cluster: ClusterId, root: PeerId, successor: PeerId, wall: int, sign: Sign) -> Signed:
    """The succession from one root to another, signed by the first."""
    return issue_succession(Succession(cluster, root, successor, wall), sign)


def issued_of(signed: Signed) -> int:
    """When a succession was signed, wall nanoseconds; 0 for bytes that are not one."""
    succession = decode(Succession, signed.body, "succession")
    return 0 if isinstance(succession, Rejection) else succession.issued


def judge_succession(signed: Signed, cluster: ClusterId, verify: Verify) -> Succession | Rejection:
    """A succession that the root in it did sign; whether that root counts is not judged here."""
    succession = decode(Succession, signed.body, "succession")
    if isinstance(succession, Rejection):
        return succession
    if succession.cluster != cluster:
        return Rejection("succession-of-another-cluster")
    message = signing_bytes(SUCCESSION_DOMAIN, signed.body)
    if verify([(succession.root, message, signed.signature)]) != [True]:
        return Rejection("succession-signature")
    return succession


class Successions:
    """The successions that a node knows of; those of strange roots are forgotten first."""

    def __init__(self, cluster: ClusterId, verify: Verify) -> None:
        self._cluster = cluster
        self._verify = verify
        self._known: dict[Signed, Succession] = {}

    def learn(
        self, carried: Iterable[Signed], roots: Container[PeerId]
    ) -> tuple[bool, Rejection | None]:
        """Take in successions up to the first that does not hold: whether any was news, and it."""
        is_news = False
        for signed in carried:
            if signed in self._known:
                continue
            judged = judge_succession(signed, self._cluster, self._verify)
            if isinstance(judged, Rejection):
                return is_news, judged
            self._make_room(roots)
            self._known[signed] = judged
            is_news = True
        return is_news, None

    def _make_room(self, roots: Container[PeerId]) -> None:
        if len(self._known) >= limits.UNPROVEN_MAX:
            strange = [signed for signed, known in self._known.items() if known.root not in roots]
            for signed in strange[:1]:
                del self._known[signed]

    def line(self, first: PeerId) -> dict[PeerId, Signed | None]:
        """The roots from the first on, by what is known."""
        return line_of(first, [(judged, signed) for signed, judged in self._known.items()])

    def displaced(self, line: Container[PeerId]) -> list[Succession]:
        """What made each key that successions lead to from the line and that is not in it.

        Oldest first. As far as a line may be long; what strange keys signed leads nowhere.
        """
        found: dict[PeerId, Succession] = {}
        known = sorted(self._known.values(), key=lambda s: (s.issued, s.successor))
        for _ in range(limits.SUCCESSIONS_MAX):
            for made in known:
                successor = PeerId(made.successor)
                if successor not in line and (made.root in line or made.root in found):
                    found.setdefault(successor, made)
        return sorted(found.values(), key=lambda s: (s.issued, s.successor))


def line_of(
    first: PeerId, known: Iterable[tuple[Succession, Signed]]
) -> dict[PeerId, Signed | None]:
    """The roots from the first on, each with the succession that made it one, as carried."""
    by_root: dict[PeerId, list[tuple[int, Hash, PeerId, Signed]]] = {}
    for succession, carried in known:
        digest = hash_of("succession", carried.body)
        choice = (succession.issued, digest, PeerId(succession.successor), carried)
        by_root.setdefault(PeerId(succession.root), []).append(choice)
    line: dict[PeerId, Signed | None] = {first: None}
    root = first
    while root in by_root and len(line) <= limits.SUCCESSIONS_MAX:
        _, _, successor, carried = min(by_root[root], key=lambda choice: choice[:2])
        if successor in line:
            break
        root = successor
        line[root] = carried
    return line
