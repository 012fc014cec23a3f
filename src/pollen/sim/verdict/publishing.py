"""Whether names count as the root's policy on publishers is written, read without its code.

Decides: what each policy of a run means, said by hand; which names a node counts against it.
Does not know: how a policy is parsed, evaluated or chosen (``core.policy``, ``core.trust``).
Invariants: a look changes nothing.
Source: docs/design/policy.md#who-may-publish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from pollen.core.codec import Rejection, Signed, decode
from pollen.core.ids import short
from pollen.core.kinds import POLICY, SPEC
from pollen.core.seeds import Seed, decode_seed
from pollen.core.trust import Certificate, Tier
from pollen.sim.verdict import observe
from pollen.sim.world.machine import Machine

Oracle = Callable[[str, Mapping[str, Any], str], bool]

# Expressions, and what each means for a tier, properties and a name; empty: there is none.
POLICIES: dict[str, Oracle] = {
    "": lambda tier, held, name: True,
    "false": lambda tier, held, name: False,
    'caller.tier == "admin"': lambda tier, held, name: tier == "admin",
    'seed.name.startsWith("lab-") || caller.tier == "admin"': lambda tier, held, name: (
        name.startswith("lab-") or tier == "admin"
    ),
    'has(caller.props.lab) && seed.name.startsWith("lab-")': lambda tier, held, name: (
        "lab" in held and name.startswith("lab-")
    ),
    'caller.props.team == "red" || seed.name == "tv"': lambda tier, held, name: (
        "team" in held and (held["team"] == "red" or name == "tv")
    ),
    "true": lambda tier, held, name: True,
}


class _Said(msgspec.Struct, array_like=True):
    """A policy on publishers, as its bytes say it."""

    cluster: bytes
    root: bytes
    about: str
    number: int
    issued: int
    text: str
    tree: str


def policies_of(machine: Machine) -> dict[int, set[str]]:
    """The texts of the policies that a node holds as records, by number."""
    found: dict[int, set[str]] = {}
    for (_, kind, _key), record in observe.records_of(machine).items():
        signed = decode(Signed, record.body.payload, "policy") if kind == POLICY else None
        said = decode(_Said, signed.body, "policy") if isinstance(signed, Signed) else None
        if isinstance(said, _Said):
            found.setdefault(said.number, set()).add(said.text)
    return found


def may(text: str, certificate: Certificate | None, name: str) -> bool:
    """Whether tier and policy let somebody have a name."""
    if certificate is None or certificate.tier < Tier.PUBLISHER:
        return False
    held = msgspec.json.decode(certificate.properties)
    return POLICIES[text](Tier(certificate.tier).label, held, name)


def wrongly_answered(machine: Machine, name: str, slug: str) -> str:
    """``policy-agrees``, of publishing: what a node answered against the newest policy it holds."""
    held, own = policies_of(machine), observe.certificates_of(machine).get(machine.key)
    texts = held[max(held)] if held else {""}
    if len(texts) > 1 or slug not in ("", "denied"):
        return ""
    (text,) = texts
    if may(text, own, name) == (slug == ""):
        return ""
    return f"{machine.name} answered {slug or 'yes'} for {name} against the policy {text!r}"


def names_wrongly_counted(machines: Sequence[Machine]) -> list[str]:
    """``policy-agrees``, of names, once all heard of everything: a node follows another policy, or
    counts a name of somebody who may not have it, or misses one of somebody who may."""
    texts = {observe.trust_of(machine).publishers.text for machine in machines}
    if len(texts) > 1:
        return [f"the nodes count {len(texts)} policies: {sorted(texts)}"]
    (text,) = texts
    found = []
    for machine in machines:
        held = policies_of(machine)
        if held and text not in held[max(held)]:
            found.append(f"{machine.name} follows {text!r}, not the newest policy")
        certificates = observe.certificates_of(machine)
        able: dict[str, list[Seed]] = {}
        for (owner, kind, _key), record in observe.records_of(machine).items():
            seed: Seed | Rejection | None = None
            if kind == SPEC and record.is_live:
                seed = decode_seed(owner, record.body.payload)
            if isinstance(seed, Seed) and may(text, certificates.get(owner), seed.spec.name):
                able.setdefault(seed.spec.name, []).append(seed)
        counted = observe.names_of(machine)
        for name in sorted(set(able) ^ set(counted)):
            which = "counts" if name in counted else "misses"
            found.append(f"{machine.name} {which} {name} against the policy {text!r}")
        for name, holding in counted.items():
            holder = holding.holder
            if not may(text, certificates.get(holder.owner), name):
                found.append(f"{machine.name} counts {name} of who may not have it")
            elif name in able and holder.name_epoch < max(s.name_epoch for s in able[name]):
                found.append(f"{machine.name} has {name} of {short(holder.owner)}, not the newest")
    owners = [
        {name: held.holder.owner for name, held in observe.names_of(machine).items()}
        for machine in machines
    ]
    if any(other != owners[0] for other in owners):
        found.append(f"the nodes do not agree who has which name under the policy {text!r}")
    return found
