"""Whether policies decide as they are written, read without the code that evaluates them.

Decides: what each policy of a run means, said by hand; where a call or a replica breaks it.
Does not know: how a policy is parsed or evaluated (``core.policy``).
Invariants: a look changes nothing.
Source: docs/design/policy.md#the-value-of-an-expression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pollen.core.ids import SECOND, PeerId
from pollen.core.trust import Certificate, Tier
from pollen.sim.verdict import observe
from pollen.sim.world.machine import Machine
from pollen.sim.world.world import World

# How long a replica may stand on a host that its policy excludes now: the claim spreads, and the
# replica drains. Guess: twice what it takes.
SETTLE_NS = 20 * SECOND

Oracle = Callable[[str, Mapping[str, Any]], bool]

# Expressions, with ``{}`` for the subject, and what each means for a tier and properties.
POLICIES: dict[str, Oracle] = {
    '{}.props.team == "red"': lambda tier, held: held.get("team") == "red",
    '!({}.props.team == "red")': lambda tier, held: held.get("team", "red") != "red",
    '{}.tier == "admin" || {}.props.n > 4': lambda tier, held: (
        "n" in held and (tier == "admin" or held["n"] > 4)
    ),
    '{}.tier in ["admin", "publisher"]': lambda tier, held: tier in ("admin", "publisher"),
    '!has({}.props.team) || {}.tier == "admin"': lambda tier, held: (
        "team" not in held or tier == "admin"
    ),
}


def is_true(policy: str, certificate: Certificate) -> bool:
    """Whether one of ``POLICIES`` lets the subject of a certificate pass."""
    held = msgspec.json.decode(certificate.properties)
    return POLICIES[policy](Tier(certificate.tier).label, held)


class Standing:
    """Since when which replica stands where its policy is false."""

    def __init__(self, world: World, hosted: Mapping[str, str]) -> None:
        self._world = world
        self._hosted = hosted
        self._since: dict[tuple[str, bytes], int] = {}

    def looked_at(self) -> list[str]:
        """``policy-agrees``, of hosts: whoever stood there for longer than may be."""
        found, now = [], self._world.now
        for machine in self._world.machines.values():
            if not machine.is_up:
                continue
            certificate = observe.certificates_of(machine)[machine.key]
            for name, policy in self._hosted.items():
                holding = observe.names_of(machine).get(name)
                if holding is None or not holding.is_live:
                    continue
                seed = holding.holder.seed
                if seed not in machine.loaded or is_true(policy, certificate):
                    self._since.pop((machine.name, seed), None)
                elif now - self._since.setdefault((machine.name, seed), now) > SETTLE_NS:
                    found.append(f"{machine.name} still hosts {name}")
        return found


def called_wrongly(
    host: Machine, caller: PeerId, policy: str, slug: str, before: Certificate
) -> list[str]:
    """``policy-agrees``, of calls: the host answered otherwise than the certificate that it counts
    says, now or when the call began (``before``)."""
    now = observe.certificates_of(host)[caller]
    allowed = {is_true(policy, certificate) for certificate in (before, now)}
    if (slug != "denied") in allowed or slug not in ("", "denied"):
        return []
    return [f"{host.name} answered {slug or 'with an output'} against the policy {policy}"]
