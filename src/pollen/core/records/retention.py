"""What is forgotten, and when: old tombstones of ours, and owners that are long gone.

Decides: when this node raises its ``gc_version``, which owners it buries, and for how long it keeps
    their graves.
Does not know: how sets merge (``owners``), what peers say of graves (``graves``), who is alive
    (told), the disk (its rows are written by the turn).
Invariants: before a ``gc_version`` is published everything of ours that lives is signed again,
    above it, so that raising it deletes nothing but tombstones. Only what does not last is taken
    from an absent owner; the proof of its last version stays for a year, so that when it returns
    with its disk wiped it learns above what to go on. Absence counts only while this node ran and
    saw others: who slept or was alone buries nobody for it. Merging never asks how old anything is.
Source: docs/design/protocol.md#deleting, docs/design/protocol.md#identity-and-clocks. Refused:
    a list of deleted keys for ever; dropping tombstones by age alone, which lets a sleeper bring
    back what was deleted; absence by wall time, which one wrong clock makes a massacre.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pollen.core import limits, timers
from pollen.core.codec import U32, U64, Rejection, decode, encode
from pollen.core.effects import Row, SetTimer
from pollen.core.events import SignedRecord
from pollen.core.ids import ClusterId, Nanos, Now, PeerId
from pollen.core.kinds import GC
from pollen.core.records.ledger import Records
from pollen.core.records.record import ZERO, Record, Version, decode_record, gc_key
from pollen.core.turn import Turn

MARK_TABLE = "mark"
ABSENT_TABLE = "absent"
GRAVE_TABLE = "grave"
_STEP_UNITS = 100


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """How long this node ran in all (``awake``), and saw others meanwhile (``watched``), in ns.

    Everything of ours up to ``epoch`` and ``seq`` existed when ``awake`` was ``made``.
    """

    epoch: U32
    seq: U64
    made: U64
    awake: U64
    watched: U64


class Grave(msgspec.Struct, frozen=True, array_like=True):
    """An owner that was buried when ``watched`` was ``since``, and the last record of it."""

    since: U64
    proof: SignedRecord


class Retention:
    """The forgetting of one node."""

    def __init__(self, own: PeerId, cluster: ClusterId, records: Records) -> None:
        self._own = own
        self._cluster = cluster
        self._records = records
        self._mark = Mark(*ZERO, 0, 0, 0)
        self._absent: dict[PeerId, int] = {}
        self._graves: dict[PeerId, int] = {}
        self._raising: Version | None = None
        self._due: list[Record] = []
        self._look: Now | None = None
        self._had_company = False

    # -- the disk -------------------------------------------------------------------------------

    def restore(
        self, tables: Mapping[str, Sequence[tuple[bytes, bytes]]]
    ) -> tuple[list[Record], list[Rejection]]:
        """Take over what the disk held: the proofs of the graves, and what cannot be read."""
        proofs: list[Record] = []
        faults: list[Rejection] = []
        for _, raw in tables.get(MARK_TABLE, ()):
            mark = decode(Mark, raw, "mark-row")
            if isinstance(mark, Mark):
                self._mark = mark
            else:
                faults.append(mark)
        for key, raw in tables.get(ABSENT_TABLE, ()):
            since = decode(int, raw, "absent-row")
            if isinstance(since, int):
                self._absent[PeerId(key)] = since
            else:
                faults.append(since)
        for key, raw in tables.get(GRAVE_TABLE, ()):
            grave = decode(Grave, raw, "grave-row")
            proof = decode_record(grave.proof, self._cluster) if isinstance(grave, Grave) else grave
            if isinstance(grave, Grave) and isinstance(proof, Record):
                self._graves[PeerId(key)] = grave.since
                proofs.append(proof)
            elif isinstance(proof, Rejection):
                faults.append(proof)
        return proofs, faults

    # -- now and then ---------------------------------------------------------------------------

    def start(self, turn: Turn) -> None:
        """Look around for the first time when the mesh had time to form."""
        at = Nanos(turn.now.mono + limits.SWEEP_FIRST_NS)
        turn.do(SetTimer(token=timers.token_for(timers.SWEEP), at=at))

    def sweep(self, live: Mapping[PeerId, int], turn: Turn) -> None:
        """Write who came, went and is buried, and come back. ``live``: who is alive now, by id."""
        now = turn.now
        has_company = any(peer != self._own for peer in live)
        is_sure = self._pass_time(has_company, now)
        self._sweep_own()
        rows: list[Row] = [(MARK_TABLE, b"", encode(self._mark))]
        burials = limits.BURIALS_MAX if is_sure else 0
        graves, proofs = self._graves, self._records.proofs
        for owner in sorted({*graves, *proofs}):
            rows += self._sweep_grave(owner)
        for owner in sorted({*self._records.owners(), *self._absent} - {self._own}):
            is_due = self._is_absent(owner, owner in live, has_company, rows)
            if is_due and burials and self._records.collect(owner) is not None:
                burials -= 1
                rows += self._sweep_grave(owner)
        turn.write(*rows)
        at = Nanos(now.mono + limits.SWEEP_NS)
        turn.do(SetTimer(token=timers.token_for(timers.SWEEP), at=at))

    def _pass_time(self, has_company: bool, now: Now) -> bool:
        """Count the time since the last look; True when we saw others all along."""
        look, self._look = self._look, now
        had_company, self._had_company = self._had_company, has_company
        if look is None:
            return False
        longest = 2 * limits.SWEEP_NS
        passed = min(now.mono - look.mono, longest)
        is_sure = had_company and has_company and now.wall - look.wall <= longest
        mark = self._mark
        self._mark = msgspec.structs.replace(
            mark, awake=mark.awake + passed, watched=mark.watched + (passed if is_sure else 0)
        )
        return is_sure

    def _sweep_own(self) -> None:
        mark, owned = self._mark, self._records.peek(self._own)
        version = (mark.epoch, mark.seq)
        if version != ZERO and mark.awake < mark.made + limits.TOMBSTONE_KEEP_NS:
            return
        if self._raising is None:
            old = [r for r in owned.rows.values() if not r.is_live and r.version <= version]
            is_ours = not any(r.is_opaque for r in owned.rows.values())
            if len(old) >= limits.TOMBSTONES_MIN and is_ours:
                self._raising, self._due = version, self._find_due(version)
        epoch, seq = owned.top
        self._mark = msgspec.structs.replace(mark, epoch=epoch, seq=seq, made=mark.awake)

    def _sweep_grave(self, owner: PeerId) -> list[Row]:
        """A grave that is new, was lifted, or is old enough."""
        proof, since = self._records.proofs.get(owner), self._graves.get(owner)
        if proof is not None and since is None:
            since = self._graves[owner] = self._mark.watched
            self._absent.pop(owner, None)
            grave = Grave(since, proof.signed)
            return [(GRAVE_TABLE, owner, encode(grave)), (ABSENT_TABLE, owner, None)]
        if since is None or (
            proof is not None and self._mark.watched < since + limits.GRAVE_KEEP_NS
        ):
            return []
        del self._graves[owner]
        self._records.release(owner)
        return [(GRAVE_TABLE, owner, None)]

    def _is_absent(self, owner: PeerId, is_live: bool, has_company: bool, rows: list[Row]) -> bool:
        """Note who came and who went; True for an owner that was absent for long enough."""
        owned, since = self._records.peek(owner), self._absent.get(owner)
        if is_live or owned.is_grave or not owned.rows:
            if since is not None:
                del self._absent[owner]
                rows.append((ABSENT_TABLE, owner, None))
            return False
        if since is None and has_company and len(rows) < limits.ABSENCES_MAX:
            since = self._absent[owner] = self._mark.watched
            rows.append((ABSENT_TABLE, owner, encode(since)))
        return since is not None and self._mark.watched >= since + limits.ABSENT_KEEP_NS

    # -- raising our gc_version, in slices ------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """True while something of ours is to be signed again above a ``gc_version``."""
        return self._raising is not None and self._records.is_open

    def advance(self, units: int, turn: Turn) -> int:
        """Sign some of it again; when all is, publish the ``gc_version``. Returns units spent."""
        spent = _STEP_UNITS
        version = self._raising
        if version is None:
            return spent
        while self._due and spent < units and self._records.is_open:
            self._records.restate(self._due.pop())
            spent += _STEP_UNITS
        if self._due or not self._records.is_open:
            return spent
        # What came back meanwhile from somebody who kept it (``Records.merge``) lives as well.
        self._due = self._find_due(version)
        if not self._due:
            self._raising = None
            turn.publish(GC, gc_key(version), b"")
        return spent

    def _find_due(self, version: Version) -> list[Record]:
        """What lives of ours up to a version, the newest first; old ``gc_version``s may go."""
        rows = self._records.peek(self._own).rows.values()
        due = [r for r in rows if r.is_live and r.version <= version and r.body.kind != GC]
        return sorted(due, key=lambda record: record.version, reverse=True)
