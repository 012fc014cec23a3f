"""A model of one node's muscles: leased tables, content, loads; calls are in ``sim.muscles.calls``.

Decides: nothing of its own: what may be routed and loaded is what the brain pushed.
Does not know: records, plans, who is a member; the brain beyond the effects it was given.
Invariants: a push on another generation than the one held changes nothing. Content is given away
    only under a row that names it. A load without a row is a breach of the seam and is told so.
Source: docs/internals/seam.md; docs/design/protocol.md#tables (tables are leases).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core import limits
from pollen.core.ids import MICROSECOND, MILLISECOND, SECOND, Hash, PeerId, RequestId
from pollen.core.rng import Rng
from pollen.sim.muscles import modules
from pollen.sim.muscles.blobs import Blobs
from pollen.sim.muscles.calls import Call, Calls
from pollen.sim.muscles.end import End
from pollen.sim.muscles.network import Network
from pollen.sim.muscles.serving import may_have
from pollen.sim.world.machine import Machine

_BANDWIDTH_BYTES_S = 10_000_000
# A holder that does not answer costs a fetch so much before the next one is asked.
_SILENT_HOLDER_NS = 200 * MILLISECOND


class Stage(Protocol):
    """What the plane needs of the world."""

    now: int
    network: Network

    @property
    def all_machines(self) -> Sequence[Machine]:
        """Every machine of the world, running or not."""

    def schedule(self, after: int, call: Any, *args: Any) -> None:
        """Run ``call(*args)`` after so many nanoseconds."""

    def hand(self, machine: Machine, boots: int, event: ev.Event) -> None:
        """Give an event to a machine's brain."""

    def count(self, name: str, by: int = 1) -> None:
        """Note that something happened."""

    def note_breach(self, name: str, text: str) -> None:
        """An invariant was seen broken."""

    def note_execution(self, machine: Machine, call: Call, attempt: int, *, is_safe: bool) -> None:
        """An attempt of a call begins to run on a machine; ``is_safe``: the call may run again."""

    def note_end(self, call: Call) -> None:
        """A call came to its end."""

    def note_load(self, machine: Machine, seed: bytes, state: str) -> None:
        """A seed began to load, is ready, failed or is gone on a machine."""


