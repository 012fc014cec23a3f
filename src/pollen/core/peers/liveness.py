"""Who is alive, as a pure function of signed records.

Decides: the verdict on each member that follows from node records, accusations and refutations.
Does not know: links, clocks, who asks; when to accuse or to believe a verdict (``membership``).
Invariants: ``judge`` is a function of the set of records, whatever the order they came in. An
    accusation stands while it names exactly the subject's epoch and incarnation: a newer epoch or
    incarnation voids it, and so no value that an accuser invents can outlive a refutation. What a
    dead or departed accuser says does not count; of two halves that accuse each other one wins,
    everywhere the same. A node that said that it left is gone without any accusation.
Source: SWIM (Das, Gupta, Motivala 2002), Lifeguard (Dadgar, Phillips, Currey 2017);
    docs/design/protocol.md#liveness. Refused: asking that an accuser be one of the subject's
    present watchers; views move, and the accusation of yesterday's neighbour would void itself.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Iterator

import msgspec

from pollen.core import limits
from pollen.core.codec import U8, U32, U64, Rejection, decode
from pollen.core.ids import ID_BYTES, PeerId
from pollen.core.records import Record


class Phase(enum.IntEnum):
    """Where a run of a node is in its life, as its node record says."""

    UP = 0
    LEAVING = 1
    LEFT = 2


class Charge(enum.IntEnum):
    """What an accuser saw: the brain does not turn; no packet comes; and still none, and nobody
    else who could tell has answered."""

    STALLED = 0
    SILENT = 1
    CONFIRMED = 2


class Verdict(enum.IntEnum):
    """What follows for a member. ``DRAINED``: alive, but nothing new is placed on it."""

    LIVE = 0
    DRAINED = 1
    DEAD = 2
    LEFT = 3


class Accusation(msgspec.Struct, frozen=True, array_like=True):
    """The payload of an ``accuse`` record; its key is the subject's id."""

    epoch: U32
    incarnation: U64
    charge: U8


