"""The part of a seed in its name, and what that asks of the nodes that hold it.

Decides: which seeds a live name needs, who may hold one, whom to ask for its content, how long a
    load of it may take, and how many others must be ready before a holder may go.
Does not know: what one node does about it (``hosting``), the plan.
Invariants: pure functions of a seed and what the records say.
Source: docs/internals/placement.md#claims-and-hosting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from pollen.core import limits
from pollen.core.ids import SECOND, Hash, PeerId
from pollen.core.names import Holding
from pollen.core.placement.claims import Host, State
from pollen.core.placement.plan import Need, Placement, Takes
from pollen.core.policy import Party
from pollen.core.seeds import Seed

# A blob that comes more slowly than this is given up by its host. Guess: a line of 2 Mbit/s.
_FETCH_LEAST_BYTES_S: Final = 256 * 1024


class Role(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A seed that a live name needs. ``leads`` is the seed that is to serve under the name.
    ``heir`` is whose copies must be there before those of this one may go: its own, where copies of
    it are wanted; else those of the seed that leads. ``elder`` is the one that it takes over from.
    ``is_kept``: its owner may come back to it. ``former``: of the one that leads, those that are
    kept and held, the newest first.
    """

    name: str
    seed: Seed
    heir: Hash
    leads: Hash
    elder: Hash | None = None
    is_kept: bool = False
    former: tuple[Hash, ...] = ()


def roles_of(holding: Holding[Seed], is_halted: bool, is_homeless: bool = False) -> list[Role]:
    """The seeds of one name: the one to serve first, then the one that it takes over from, then
    those that are kept. Of a former version that is not run as many copies are wanted as before,
    and of the one that is taken over from while the newest is refused and ready nowhere
    (``is_homeless``): whoever starts again would have neither."""
    if not holding.is_live:
        return []
    current, previous = holding.holder, holding.holder.previous
    serving, others = current, [] if previous is None else [previous]
    if previous is not None and is_halted:
        # While it is halted the new version stays out: the old one has nothing to take over.
        serving, others = previous, [current]
    elder = previous.seed if previous is not None and serving is current else None
    leads = serving.seed
    kept = {seed.seed: seed for seed in current.kept if seed.seed != leads}
    former = tuple(key for key, seed in kept.items() if seed.is_blob)
    first = Role(
        name=holding.name, seed=serving, heir=leads, leads=leads, elder=elder, former=former
    )
    roles = [first]
    for key, seed in ({seed.seed: seed for seed in others} | kept).items():
        heir = key if key in former or (is_homeless and key == elder) else leads
        role = Role(name=holding.name, seed=seed, heir=heir, leads=leads, is_kept=key in kept)
        roles.append(role)
    return roles


def gate_of(seed: Seed) -> tuple[tuple[str, str], ...]:
    """The properties that its hosts need. A holder of a blob can read it, unless it is sealed: it
    needs those of readers, too."""
    pairs = [*seed.spec.host, *(seed.spec.allow if _is_readable(seed) else ())]
    return tuple((key, value) for key, value in pairs)


def need_of(seed: Seed) -> Need:
    """What a seed asks of the plan. A blob takes disk, and holders that can read it pass what
    readers do."""
    return Need(
        copies=seed.options.min_replicas,
        everywhere=seed.options.everywhere,
        gate=gate_of(seed),
        policy=seed.host_if,
        readers=seed.allow_if if _is_readable(seed) else None,
        takes=Takes.DISK if seed.is_blob else Takes.MEMORY,
    )


def _is_readable(seed: Seed) -> bool:
    """Whether whoever holds it can read it."""
    return seed.is_blob and not seed.options.sealed


def may_host(seed: Seed, node: Party) -> bool:
    """Whether a node passes the seed's host gate and its policies."""
    return need_of(seed).lets(node)


def plan_holders(
    seed: Seed, hosts: Sequence[Host], is_linked: Callable[[PeerId], bool]
) -> list[PeerId]:
    """Whom to ask for the content: the publisher first, then those who have it loaded, by id."""
    ready = sorted(h.node for h in hosts if h.state in (State.READY, State.DRAINING))
    return [peer for peer in dict.fromkeys([seed.owner, *ready]) if is_linked(peer)]


def load_deadline(seed: Seed) -> int:
    """Nanoseconds that a load may take; of a blob longer, by its size."""
    if not seed.is_blob:
        return limits.LOAD_DEADLINE_NS
    return limits.LOAD_DEADLINE_NS + seed.spec.size_bytes * SECOND // _FETCH_LEAST_BYTES_S


def load_wait(attempts: int) -> int:
    """Nanoseconds before a failed fetch is tried again: doubled each time up to the cap."""
    return int(min(limits.LOAD_RETRY_FIRST_NS << min(attempts, 16), limits.LOAD_RETRY_MAX_NS))


def mib(size: int) -> int:
    """Mebibytes, rounded up."""
    return -(-size >> 20)


def minimum_of(seed: Seed, placement: Placement) -> int:
    """How many others must be ready before a replica may go: none only when none is wanted."""
    if placement.wanted == 0 and seed.spec.min_replicas == 0:
        return 0
    return max(1, min(seed.spec.min_replicas, placement.wanted))
