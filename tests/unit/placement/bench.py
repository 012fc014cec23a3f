"""A bench for hosting: one node's seeds, with claims, plan and time in the test's hands."""

from __future__ import annotations

from typing import Any

import msgspec

from pollen.core import effects as fx
from pollen.core.codec import encode
from pollen.core.events import LoadFinished
from pollen.core.ids import Hash, Nanos, Now, PeerId
from pollen.core.names import Holding
from pollen.core.placement import Placement, State
from pollen.core.placement.claims import Claim, Claims
from pollen.core.placement.entry import View
from pollen.core.placement.hosting import Hosting
from pollen.core.placement.roles import Role, roles_of
from pollen.core.policy import Party
from pollen.core.seeds import Seed
from tests.strategies import make_record
from tests.unit.names.test_named import A, B, C, seed
from tests.unit.turns import effects_of

ECHO, NEXT = seed(A), msgspec.structs.replace(seed(A, epoch=2), previous=seed(A))
NONE = msgspec.structs.replace(ECHO, spec=msgspec.structs.replace(ECHO.spec, min_replicas=0))
GIB = 1 << 30


class Bench:
    """One node's hosting, with claims, plan and time in the test's hands."""

    def __init__(self, own: PeerId = A, properties: str = "{}", holding: Seed = ECHO) -> None:
        self.own, self.hosting = own, Hosting(own, Party(properties=properties), GIB)
        self.hosting.space.has_heard = True
        self.claims, self.linked = Claims(), {A, B, C}
        self.placements: dict[Hash, Placement] = {}
        self.mono, self.seq, self.roles = 1, 0, dict[Hash, Role]()
        self.hold(holding)

    def hold(self, holding: Seed, is_halted: bool = False) -> None:
        self.roles.clear()
        held = Holding(name="echo", holder=holding, shadowed=[])
        self.roles |= {role.seed.seed: role for role in roles_of(held, is_halted)}

    @property
    def now(self) -> Now:
        return Now(Nanos(self.mono), Nanos(self.mono))

    @property
    def view(self) -> View:
        return View(
            roles=self.roles,
            placement=self.placements.get,
            claims=self.claims,
            is_linked=self.linked.__contains__,
        )

    def plan(self, *ranks: PeerId, wanted: int | None = None, of: Seed = ECHO) -> None:
        self.placements[of.seed] = Placement(len(ranks) if wanted is None else wanted, ranks)

    def claim(self, node: PeerId, state: State, of: Seed = ECHO, **fields: Any) -> None:
        self._say(node, of, encode(Claim(int(state), **fields)))

    def bury(self, node: PeerId, of: Seed = ECHO) -> None:
        self._say(node, of, b"")

    def _say(self, node: PeerId, of: Seed, body: bytes) -> None:
        self.seq += 1
        self.claims.set_live(node, 1)
        self.claims.apply(make_record(node, "claim", of.seed, 1, self.seq, not body, body))

    def turn(self, after: int = 0, of: Seed = ECHO) -> list[fx.Effect]:
        """Time passes, this node looks at the seed, and what it claims becomes a record."""
        self.mono += after
        out = effects_of(self.now, lambda turn: self.hosting.converge(of.seed, self.view, turn))
        claim = self.hosting.claim(of.seed)
        self._say(self.own, of, b"" if claim is None else encode(claim))
        return [effect for effect in out if not isinstance(effect, fx.SetTimer)]

    def finish(self, slug: str = "", of: Seed = ECHO) -> list[fx.Effect]:
        event = LoadFinished(seed=of.seed, slug=slug, reason="because")
        return effects_of(
            self.now, lambda turn: self.hosting.on_load_finished(event, self.view, turn)
        )

    def state(self, of: Seed = ECHO) -> State:
        claim = self.hosting.claim(of.seed)
        return State.ABSENT if claim is None else State(claim.state)

    def serve(self, of: Seed = ECHO) -> None:
        self.plan(self.own, of=of)
        self.turn(of=of)
        self.finish(of=of)
        self.turn(of=of)
        assert self.state(of) is State.READY