class Refutation(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a ``refute`` record: I live, and everything before this is void."""

    incarnation: U64


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a member's node record says, as far as liveness is concerned."""

    epoch: int
    phase: int = Phase.UP
    restarts: int = 0


def decode_accusation(record: Record) -> Accusation | Rejection:
    """An accusation of this schema; of oneself, or about no id, it is malformed."""
    if len(record.body.key) != ID_BYTES or record.body.key == record.body.owner:
        return Rejection("accusation-subject", record.body.key.hex()[:64])
    accusation = decode(Accusation, record.body.payload, "accusation")
    if isinstance(accusation, Accusation) and accusation.charge > Charge.CONFIRMED:
        return Rejection("accusation-charge", str(accusation.charge))
    return accusation


class Evidence:
    """The records that liveness follows from, indexed as they come; it holds no opinion."""

    def __init__(self) -> None:
        self.facts: dict[PeerId, Facts] = {}
        self.unfit: dict[PeerId, Facts] = {}
        self._refuted: dict[PeerId, tuple[int, int]] = {}
        self._accusations: dict[PeerId, dict[PeerId, Accusation]] = {}

    def note_member(self, peer: PeerId, facts: Facts) -> bool:
        """A member's node record. False when liveness does not depend on what changed."""
        if self.facts.get(peer) == facts:
            return False
        self.facts[peer] = facts
        self.unfit.pop(peer, None)
        if facts.phase != Phase.UP or facts.restarts >= limits.RESTARTS_QUARANTINE:
            self.unfit[peer] = facts
        return True

    def forget_member(self, peer: PeerId) -> None:
        """Its node record is gone: it is nobody, as subject and as accuser."""
        self.facts.pop(peer, None)
        self.unfit.pop(peer, None)

    def note_accusation(self, record: Record) -> Rejection | None:
        """An accusation or its withdrawal, the newest record of its key."""
        subject, accuser = PeerId(record.body.key), record.body.owner
        accusation = None if record.body.tombstone else decode_accusation(record)
        held = self._accusations.setdefault(subject, {})
        if isinstance(accusation, Accusation):
            held[accuser] = accusation
            return None
        held.pop(accuser, None)
        if not held:
            del self._accusations[subject]
        return accusation

    def note_refutation(self, record: Record) -> Rejection | None:
        """A subject's answer; it holds in the epoch that it was written in."""
        owner = record.body.owner
        if record.body.tombstone:
            self._refuted.pop(owner, None)
            return None
        refutation = decode(Refutation, record.body.payload, "refutation")
        if isinstance(refutation, Rejection):
            return refutation
        self._refuted[owner] = (record.body.epoch, refutation.incarnation)
        return None

    def incarnation_of(self, peer: PeerId) -> int:
        """How often a member refuted in its present epoch, as it counts."""
        facts = self.facts.get(peer)
        epoch, incarnation = self._refuted.get(peer, (0, 0))
        return incarnation if facts is not None and facts.epoch == epoch else 0

    def charge_of(self, accuser: PeerId, subject: PeerId) -> Charge | None:
        """What this accuser's standing accusation of a subject says."""
        accusation = self._accusations.get(subject, {}).get(accuser)
        if accusation is None or not self._stands(subject, accuser, accusation):
            return None
        return Charge(accusation.charge)

    def accusers_of(self, subject: PeerId) -> dict[PeerId, Charge]:
        """The members whose accusation of a subject stands, by id."""
        held = self._accusations.get(subject)
        if not held:
            return {}
        return {
            accuser: Charge(held[accuser].charge)
            for accuser in sorted(held)
            if self._stands(subject, accuser, held[accuser])
        }

    def accused(self) -> Iterator[tuple[PeerId, dict[PeerId, Charge]]]:
        """Every member that somebody accuses, with its accusers, by id."""
        for subject in sorted(self._accusations):
            accusers = self.accusers_of(subject)
            if accusers:
                yield subject, accusers

    def _stands(self, subject: PeerId, accuser: PeerId, accusation: Accusation) -> bool:
        facts = self.facts.get(subject)
        if facts is None or accuser not in self.facts:
            return False
        named = (accusation.epoch, accusation.incarnation)
        return named == (facts.epoch, self.incarnation_of(subject))


def judge(evidence: Evidence) -> dict[PeerId, Verdict]:
    """The verdict on every member; a member that is not in it is ``LIVE``.

    The most accused is judged first, ties by id, and what it accused others of is void when it is
    dead. That is what makes two halves that meet again agree which of them the records kill until
    it refutes: the one with more accusers.
    """
    verdicts = {
        peer: Verdict.LEFT for peer, facts in evidence.unfit.items() if facts.phase == Phase.LEFT
    }
    accused = {
        subject: {a: charge for a, charge in accusers.items() if a not in verdicts}
        for subject, accusers in evidence.accused()
        if subject not in verdicts
    }
    trial = _Trial(accused, len(evidence.facts) - len(verdicts))
    verdicts.update((peer, Verdict.DEAD) for peer in trial.run())
    drained: dict[PeerId, Verdict] = {}
    for peer, accusers in accused.items():
        count = sum(accuser not in verdicts for accuser in accusers)
        if peer not in verdicts and count >= quorum(trial.alive - 1):
            drained[peer] = Verdict.DRAINED
    is_alone = len(evidence.facts) == 1
    drained.update(
        (peer, Verdict.DRAINED)
        for peer, facts in evidence.unfit.items()
        # Why: nobody else could serve instead of a lone node, however often it began again.
        if not (is_alone and facts.phase == Phase.UP)
    )
    return drained | verdicts


def quorum(others: int) -> int:
    """How many accusers it takes, when so many others are alive: three, or all, at least one."""
    return max(1, min(limits.QUORUM, others))


class _Trial:
    """One run of the elimination; counts only fall and the quorum only falls, so it ends."""

    def __init__(self, accused: dict[PeerId, dict[PeerId, Charge]], alive: int) -> None:
        self.alive = alive
        self._dead: dict[PeerId, None] = {}
        self._silent: dict[PeerId, int] = {}
        self._confirmed: dict[PeerId, int] = {}
        self._by_accuser: dict[PeerId, list[tuple[PeerId, Charge]]] = {}
        for subject, accusers in accused.items():
            charges = [c for c in accusers.values() if c >= Charge.SILENT]
            if not charges:
                continue
            self._silent[subject] = len(charges)
            self._confirmed[subject] = sum(c is Charge.CONFIRMED for c in charges)
            for accuser, charge in accusers.items():
                if charge >= Charge.SILENT:
                    self._by_accuser.setdefault(accuser, []).append((subject, charge))
        self._suspects = sum(count > 0 for count in self._confirmed.values())

    def run(self) -> list[PeerId]:
        """The dead: those convicted that somebody still accuses who is not dead himself.

        A convicted member whose last accuser was convicted after it is acquitted: what only the
        dead say counts for nothing. Its own accusations stay void, which spares and never kills.
        """
        is_moving = True
        while is_moving:
            heap = [(-n, peer) for peer, n in self._silent.items() if peer not in self._dead]
            heapq.heapify(heap)
            is_moving = False
            while heap:
                count, peer = heapq.heappop(heap)
                if (
                    peer in self._dead
                    or -count != self._silent[peer]
                    or not self._is_convicted(peer)
                ):
                    continue
                for subject in self._bury(peer):
                    heapq.heappush(heap, (-self._silent[subject], subject))
                is_moving = True
        dead = [peer for peer in self._dead if self._silent[peer] > 0]
        self.alive += len(self._dead) - len(dead)
        return dead

    def _is_convicted(self, peer: PeerId) -> bool:
        """By a quorum of all that are alive; or, when those who could tell are themselves accused
        and have not answered, by a quorum of the rest who waited for them."""
        if self._silent[peer] >= quorum(self.alive - 1):
            return True
        confirmed = self._confirmed[peer]
        is_suspect = confirmed > 0
        rest = self.alive - self._suspects - (0 if is_suspect else 1)
        return is_suspect and confirmed >= quorum(rest)

    def _bury(self, peer: PeerId) -> list[PeerId]:
        """Dead: it counts no longer, nor does what it says. Returns whose count fell."""
        self._dead[peer] = None
        self.alive -= 1
        self._suspects -= self._confirmed[peer] > 0
        fallen = []
        for subject, charge in self._by_accuser.get(peer, ()):
            self._silent[subject] -= 1
            if charge is Charge.CONFIRMED:
                self._confirmed[subject] -= 1
                if self._confirmed[subject] == 0 and subject not in self._dead:
                    self._suspects -= 1
            if subject not in self._dead:
                fallen.append(subject)
        return fallen