class Plane:
    """The muscles of one machine's process; a new process has new ones."""

    def __init__(self, stage: Stage, machine: Machine, rng: Rng) -> None:
        self._stage = stage
        self.machine = machine
        self.boots = machine.boots
        self.seeds: dict[bytes, fx.SeedRow] = {}
        self.peers: dict[bytes, fx.PeerRow] = {}
        self.services: dict[bytes, fx.ServiceRow] = {}
        self.served: dict[bytes, fx.ServedRow] = {}
        self.names: dict[str, bytes] = {}
        # Whether packets of others are passed on here, and where others see this machine.
        self.relays = False
        self.seen_at: list[str] = []
        self.generation = 0
        self.lease_until = 0
        # What runs here for callers; and what was loaded and is closed to them until a row names
        # this node. ``checked``: of those, the ones whose check ended well.
        self.loaded: dict[bytes, PeerId] = {}
        self.closed: dict[bytes, PeerId] = {}
        self.checked: set[bytes] = set()
        # Loads under way: whether the brain waits for the end of each.
        self.flights: dict[bytes, bool] = {}
        self.calls = Calls(stage, self, rng)
        self.blobs = Blobs(stage, self)

    # -- tables -----------------------------------------------------------------------------------

    def push(self, push: fx.PushTables) -> bool:
        """What ``PushTables`` does; False when it builds on another generation than is held."""
        if push.base not in (0, self.generation):
            return False
        if push.base == 0:
            self.seeds, self.peers, self.services, self.served = {}, {}, {}, {}
        self.generation = push.generation
        seeds = push.lanes.get(fx.SEEDS, fx.LaneRows())
        peers = push.lanes.get(fx.PEERS, fx.LaneRows())
        for row in seeds.rows:
            self.seeds[row.seed] = row
            if self.machine.key in row.replicas:
                self._open(row)
        for peer_row in peers.rows:
            self.peers[peer_row.peer] = peer_row
        for seed in seeds.gone:
            self.seeds.pop(seed, None)
        for name, held in ((fx.SERVICES, self.services), (fx.SERVED, self.served)):
            lane = push.lanes.get(name, fx.LaneRows())
            held.update((row.key, row) for row in lane.rows)
            for key in lane.gone:
                held.pop(key, None)
        gone = [peer for peer in peers.gone if self.peers.pop(peer, None) is not None]
        if push.base == 0 or not seeds.is_empty:
            self.names = {row.name: seed for seed, row in self.seeds.items() if row.name}
        # The lease runs on the machine's own clock, as its muscles' does.
        self.lease_until = self._mono() + push.lease_ms * MILLISECOND
        for end in [e for e in self._stage.network.ends_of(self.machine) if e.peer in gone]:
            if end.is_routed:
                code, reason = limits.CLOSE_DENIED, "no member any more"
                self._stage.network.close(self.machine, end.link, code, reason)
        self.calls.look_again()
        return True

    def _open(self, row: fx.SeedRow) -> None:
        """Callers may use a replica that was closed."""
        source = self.closed.pop(row.seed, None)
        if source is None:
            return
        if row.seed not in self.checked:
            text = f"{self.machine.name} claims {row.name!r} ready, whose check did not succeed"
            self._stage.note_breach("checked-before-ready", text)
        self.loaded[row.seed] = source
        self._stage.note_load(self.machine, row.seed, "ready")
        self.calls.serving.on_loaded(row.seed)

    def _mono(self) -> int:
        return self.machine.clock.mono(self._stage.now)

    @property
    def is_running(self) -> bool:
        """Whether the process that these muscles are of still runs."""
        return self.boots == self.machine.boots and self.machine.node is not None

    @property
    def is_leased(self) -> bool:
        """Whether the last push still holds."""
        return self._mono() < self.lease_until

    def all_peers(self) -> list[PeerId]:
        """Every member of the table but this node."""
        return [PeerId(peer) for peer in self.peers if peer != self.machine.key]

    # -- content and loads ------------------------------------------------------------------------

    def inspect(self, effect: fx.InspectModule) -> None:
        """What ``InspectModule`` does."""
        is_own = self.machine.content.is_for(effect.content, self.machine.key)
        module = modules.find(effect.content) if is_own else None
        is_blob = effect.kind != fx.MODULE
        event = ev.ModuleInspected(
            request=RequestId(effect.request),
            content=effect.content,
            size=module.size if module else 0,
            functions=list(module.functions) if module and not is_blob else [],
            slug="" if module else "blob-not-found",
            reason="" if module else "no such content here",
        )
        self._stage.schedule(MILLISECOND, self._stage.hand, self.machine, self.boots, event)

    def load(self, effect: fx.LoadSeed) -> None:
        """What ``LoadSeed`` does: fetch from the holders in their order, compile, warm up. A load
        under way is joined; what a call woke meanwhile is there."""
        if effect.seed in self.loaded or effect.seed in self.closed:
            self._stage.schedule(0, self.tell_loaded, effect.seed, "", "")
        elif effect.seed in self.flights:
            self.flights[effect.seed] = True
        elif self.blobs.is_under_way(effect.seed):
            return
        elif effect.seed in self.seeds and self.seeds[effect.seed].kind != fx.MODULE:
            self.blobs.load(effect, self.seeds[effect.seed])
        else:
            self._begin_load(effect, is_told=True)

    def wake(self, seed: Hash) -> None:
        """Load a seed for a call that asked: from whoever has it."""
        if seed not in self.flights and seed not in self.closed:
            self._stage.count("wakes")
            self._begin_load(fx.LoadSeed(seed=seed, holders=self._holders(seed)), is_told=False)

    def _holders(self, seed: Hash) -> list[PeerId]:
        wake = self.seeds[seed].wake
        return sorted(self.all_peers(), key=lambda peer: (peer not in wake, peer))

    def _begin_load(self, effect: fx.LoadSeed, *, is_told: bool) -> None:
        """``is_told``: the brain asked, and waits for ``LoadFinished``."""
        row = self.seeds.get(effect.seed)
        if row is None:
            text = f"{self.machine.name} loads {effect.seed.hex()[:8]} without a row"
            self._stage.note_breach("row-before-load", text)
            return
        self.flights[effect.seed] = is_told
        self._stage.note_load(self.machine, effect.seed, "loading")
        module, held = modules.find(row.content), self.machine.content
        after = MILLISECOND
        source = self.machine.key if held.is_for(row.content, row.publisher) else None
        # Of what is here for another owner's specs a holder shows that it has it for this one's.
        size = 0 if row.content in held else module.size
        for holder in effect.holders if source is None else ():
            end = self._stage.network.routed(self.machine, holder)
            if end is None or not self._stage.network.is_heard(end):
                after += _SILENT_HOLDER_NS
                continue
            after += 4 * end.way_ns + size * SECOND // _BANDWIDTH_BYTES_S
            plane = None if end.other is None else end.other.machine.plane
            if plane is not None and plane.gives(row, self.machine.key):
                source = holder
                break
        after += module.compile_ns
        self._stage.schedule(after, self._loaded, effect.seed, row, source)

    def gives(self, asked: fx.SeedRow, reader: PeerId) -> bool:
        """Whether this node sends the content of a seed to a member: its own row names it and lets
        it, and it is here for the row's publisher."""
        row, held = self.seeds.get(asked.seed), self.machine.content
        if row is None or row.content != asked.content:
            return False
        return held.is_for(row.content, row.publisher) and may_have(self, reader, row)

    def _loaded(self, seed: Hash, row: fx.SeedRow, source: PeerId | None) -> None:
        machine = self.machine
        if not self.is_running:
            return
        slug, reason = "", ""
        if source is None:
            slug, reason = "unreachable", "no holder could be reached"
        elif machine.cannot_load or not self._has_room(row):
            slug, reason = "guest-out-of-memory", "this machine has no room for the module"
        else:
            machine.content.keep(row.content, row.publisher)
            (self.closed if row.options.check else self.loaded)[seed] = source
            self._stage.count("loads")
        is_closed = seed in self.closed
        self._stage.note_load(machine, seed, slug or ("closed" if is_closed else "ready"))
        if self.flights.pop(seed, True):
            self.tell_loaded(seed, slug, reason)
        elif not slug:
            self._stage.hand(machine, self.boots, ev.SeedWoken(seed=seed))
        if not is_closed:
            self.calls.serving.on_loaded(seed)

    def tell_loaded(self, seed: Hash, slug: str, reason: str) -> None:
        """A load that the brain asked for ended."""
        event = ev.LoadFinished(seed=seed, slug=slug, reason=reason)
        self._stage.hand(self.machine, self.boots, event)

    def _has_room(self, row: fx.SeedRow) -> bool:
        held = [key for key in (*self.loaded, *self.closed) if key in self.seeds]
        held = [key for key in held if self.seeds[key].kind == fx.MODULE]
        used = sum(self.seeds[key].options.memory_bytes for key in held)
        return used + row.options.memory_bytes <= self.machine.memory_bytes

    def unload(self, seed: Hash, *, keep: bool) -> None:
        """What ``UnloadSeed`` does; content that no other row names is let go, or kept."""
        self.checked.discard(seed)
        was_closed = self.closed.pop(seed, None) is not None
        if self.loaded.pop(seed, None) is not None or was_closed:
            self._stage.note_load(self.machine, seed, "gone")
        if was_closed:
            # Who waited for it is refused.
            self.calls.serving.on_loaded(seed)
        self.blobs.give_up(seed)
        row = self.seeds.get(seed)
        if row is None or keep:
            return
        if any(r.content == row.content and r.seed != seed for r in self.seeds.values()):
            return
        if row.kind != fx.MODULE:
            self.blobs.let_go(row, self._stage.all_machines)
        else:
            self.machine.content.let_go(row.content)

    # -- calls of the brain ------------------------------------------------------------------------

    def begin_call(self, effect: fx.BeginCall) -> None:
        """What ``BeginCall`` does: on this node's own replica, or as a call from a door."""
        row = self.seeds.get(effect.seed)
        is_held = effect.seed in self.loaded or effect.seed in self.closed
        if row is None or (effect.here and not is_held):
            self._end_call(effect, "seed-not-found", "the seed is not loaded here", 0)
        elif effect.here:
            run_ns = modules.find(row.content).run_ns
            self._stage.count("checks")
            self._stage.schedule(run_ns, self._ran_here, effect, run_ns)
        else:
            self.calls.begin_own(effect, row.name, self._end_call)

    def _ran_here(self, effect: fx.BeginCall, run_ns: int) -> None:
        fails = self.machine.fails_checks
        if not fails and effect.seed in self.closed:
            self.checked.add(effect.seed)
        reason = "what it looks for is not on this machine"
        slug, reason = ("guest-failed", reason) if fails else ("", "")
        self._end_call(effect, slug, reason, run_ns)

    def _end_call(self, effect: fx.BeginCall, slug: str, reason: str, run_ns: int) -> None:
        event = ev.CallEnded(
            token=effect.token, slug=slug, reason=reason, run_us=run_ns // MICROSECOND
        )
        self._stage.hand(self.machine, self.boots, event)

    # -- what the brain is told -------------------------------------------------------------------

    def telemetry(self) -> ev.Telemetry:
        """The counters, as the muscles report them twice a second."""
        sample = self.calls.serving.sample
        return ev.Telemetry(
            peers=self._stage.network.sample(self.machine),
            seeds=[ev.SeedSample(Hash(seed), *sample(seed)) for seed in self.seeds],
            memory_bytes=0,
            events_dropped=0,
            control_stalls=0,
            disk_bytes=self.machine.report_free(),
        )

    def link_ready(self) -> None:
        """A link carries calls from now on."""
        self.calls.look_again()

    def link_lost(self, end: End) -> None:
        """A link end is no more."""
        self.calls.on_link_lost(end)
