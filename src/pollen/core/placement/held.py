"""The blobs on this node's disk, remembered from run to run.

Decides: of which blobs a run that begins says again that it holds them.
Does not know: whether the content is still there: the muscles tell when it is loaded.
Invariants: a row stands from the moment in which a copy is claimed ready, or its file published
    here, until its content is let go. Claims die with a run. Without the rows, copies that the plan
    of the next run ranks elsewhere are on disks where nobody looks for them.
Source: docs/internals/content.md#after-a-restart. Refused: claims on disk, which would speak for a
    run that is over; to ask every member for a content, which a large cluster cannot bear.
"""

from __future__ import annotations

from collections.abc import Sequence

from pollen.core import limits
from pollen.core.codec import Rejection
from pollen.core.ids import Hash
from pollen.core.seeds import Seed
from pollen.core.turn import Turn

HELD_TABLE = "held"


class Held:
    """The seeds of the blobs on the disk; ``recall`` tells of each once whether it was there."""

    def __init__(self) -> None:
        self._seeds: dict[Hash, None] = {}
        self._recalled: dict[Hash, None] = {}
        # What lies on the disk without being claimed, and what its user took back or replaced.
        self._unclaimed: dict[Hash, Seed] = {}
        self._disowned: dict[Hash, None] = {}

    def restore(self, rows: Sequence[tuple[bytes, bytes]]) -> list[Rejection]:
        """What was held when this node stopped; the faults in what its disk holds."""
        odd = [key for key, _ in rows if len(key) != limits.HASH_BYTES]
        self._seeds = {Hash(key): None for key, _ in rows if key not in odd}
        self._recalled = dict(self._seeds)
        return [Rejection("held-row", key.hex()[:80]) for key in odd]

    def __contains__(self, key: Hash) -> bool:
        return key in self._seeds

    def recall(self, key: Hash) -> bool:
        """Whether the run before held a blob of which this run has said nothing yet."""
        return self._recalled.pop(key, key) is None

    def note_unclaimed(self, seed: Seed) -> None:
        """A name needs it, and this node claims no copy: it is where it was published."""
        if seed.seed in self._seeds:
            self._unclaimed[seed.seed] = seed

    def disown(self, key: Hash) -> None:
        """The user who published it here took it back, or published another version."""
        if key in self._seeds:
            self._disowned[key] = None

    def take_disowned(self, key: Hash) -> Seed | None:
        """What may leave the disk with its last name: what nobody claims, and its user gave up."""
        seed = self._unclaimed.pop(key, None)
        return seed if self._disowned.pop(key, key) is None else None

    def note(self, key: Hash, turn: Turn, *, is_held: bool) -> None:
        """A copy was claimed ready or published here, or its content is let go."""
        self._recalled.pop(key, None)
        self._unclaimed.pop(key, None)
        if is_held == (key in self._seeds):
            return
        if is_held:
            self._seeds[key] = None
        else:
            del self._seeds[key]
        turn.write((HELD_TABLE, key, b"" if is_held else None))
