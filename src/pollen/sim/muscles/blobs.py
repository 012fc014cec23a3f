"""Blobs on one machine of a simulated world: a disk that fills, holders that are slow, die or lie.

Decides: nothing of its own: what is held, and from whom it may be fetched, is what the brain said.
Does not know: plans, claims, why a holder lies.
Invariants: a content is held whole or not at all. What a holder that fell silent had sent in whole
    pieces is not fetched again. Wrong bytes are never kept, and their sender is asked no further.
    ``quota-kept``: no fetch begins that the disk has no room for beside those under way, as far as
    the brain was told what is free. ``no-last-copy-dropped``: no machine lets go of the last copy
    of a content that a name still needs.
Source: docs/internals/content.md#transfer. Refused: several holders at once, whose rates would be
    one more thing that the model says of itself. A machine sends one content after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pollen.core import effects as fx
from pollen.core.ids import MILLISECOND, SECOND, Hash, PeerId
from pollen.sim.muscles import modules
from pollen.sim.muscles.serving import may_pass
from pollen.sim.world.machine import Machine

if TYPE_CHECKING:
    from pollen.sim.muscles.plane import Plane, Stage

PIECE_BYTES = 8 << 20
# A holder that does not answer costs a fetch so much before the next one is asked.
_SILENT_HOLDER_NS = 200 * MILLISECOND
# For so long readers look for holders, and so often. Source: docs/internals/content.md#reading.
_PATIENCE_NS = 8 * SECOND
_PAUSE_NS = 200 * MILLISECOND


@dataclass(slots=True, eq=False)
class Fetch:
    """A content on its way here. ``left``: the holders not asked yet; ``missing``: bytes not here.

    ``boots`` is of the holder that sends now.
    """

    row: fx.SeedRow
    left: list[PeerId]
    missing: int
    holder: Machine | None = None
    boots: int = 0


@dataclass(slots=True, eq=False)
class Read:
    """Somebody reads a blob at a machine; ``slug`` says how it ended once ``ended`` is set."""

    origin: str
    name: str
    began: int
    ended: int = 0
    slug: str = ""
    reason: str = ""
    fetch: Fetch | None = None


class Blobs:
    """The fetches of one process; what they leave is on the machine's disk."""

    def __init__(self, stage: Stage, plane: Plane) -> None:
        self._stage = stage
        self._plane = plane
        self._machine = plane.machine
        self._fetches: dict[Hash, Fetch] = {}

    # -- copies -----------------------------------------------------------------------------------

    def load(self, effect: fx.LoadSeed, row: fx.SeedRow) -> None:
        """Hold a blob whole: from the disk, or from the holders in their order."""
        machine = self._machine
        self._stage.note_load(machine, effect.seed, "loading")
        fetch = self._fetch_of(row, effect.holders)
        self._fetches[effect.seed] = fetch
        if machine.content.is_for(row.content, row.publisher):
            self._stage.schedule(MILLISECOND, self._held, fetch, machine.key)
            return
        if fetch.left and fetch.missing:
            self._check_room(fetch)
        self._ask(fetch)

    def _fetch_of(self, row: fx.SeedRow, holders: Sequence[PeerId]) -> Fetch:
        """What is here for another owner's specs is only to be shown by a holder."""
        is_here = row.content in self._machine.content
        return Fetch(row, list(holders), 0 if is_here else modules.find(row.content).size)

    def _check_room(self, fetch: Fetch) -> None:
        """The brain was told what is free, and knows what it asked for since."""
        machine = self._machine
        used = machine.foreign_bytes + machine.blob_bytes - machine.untold_bytes
        free = machine.disk_bytes - used
        rows = {f.row.content: f for f in self._fetches.values() if f.left or f.holder}
        asked = sum(modules.find(c).size for c in rows if c not in machine.content)
        if asked > free:
            text = f"{machine.name} fetches {fetch.row.name!r}: {asked} bytes are on their way"
            self._stage.note_breach("quota-kept", f"{text} to the {free} that are free")

    def _is_current(self, fetch: Fetch) -> bool:
        return self._fetches.get(fetch.row.seed) is fetch and self._plane.is_running

    def _ask(self, fetch: Fetch) -> None:
        """Begin with the next holder that answers."""
        after = self._next_holder(fetch)
        if fetch.holder is None:
            self._stage.schedule(after, self._failed, fetch)
        else:
            self._stage.schedule(after, self._came, fetch)

    def _next_holder(self, fetch: Fetch) -> int:
        """The next holder that gives it away, and after how long what it sends is here."""
        network, after, fetch.holder = self._stage.network, MILLISECOND, None
        while fetch.left:
            peer = fetch.left.pop(0)
            end = network.routed(self._machine, peer)
            if end is None or end.other is None or not network.is_heard(end):
                after += _SILENT_HOLDER_NS
                continue
            after += 4 * end.way_ns
            other = end.other.machine
            if other.plane is None or not other.plane.gives(fetch.row, self._machine.key):
                continue
            fetch.holder, fetch.boots = other, other.boots
            # The first wrong piece is the last one.
            size = min(PIECE_BYTES, fetch.missing) if other.sends_wrong else fetch.missing
            return other.take_line(self._stage.now + after, size) - self._stage.now
        return after

    def _has_come(self, fetch: Fetch) -> bool:
        """Whether the holder that was to send all has done so; else what came of it is noted."""
        holder = fetch.holder
        if holder is None:
            return False
        if holder.sends_wrong:
            self._stage.count("wrong-bytes-refused")
            return False
        end = self._stage.network.routed(self._machine, holder.key)
        is_there = end is not None and self._stage.network.is_heard(end)
        if is_there and holder.boots == fetch.boots and holder.is_up:
            return True
        # It fell silent on the way: half of it had come, and of that the whole pieces stay.
        self._stage.count("holders-lost")
        fetch.missing -= fetch.missing // 2 // PIECE_BYTES * PIECE_BYTES
        return False

    def _came(self, fetch: Fetch) -> None:
        machine = self._machine
        if not self._is_current(fetch):
            return
        if machine.is_frozen:
            self._stage.schedule(_SILENT_HOLDER_NS, self._came, fetch)
            return
        if not self._has_come(fetch):
            self._ask(fetch)
            return
        assert fetch.holder is not None
        is_here = fetch.row.content in machine.content
        if not is_here and modules.find(fetch.row.content).size > machine.free_bytes:
            self._stage.count("storage-full")
            self._end(fetch, "storage-full", "no space left on the disk")
            return
        machine.content.keep(fetch.row.content, fetch.row.publisher)
        self._stage.count("blobs-fetched")
        self._held(fetch, fetch.holder.key)

    def _held(self, fetch: Fetch, source: PeerId) -> None:
        if not self._is_current(fetch):
            return
        if fetch.row.content not in self._machine.content:
            # What was here a moment ago is gone: with the disk, or let go for another name.
            self._ask(fetch)
            return
        self._plane.loaded[fetch.row.seed] = source
        self._end(fetch, "", "")

    def _failed(self, fetch: Fetch) -> None:
        if self._is_current(fetch):
            self._end(fetch, "unreachable", "no holder of the content sent it")

    def _end(self, fetch: Fetch, slug: str, reason: str) -> None:
        del self._fetches[fetch.row.seed]
        self._stage.note_load(self._machine, fetch.row.seed, slug or "ready")
        self._plane.tell_loaded(fetch.row.seed, slug, reason)

    def give_up(self, seed: Hash) -> None:
        """The brain wants it here no more: nothing more of it comes."""
        fetch = self._fetches.get(seed)
        if fetch is not None:
            self._stage.count("fetches-given-up")
            self._end(fetch, "unreachable", "it is not fetched any more")

    def is_under_way(self, seed: Hash) -> bool:
        """Whether a fetch of this seed goes on."""
        return seed in self._fetches

    # -- readers ----------------------------------------------------------------------------------

    def read(self, name: str) -> Read:
        """A user reads a blob here: from the disk, or from the replicas of its row."""
        read = Read(self._machine.name, name, self._stage.now)
        self._look(read)
        return read

    def _look(self, read: Read) -> None:
        if read.ended or not self._plane.is_running:
            return
        row = self._plane.seeds.get(self._plane.names.get(read.name, b""))
        if row is None:
            self._pause(read, "seed-not-found", "no row has that name")
        elif not may_pass(self._plane, self._machine.key, row):
            self._finish(read, "denied", "the gate does not let this reader pass")
        elif self._machine.content.is_for(row.content, row.publisher):
            self._finish(read, "", "")
        else:
            read.fetch = self._fetch_of(row, row.replicas)
            self._go_on(read)

    def _go_on(self, read: Read) -> None:
        fetch = read.fetch
        assert fetch is not None
        after = self._next_holder(fetch)
        if fetch.holder is None:
            self._pause(read, "unreachable", "no holder of the content sent it")
        else:
            self._stage.schedule(after, self._sent, read)

    def _sent(self, read: Read) -> None:
        if read.ended or not self._plane.is_running or read.fetch is None:
            return
        if self._has_come(read.fetch):
            self._stage.count("blobs-read")
            self._finish(read, "", "")
        else:
            self._go_on(read)

    def _pause(self, read: Read, slug: str, reason: str) -> None:
        """Who holds it is told within a moment, and a link to them may be on its way."""
        if self._stage.now >= read.began + _PATIENCE_NS:
            self._finish(read, slug, reason)
        else:
            self._stage.schedule(_PAUSE_NS, self._look, read)

    def _finish(self, read: Read, slug: str, reason: str) -> None:
        read.ended, read.slug, read.reason = self._stage.now, slug, reason

    # -- letting go -------------------------------------------------------------------------------

    def let_go(self, row: fx.SeedRow, machines: Sequence[Machine]) -> None:
        """The brain unpins a content; ``machines``: all that there are."""
        machine = self._machine
        if row.content not in machine.content:
            return
        machine.content.let_go(row.content)
        self._stage.note_load(machine, row.seed, "let go")
        is_lost = not any(row.content in m.content for m in machines if not m.is_gone)
        if is_lost and may_pass(self._plane, machine.key, row) and _is_named(row, machines):
            text = f"{machine.name} lets go of the last copy of {row.name!r}"
            self._stage.note_breach("no-last-copy-dropped", text)


def _is_named(row: fx.SeedRow, machines: Sequence[Machine]) -> bool:
    """Whether no machine that runs has heard that the name means something else by now."""
    held = [m.seeds.get(row.seed) for m in machines if m.is_up]
    return all(other is not None and other.name for other in held)
