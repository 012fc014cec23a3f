"""What must hold of members, links and authority: one function an invariant, named as it.

Decides: whether an invariant holds now, and what to say when it does not.
Does not know: how a node comes to a verdict; it looks from outside (``sim.verdict.observe``).
Invariants: a checker changes nothing.
Source: docs/internals/liveness.md#invariants and docs/internals/trust.md#invariants.
"""

from __future__ import annotations

from collections.abc import Callable

from pollen.core.ids import PeerId
from pollen.core.kinds import ACCUSE, CERT, DENY, NODE, REFUTE
from pollen.core.peers import Verdict
from pollen.sim.verdict import observe
from pollen.sim.verdict.case import Case, Checker, label_of
from pollen.sim.world.machine import Machine

_EVIDENCE = frozenset({NODE, CERT, DENY, ACCUSE, REFUTE})
# Links that a node of a large cluster has at least. Source: docs/design/protocol.md#liveness.
_VIEW = 8

# -- always ---------------------------------------------------------------------------------------


def self_lives(case: Case) -> list[str]:
    """A running node is in its own ``live``, unless it said that it left."""
    started = [m for m in case.honest() if observe.is_started(m) and not observe.has_left(m)]
    return [f"{m.name} is dead to itself" for m in started if m.key not in observe.live_of(m)]


def verdicts_agree(case: Case) -> list[str]:
    """Nodes that hold the same evidence judge every member alike."""
    return _judged_alike(case, observe.verdicts_of)


def halves_agree(case: Case) -> list[str]:
    """Nodes that hold the same evidence hold the same members dead, also while halves meet."""

    def dead(machine: Machine) -> dict[PeerId, Verdict]:
        verdicts = observe.verdicts_of(machine)
        return {peer: v for peer, v in verdicts.items() if v is Verdict.DEAD}

    return _judged_alike(case, dead)


def refutation_wins(case: Case) -> list[str]:
    """Nobody is judged dead but by accusations of its newest epoch and incarnation."""
    found = []
    for machine in case.honest():
        dead = [p for p, v in observe.verdicts_of(machine).items() if v is Verdict.DEAD]
        standing = observe.standing_accusations(machine) if dead else {}
        for peer in dead:
            if not standing.get(peer):
                text = f"{machine.name} judges {label_of(case, peer)} dead"
                found.append(f"{text} by nothing that it has not refuted")
    return found


def peers_never_given_up(case: Case) -> list[str]:
    """A wanted peer with an address is linked, or a timer will have it dialled."""
    found = []
    for machine in case.honest():
        is_late = machine.inbox or case.world.now < machine.busy_until
        for peer in () if is_late else observe.given_up(machine):
            found.append(f"{machine.name} has given up {label_of(case, peer)}")
    return found


def _judged_alike(case: Case, judge: Callable[[Machine], dict[PeerId, Verdict]]) -> list[str]:
    seen: dict[frozenset[bytes], tuple[Machine, dict[PeerId, Verdict]]] = {}
    found = []
    for machine in case.honest():
        if not observe.has_published(machine):
            continue  # It alone knows yet that this run of it lives.
        records = observe.records_of(machine).values()
        evidence = frozenset(r.digest for r in records if r.body.kind in _EVIDENCE)
        said = judge(machine)
        first, base = seen.setdefault(evidence, (machine, said))
        for peer in sorted({*said, *base}):
            if said.get(peer) is not base.get(peer):
                text = f"{first.name} and {machine.name} judge {label_of(case, peer)}"
                found.append(f"{text} differently from the same records")
    return found


# -- settled --------------------------------------------------------------------------------------


def members_agree(case: Case) -> list[str]:
    """Every node's table lists exactly the members that run."""
    wanted = tuple(sorted(m.key.hex() for m in case.members()))
    found = []
    for machine in case.honest():
        held = observe.members_of(machine)
        missing = [label_of(case, bytes.fromhex(p)) for p in wanted if p not in held]
        extra = [label_of(case, bytes.fromhex(p)) for p in held if p not in wanted]
        if missing:
            found.append(f"{machine.name} misses {' '.join(missing)}")
        if extra:
            found.append(f"{machine.name} still counts {' '.join(extra)}")
    return found


def no_false_verdict(case: Case) -> list[str]:
    """A node that runs and that everybody can reach is believed dead by nobody."""
    found = []
    for machine in case.honest():
        live = observe.live_of(machine)
        dead = [m.name for m in case.members() if m.key not in live]
        if dead:
            found.append(f"{machine.name} believes {' '.join(dead)} dead")
    return found


def dead_are_found(case: Case) -> list[str]:
    """A node that does not run is alive to nobody."""
    running = {machine.key for machine in case.world.up()}
    found = []
    for machine in case.honest():
        ghosts = [label_of(case, p) for p in sorted(observe.live_of(machine)) if p not in running]
        if ghosts:
            found.append(f"{machine.name} believes {' '.join(ghosts)} alive")
    return found


def view_symmetric(case: Case) -> list[str]:
    """Each ring neighbour of a node has that node as ring neighbour."""
    rings = {m.key: (m, dict.fromkeys(observe.ring_of(m))) for m in case.honest()}
    found = []
    for key, (machine, ring) in rings.items():
        for peer in ring:
            other = rings.get(peer)
            if other is not None and key not in other[1]:
                found.append(f"{machine.name} has {other[0].name} beside it, not so vice versa")
    return found


def view_wide_enough(case: Case) -> list[str]:
    """Each live node has min(8, n - 1) links, and who is linked with whom is one piece."""
    members = {m.key: m for m in case.members()}
    linked = {
        m.key: {e.peer for e in case.world.network.ends_of(m) if e.is_routed and e.peer in members}
        for m in members.values()
    }
    wanted = min(_VIEW, len(members) - 1)
    found = [
        f"{members[key].name} has {len(peers)} links of {wanted}"
        for key, peers in sorted(linked.items())
        if len(peers) < wanted
    ]
    reached: dict[PeerId, None] = {}
    ahead = sorted(linked)[:1]
    while ahead:
        key = ahead.pop()
        if key not in reached:
            reached[key] = None
            ahead += sorted(linked[key])
    if len(reached) < len(linked):
        found.append(f"only {len(reached)} of {len(linked)} nodes are linked with each other")
    return found


def authority_is_a_function(case: Case) -> list[str]:
    """All nodes count the same certificates."""
    views = [(m, observe.certificates_of(m)) for m in case.honest()]
    first, base = views[0] if views else (None, {})
    return [
        f"{machine.name} and {first.name} count different certificates"
        for machine, view in views[1:]
        if first is not None and view != base
    ]


ALWAYS: list[Checker] = [
    self_lives,
    verdicts_agree,
    halves_agree,
    refutation_wins,
    peers_never_given_up,
]
SETTLED: list[Checker] = [
    members_agree,
    no_false_verdict,
    dead_are_found,
    view_symmetric,
    view_wide_enough,
    authority_is_a_function,
]
