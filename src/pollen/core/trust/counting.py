"""Which of a key's chains counts, and below which certificates of those above it.

Decides: the one chain of several living ones that says what a key may do.
Does not know: records, denies, the clock; where a chain came from but for the one that its subject
    chose itself.
Invariants: a pure function of the chains and the roots, whatever their order. A chain is replaced
    by one of a higher generation from a root, or from an issuer above its subject in it: so
    nobody's authority is moved by an admin that did not give it. Of two of one generation from one
    issuer, or from roots, the later one replaces the other: the subject does not choose.
Source: docs/internals/trust.md#what-counts.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from pollen.core.ids import Hash, PeerId
from pollen.core.trust.certs import Chain


def counted_of(
    chosen: Chain | None, granted: Sequence[Chain], roots: Container[PeerId]
) -> Chain | None:
    """The chain that counts of those that live: the one that the subject chose, unless an issuer
    that may replaced it. Among others the highest generation, by hash among equals.
    """
    able = list(granted) if chosen is None else [chosen, *granted]
    standing = [c for c in able if not any(replaces(other, c, roots) for other in able)]
    if chosen is not None and chosen in standing:
        return chosen
    return max(standing, key=lambda c: (c.leaf.generation, c.leaf.not_before, c.hash), default=None)


def is_replaced(chain: Chain, counted: Chain | None, roots: Container[PeerId]) -> bool:
    """Whether the chain that counts of a key takes the place of another one of it."""
    return counted is not None and replaces(counted, chain, roots)


def replaces(newer: Chain, older: Chain, roots: Container[PeerId]) -> bool:
    """Whether this chain takes the place of another one of the same key."""
    certificate, before = newer.leaf, older.leaf
    if certificate.generation == before.generation:
        are_roots = certificate.issuer in roots and before.issuer in roots
        return (are_roots or certificate.issuer == before.issuer) and _age(newer) > _age(older)
    if certificate.generation < before.generation:
        return False
    return certificate.issuer in roots or certificate.issuer in before.lineage


def _age(chain: Chain) -> tuple[int, Hash]:
    return chain.leaf.not_before, chain.hash
