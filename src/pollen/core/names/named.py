"""What a name stands for, and who may change that. All nouns with names share one name space.

Decides: for each name the one value that counts; whether somebody may write the next one; what a
    user's text means.
Does not know: what has the name: a seed, later a service, a site, a blob; links, claims, time. The
    tier of an owner is an argument.
Invariants: every node that holds the same records resolves every name alike. Withdrawing is a
    value, so that an old one cannot come back by a lost tombstone.
Source: docs/design/protocol.md#names-and-specs.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from pollen.core.codec import Refusal
from pollen.core.ids import Hash, PeerId, hash_of, short
from pollen.core.trust import Certificate, Tier

# The highest epoch of a refused spec that others step over: a refused member must not use the
# epochs of a name up, which are of 32 bits. Guess: half of them.
_REFUSED_EPOCH_MAX: Final = 1 << 31
# Names that a wrong one is compared with: about 5 ms. Measured: 50 us each.
_COMPARED_MAX: Final = 100
PREFIX = "seed/"
MIN_PREFIX_HEX = 4


class Named(Protocol):
    """Whatever has a name: one version of it, as its owner published it."""

    @property
    def noun(self) -> str:
        """What it is, as messages call it: ``seed``."""

    @property
    def name(self) -> str:
        """The name that its owner gave it."""

    @property
    def owner(self) -> PeerId:
        """Who published it."""

    @property
    def name_epoch(self) -> int:
        """The number of this version: the highest counts, whoever owns it."""

    @property
    def is_withdrawn(self) -> bool:
        """Whether this version says that the name stands for nothing."""

    @property
    def digest(self) -> Hash:
        """The hash that names this version."""


T = TypeVar("T", bound=Named)


class Holding(msgspec.Struct, Generic[T], frozen=True, gc=False, kw_only=True):
    """The answer for one name: the version that counts, and those that lost (``shadowed``)."""

    name: str
    holder: T
    shadowed: list[T]

    @property
    def is_live(self) -> bool:
        """False when the name was withdrawn."""
        return not self.holder.is_withdrawn


# Whether the subject of a certificate may publish under a name, its tier aside.
May = Callable[[str, Certificate], bool]


def _anybody(name: str, certificate: Certificate) -> bool:
    return True


def resolve(
    known: Sequence[T], members: Mapping[PeerId, Certificate], may: May = _anybody
) -> dict[str, Holding[T]]:
    """Every name, by (name_epoch, tier, hash(name, owner)); who may not publish does not count.

    The mapping is in the order of the names.
    """
    by_name: dict[str, list[T]] = {}
    for named in known:
        certificate = members.get(named.owner)
        if certificate is None or certificate.tier < Tier.PUBLISHER:
            continue
        if may(named.name, certificate):
            by_name.setdefault(named.name, []).append(named)
    found: dict[str, Holding[T]] = {}
    for name in sorted(by_name):
        ranked = sorted(by_name[name], key=lambda n: _rank(n, members), reverse=True)
        shadowed = [n for n in ranked[1:] if not n.is_withdrawn and _rivals(n, ranked[0])]
        found[name] = Holding(name=name, holder=ranked[0], shadowed=shadowed)
    return found


def _rank(named: Named, members: Mapping[PeerId, Certificate]) -> tuple[int, int, bytes, bytes]:
    tie = hash_of("name", named.name.encode(), named.owner)
    return named.name_epoch, members[named.owner].tier, tie, named.digest


def _rivals(loser: Named, holder: Named) -> bool:
    """A loser at the holder's own epoch is a rival; a lower one was replaced on purpose."""
    return loser.name_epoch == holder.name_epoch


def has_authority(
    writer: PeerId, certificate: Certificate, holder: Named, lineage: Sequence[PeerId]
) -> bool:
    """Whether ``writer`` may replace ``holder``: its owner, its owner's ancestor, or any admin."""
    return writer == holder.owner or certificate.tier >= Tier.ADMIN or writer in lineage


def check_may_hold(
    name: str,
    holding: Holding[T] | None,
    writer: PeerId,
    certificate: Certificate,
    lineage: Sequence[PeerId],
    take_over: bool,
) -> Refusal | None:
    """Why ``writer`` may not publish under this name, or None. A held name needs ``take_over``."""
    refusal = check_may_seed(certificate)
    if refusal is not None or holding is None or not holding.is_live:
        return refusal
    holder = holding.holder
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


def find_named(target: str, names: Mapping[str, Holding[T]]) -> Holding[T] | Refusal:
    """What a user means by ``hello``, ``seed/hello``, a hash or the first digits of one."""
    text = target.removeprefix(PREFIX)
    holding = names.get(text)
    if holding is not None and holding.is_live:
        return holding
    live = [h for h in names.values() if h.is_live]
    if len(text) >= MIN_PREFIX_HEX and all(c in "0123456789abcdef" for c in text):
        matches = [h for h in live if h.holder.digest.hex().startswith(text)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            ways = [f"pln unseed {h.holder.digest.hex()[:16]}  # {h.name}" for h in matches]
            return Refusal("ambiguous", f"{text} begins {len(matches)} hashes", "\n".join(ways))
    return _not_found(target, [h.name for h in live])


def near_names(text: str, known: Iterable[str]) -> list[str]:
    """Up to three names that a user may have meant. Of many only some are compared, since that is
    done in one turn: those that begin alike."""
    alike = (name for name in known if name[:1] == text[:1])
    compared = list(itertools.islice(alike, _COMPARED_MAX))
    return difflib.get_close_matches(text, compared, n=3)


def _not_found(target: str, known: Sequence[str]) -> Refusal:
    near = near_names(target, known)
    hint = f"did you mean: {', '.join(near)}" if near else "see what there is: pln status seeds"
    return Refusal("seed-not-found", f"no seed named {target[:80]!r}", hint)


def next_epoch(holding: Holding[T] | None, top: int = 0) -> int:
    """The name_epoch of the next spec under a name; ``top`` is the highest of those that do not
    count because of the root's policy. They may count again, and must not take the name back."""
    held = 0 if holding is None else holding.holder.name_epoch
    return max(held, top if top <= _REFUSED_EPOCH_MAX else 0) + 1
