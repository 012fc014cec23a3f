"""A simulated machine: what survives a crash (disk, content, key) and what does not.

Decides: what time its two clocks show, what is on its disk after a crash, and whether its process
    hears anything now.
Does not know: links, tables, other machines.
Invariants: a row counts as on disk only when its batch was committed. A crash keeps a prefix of the
    batches that were under way, never a later one without an earlier one. The monotonic clock never
    goes back and stands still while the machine sleeps; the wall clock may do anything.
Source: docs/design/protocol.md#identity-and-clocks, docs/design/protocol.md#durability; the lost
unsynced writes of TigerBeetle's VOPR.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from pollen.core import durability, restoring
from pollen.core.effects import Effect, Log, PeerRow, Reply, SeedRow, ServedRow, ServiceRow
from pollen.core.events import Event, ListenerOpened, ServiceProbed
from pollen.core.ids import BOOT_BYTES, MILLISECOND, SECOND, Nanos, Now, PeerId, Token
from pollen.core.node import Node
from pollen.core.restoring import Identity, Restored
from pollen.sim.muscles import modules

if TYPE_CHECKING:
    from pollen.sim.muscles.plane import Plane

# Where every wall clock begins: the end of 2023, so that dates in certificates look like dates.
WALL_ZERO = 1_700_000_000 * SECOND
_PPM = 1_000_000

Rows = Sequence[tuple[str, bytes, bytes | None]]
Image = dict[str, dict[bytes, bytes]]


@dataclass(slots=True)
class Clock:
    """A machine's two clocks as functions of the world's time."""

    since: int = 0
    mono_zero: int = 0
    drift_ppm: int = 0
    wall_offset: int = 0

    def mono(self, true: int) -> int:
        """The monotonic clock."""
        return self.mono_zero + (true - self.since) * (_PPM + self.drift_ppm) // _PPM

    def true_at(self, mono: int) -> int:
        """The first moment of the world at which the monotonic clock shows this or more."""
        return self.since - (-(mono - self.mono_zero) * _PPM // (_PPM + self.drift_ppm))

    def now(self, true: int) -> Now:
        """Both clocks together, as an event is handed in."""
        return Now(Nanos(self.mono(true)), Nanos(WALL_ZERO + true + self.wall_offset))

    def stop_for(self, true: int, nanos: int) -> None:
        """The machine slept: the monotonic clock goes on from where it was ``nanos`` ago."""
        held = self.mono(true - nanos)
        self.since, self.mono_zero = true, held


class Disk:
    """Rows by table, and the batches that are not committed yet."""

    def __init__(self) -> None:
        self.tables: Image = {}
        self.pending: deque[Rows] = deque()
        self.free_at = 0

    def submit(self, batch: Rows) -> None:
        """A batch is on its way: lost by a crash until it is committed."""
        self.pending.append(batch)

    def commit(self) -> None:
        """The oldest batch under way is on disk."""
        self.write(self.pending.popleft())

    def crash(self, kept: int) -> int:
        """Keep the first ``kept`` batches under way, lose the others. Returns how many went."""
        for _ in range(min(kept, len(self.pending))):
            self.commit()
        lost = len(self.pending)
        self.pending.clear()
        return lost

    def write(self, batch: Rows) -> None:
        """Write rows; None deletes."""
        for table, key, value in batch:
            held = self.tables.setdefault(table, {})
            if value is None:
                held.pop(key, None)
            else:
                held[key] = value

    def image(self) -> Image:
        """A copy of what is on disk now."""
        return {table: dict(rows) for table, rows in self.tables.items()}

    def replace(self, image: Image) -> None:
        """The disk is this image from now on."""
        self.tables = {table: dict(rows) for table, rows in image.items()}
        self.pending.clear()

    def merge(self, image: Image) -> None:
        """The rows of an image on top of what is here."""
        for table, rows in image.items():
            self.tables.setdefault(table, {}).update(rows)

    def wipe(self) -> None:
        """Nothing is left but who this node is: the key is on another medium."""
        held = self.tables.get(durability.META_TABLE, {})
        chain = durability.CHAIN_KEY
        keep = (restoring.CLUSTER_KEY, restoring.ROOT_KEY, chain, restoring.NAME_KEY)
        self.tables = {durability.META_TABLE: {key: held[key] for key in keep if key in held}}
        self.pending.clear()

    def restored(self) -> Restored:
        """What a starting node reads."""
        return {table: sorted(rows.items()) for table, rows in self.tables.items()}


class Contents(set[bytes]):
    """The contents on one disk, and for the specs of which owners each was got. What was put there
    without a word is for all."""

    def __init__(self) -> None:
        super().__init__()
        self._owners: dict[bytes, set[bytes]] = {}

    def keep(self, content: bytes, owner: bytes) -> None:
        """It is here for an owner."""
        if content not in self:
            self._owners[content] = set()
        self.add(content)
        if content in self._owners:
            self._owners[content].add(owner)

    def is_for(self, content: bytes, owner: bytes) -> bool:
        """Whether it is here for an owner."""
        return content in self and owner in self._owners.get(content, (owner,))

    def let_go(self, content: bytes) -> None:
        """It is here for nobody any more."""
        self.discard(content)
        self._owners.pop(content, None)

    def clear(self) -> None:
        """The disk is lost."""
        super().clear()
        self._owners.clear()


@dataclass(slots=True, eq=False)
class Machine:
    """One machine. ``node`` is None while no process runs; ``boots`` counts its starts.

    ``busy_until``: the brain takes no turn before (a stall). ``is_frozen``: the whole process
    stands still, muscles too. ``trace`` holds its effects while ``keeps_trace``. ``taken_ports``:
    where no listener can be opened. ``failing_targets``: the programs that fail their check there,
    after ``probe_ns``.
    ``relays``: the setting of this name, read at a start.
    ``disk_bytes`` is the room for content, of which others use ``foreign_bytes``. What users put
    there are ``uploaded_bytes`` in all; of both together the brain was told of ``told_bytes``.
    ``sends_wrong``: what it sends of a blob is not what the hash says. ``losses`` counts how often
    its content was lost with its disk.
    """

    name: str
    key: PeerId
    index: int
    address: str
    root: PeerId | None = None
    memory_bytes: int = 1 << 30
    disk_bytes: int = 1 << 36
    foreign_bytes: int = 0
    uploaded_bytes: int = 0
    reported_bytes: int = 0
    told_bytes: int = 0
    sends_bytes_s: int = 10_000_000
    line_free_at: int = 0
    sends_wrong: bool = False
    losses: int = 0
    clock: Clock = field(default_factory=Clock)
    disk: Disk = field(default_factory=Disk)
    content: Contents = field(default_factory=Contents)
    identity: Identity | None = None
    node: Node | None = None
    plane: Plane | None = None
    boots: int = 0
    is_frozen: bool = False
    asleep_since: int | None = None
    busy_until: int = 0
    stalled_since: int = 0
    inbox: deque[Event] = field(default_factory=deque)
    timers: dict[Token, int] = field(default_factory=dict)
    replies: dict[int, Reply] = field(default_factory=dict)
    answers: dict[int, bytes] = field(default_factory=dict)
    logs: list[Log] = field(default_factory=list)
    trace: list[Effect] = field(default_factory=list)
    keeps_trace: bool = True
    is_malicious: bool = False
    is_gone: bool = False
    is_denied: bool = False
    cannot_load: bool = False
    fails_checks: bool = False
    taken_ports: set[str] = field(default_factory=set)
    failing_targets: set[str] = field(default_factory=set)
    probe_ns: int = MILLISECOND
    relays: bool = True
    handled: int = 0

    @property
    def is_up(self) -> bool:
        """Whether a process runs and moves."""
        return self.node is not None and not self.is_frozen

    @property
    def blob_bytes(self) -> int:
        """What the files that it holds take of its disk."""
        return modules.size_on_disk(self.content)

    @property
    def free_bytes(self) -> int:
        """What is free where content is kept."""
        return max(self.disk_bytes - self.foreign_bytes - self.blob_bytes, 0)

    def report_free(self) -> int:
        """The same, as telemetry tells it to the brain."""
        self.reported_bytes = self.foreign_bytes + self.uploaded_bytes
        return self.free_bytes

    @property
    def untold_bytes(self) -> int:
        """What others and users put on the disk since the brain was told."""
        return max(self.foreign_bytes + self.uploaded_bytes - self.told_bytes, 0)

    def upload(self, content: bytes) -> None:
        """A user puts a content on its disk."""
        if content not in self.content:
            self.uploaded_bytes += modules.size_on_disk([content])
        self.content.keep(content, self.key)

    def take_line(self, at: int, size: int) -> int:
        """It sends so many bytes from then on, after what it sends already: when all is sent."""
        self.line_free_at = max(at, self.line_free_at) + size * SECOND // self.sends_bytes_s
        return self.line_free_at

    @property
    def boot(self) -> bytes:
        """The boot id of the run that is or was the last."""
        text = f"{self.name}/{self.boots}".encode()
        return hashlib.blake2b(text, digest_size=BOOT_BYTES).digest()

    def show(self, chain: bytes) -> None:
        """What the machine says in every later Hello."""
        if self.identity is not None:
            self.identity = msgspec.structs.replace(self.identity, chain=chain)

    @property
    def seeds(self) -> dict[bytes, SeedRow]:
        """The seeds' rows that the muscles hold."""
        return {} if self.plane is None else self.plane.seeds

    @property
    def peers(self) -> dict[bytes, PeerRow]:
        """The members' rows that the muscles hold."""
        return {} if self.plane is None else self.plane.peers

    @property
    def services(self) -> dict[bytes, ServiceRow]:
        """The rows of services that the muscles hold."""
        return {} if self.plane is None else self.plane.services

    @property
    def served(self) -> dict[bytes, ServedRow]:
        """The rows of what this machine serves that the muscles hold."""
        return {} if self.plane is None else self.plane.served

    @property
    def loaded(self) -> dict[bytes, PeerId]:
        """The seeds that can run here, and from whom each was fetched."""
        return {} if self.plane is None else self.plane.loaded

    def probed(self, number: int, target: str) -> ServiceProbed:
        """What comes of checking a program: those at ``failing_targets`` answer in error."""
        if target in self.failing_targets:
            reason = "it answered HTTP 500"
            return ServiceProbed(number=number, slug="provider-refused", reason=reason)
        return ServiceProbed(number=number)

    def opened(self, listener: int, bind: str) -> ListenerOpened:
        """What comes of opening a listener: any port is one that no other listener was given."""
        if bind in self.taken_ports:
            reason = f"cannot listen on {bind}: address already in use"
            return ListenerOpened(listener=listener, slug="port-in-use", reason=reason)
        if bind.endswith(":0"):
            bind = f"{bind[:-1]}{40_000 + listener}"
        return ListenerOpened(listener=listener, bound=bind)

    def beat_age(self, true: int) -> int:
        """Nanoseconds since the brain's last turn, as probes report it."""
        # A turn comes at least every second: on average it was half of that ago.
        return max(0, true - self.stalled_since) if self.busy_until > true else SECOND // 2
