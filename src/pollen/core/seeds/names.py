"""Which seed a name stands for, and who may change that.

Decides: for each name the one spec record that counts; whether somebody may write the next one;
    what a user's text means.
Does not know: links, claims, time. The tier of an owner is an argument.
Invariants: every node that holds the same records resolves every name alike. Withdrawing is a
    value, so that an old spec cannot come back by a lost tombstone.
Source: PROTOCOL 3.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import msgspec

from pollen.core.codec import Refusal
from pollen.core.ids import Hash, PeerId, hash_of, short
from pollen.core.seeds.specs import Seed
from pollen.core.trust.certs import Certificate, Tier

PREFIX = "seed/"
MIN_PREFIX_HEX = 4


class Holding(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The answer for one name: the spec that counts, and those that lost (``shadowed``)."""

    name: str
    seed: Seed
    shadowed: list[Seed]

    @property
    def is_live(self) -> bool:
        """False when the name was withdrawn."""
        return not self.seed.spec.withdrawn


def resolve(seeds: Sequence[Seed], members: Mapping[PeerId, Certificate]) -> dict[str, Holding]:
    """Every name, by (name_epoch, tier, hash(name, owner)); owners that may not seed do not count.

    The mapping is in the order of the names.
    """
    by_name: dict[str, list[Seed]] = {}
    for seed in seeds:
        certificate = members.get(seed.owner)
        if certificate is not None and certificate.tier >= Tier.PUBLISHER:
            by_name.setdefault(seed.spec.name, []).append(seed)
    found: dict[str, Holding] = {}
    for name in sorted(by_name):
        ranked = sorted(by_name[name], key=lambda s: _rank(s, members), reverse=True)
        shadowed = [s for s in ranked[1:] if not s.spec.withdrawn and _rivals(s, ranked[0])]
        found[name] = Holding(name=name, seed=ranked[0], shadowed=shadowed)
    return found


def _rank(seed: Seed, members: Mapping[PeerId, Certificate]) -> tuple[int, int, bytes, bytes]:
    tie = hash_of("name", seed.spec.name.encode(), seed.owner)
    return seed.spec.name_epoch, members[seed.owner].tier, tie, seed.seed


def _rivals(loser: Seed, holder: Seed) -> bool:
    """A loser at the holder's own epoch is a rival; a lower one was replaced on purpose."""
    return loser.spec.name_epoch == holder.spec.name_epoch


def has_authority(
    writer: PeerId, certificate: Certificate, holder: Seed, lineage: Sequence[PeerId]
) -> bool:
    """Whether ``writer`` may replace ``holder``: its owner, its owner's ancestor, or any admin."""
    return writer == holder.owner or certificate.tier >= Tier.ADMIN or writer in lineage


def check_may_hold(
    name: str,
    holding: Holding | None,
    writer: PeerId,
    certificate: Certificate,
    lineage: Sequence[PeerId],
    take_over: bool,
) -> Refusal | None:
    """Why ``writer`` may not publish under this name, or None. A held name needs ``take_over``."""
    refusal = check_may_seed(certificate)
    if refusal is not None or holding is None or not holding.is_live:
        return refusal
    holder = holding.seed
    if holder.owner == writer:
        return None
    taken = f"node {short(holder.owner)} holds the name {name!r}"
    if not has_authority(writer, certificate, holder, lineage):
        return Refusal("name-taken", taken, "choose another name, or ask that node or an admin")
    if not take_over:
        return Refusal("name-taken", taken, "to replace it all the same: --take-over")
    return None


def check_may_seed(certificate: Certificate) -> Refusal | None:
    """Only publishers and admins publish."""
    if certificate.tier >= Tier.PUBLISHER:
        return None
    return Refusal(
        "denied",
        "this node is a leaf: it calls and hosts, it does not publish",
        "ask for an invite with --publisher, or seed from another node",
    )


def find_seed(target: str, names: Mapping[str, Holding]) -> Holding | Refusal:
    """What a user means by ``hello``, ``seed/hello``, a hash or the first digits of one."""
    text = target.removeprefix(PREFIX)
    holding = names.get(text)
    if holding is not None and holding.is_live:
        return holding
    live = [h for h in names.values() if h.is_live]
    if len(text) >= MIN_PREFIX_HEX and all(c in "0123456789abcdef" for c in text):
        matches = [h for h in live if h.seed.seed.hex().startswith(text)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            lines = "\n".join(f"pln unseed {h.seed.seed.hex()[:16]}  # {h.name}" for h in matches)
            return Refusal("ambiguous", f"{text} begins {len(matches)} hashes", lines)
    return _not_found(target, [h.name for h in live])


def _not_found(target: str, known: Sequence[str]) -> Refusal:
    near = difflib.get_close_matches(target, known, n=3)
    hint = f"did you mean: {', '.join(near)}" if near else "see what there is: pln status seeds"
    return Refusal("seed-not-found", f"no seed named {target[:80]!r}", hint)


def next_epoch(holding: Holding | None) -> int:
    """The name_epoch of the next spec under a name."""
    return 1 if holding is None else holding.seed.spec.name_epoch + 1


def seeds_by_hash(names: Mapping[str, Holding]) -> dict[Hash, Seed]:
    """The live seeds by their hash."""
    return {h.seed.seed: h.seed for h in names.values() if h.is_live}
