"""What is free on this node for seeds: memory for what runs, disk for blobs.

Decides: whether a seed finds room here, and in which words it does not.
Does not know: why a seed is to come, what the plan says; who else fills the disk.
Invariants: the disk is not promised twice: a blob that loads takes its size from what is free until
    it is here, and afterwards until the muscles tell what is free then. A blob needs no room where
    its content is already. One that is not here is not fetched before this run has heard what the
    others hold: a node that starts would copy what has its copies. A quota keeps out what would
    come, and drops nothing that is here.
Source: docs/internals/content.md#room. Refused: to count the bytes of a load as they come, which
    the muscles tell in what is free; a load is counted twice meanwhile, and nobody overfills.
"""

from __future__ import annotations

from pollen.core.ids import Hash
from pollen.core.placement.claims import State
from pollen.core.placement.roles import mib
from pollen.core.seeds import Seed


class Space:
    """``disk_free_bytes`` is None until the disk was looked at: no blob is judged before.
    ``has_heard``: what the others hold is known; nothing is fetched before. ``quota_bytes``: what
    copies may take in all; 0 is no limit.
    """

    def __init__(self, capacity_bytes: int, quota_bytes: int = 0) -> None:
        self.free_bytes = capacity_bytes
        self._quota_bytes = quota_bytes
        self._held: dict[Hash, int] = {}
        self.disk_free_bytes: int | None = None
        self.has_heard = False
        self._coming: dict[Hash, int] = {}

    def judges(self, seed: Seed, *, is_here: bool) -> bool:
        """Whether it is known what is free for such a seed, and who holds what is not here."""
        is_known = self.disk_free_bytes is not None and (is_here or self.has_heard)
        return not seed.is_blob or is_known

    def offered(self, disk_bytes: int) -> int:
        """What of so many free bytes the quota leaves to copies, beside those that are here."""
        if not self._quota_bytes:
            return disk_bytes
        return min(disk_bytes, max(self._quota_bytes - sum(self._held.values()), 0))

    def lack(self, seed: Seed, *, is_here: bool) -> str:
        """Why a load would find no room, or nothing. ``is_here``: its content is on the disk."""
        need, free, where = seed.options.memory_bytes, self.free_bytes, ""
        if seed.is_blob:
            others = sum(self._coming.values()) - self._coming.get(seed.seed, 0)
            need = 0 if is_here else seed.spec.size_bytes
            free, where = max((self.disk_free_bytes or 0) - others, 0), " on the disk"
            left = self.offered(free) - (others if self._quota_bytes else 0)
            if left < free:
                free, where = max(left, 0), " of blob_bytes"
        if need <= free:
            return ""
        return f"no room: needs {mib(need)} MiB, {free >> 20} MiB are free{where}"

    def note(self, seed: Seed, state: State, *, is_here: bool, is_coming: bool) -> None:
        """A seed came to this state: what a blob that loads will take, or has taken. ``is_coming``:
        its load goes on, wanted or not."""
        if not seed.is_blob:
            return
        came = self._coming.pop(seed.seed, 0)
        if state in (State.READY, State.DRAINING):
            self._held[seed.seed] = seed.spec.size_bytes
        else:
            self._held.pop(seed.seed, None)
        if state is State.LOADING:
            self._coming[seed.seed] = 0 if is_here else seed.spec.size_bytes
        elif state is State.READY and self.disk_free_bytes is not None:
            self.disk_free_bytes = max(self.disk_free_bytes - came, 0)
        elif is_coming:
            self._coming[seed.seed] = came

    def forget(self, key: Hash) -> None:
        """A load that nobody wanted any more has ended."""
        self._coming.pop(key, None)
