"""For whom a sealed blob is: the nodes that may read it when it is sealed.

Decides: which members those are, and how many there may be.
Does not know: keys and how bytes are sealed (the muscles); who is let in when it is read.
Invariants: the publisher is always among them. Whoever is granted later is not, until it is sealed
    anew.
Source: docs/internals/content.md#sealed-blobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pollen.core import limits
from pollen.core.codec import Refusal
from pollen.core.effects import BLOB
from pollen.core.ids import Nanos, PeerId, is_hash_text, short
from pollen.core.policy import CALLERS, Node, Policy, parse
from pollen.core.trust import Certificate
from pollen.options import SeedOptions


def recipients_of(
    name: str,
    options: SeedOptions,
    own: PeerId,
    certificates: Iterable[Certificate],
    wall: Nanos,
) -> list[PeerId] | Refusal:
    """The members that pass the gate of a blob to be sealed now, by id, and this node."""
    tree = parse(options.allow_if, CALLERS) if options.allow_if else None
    policy = None
    if isinstance(tree, Node):
        policy = Policy(text=options.allow_if, tree=tree, seed=name, owner=own.hex())
    gate = tuple(options.allow)
    found = {own} | {
        PeerId(held.subject)
        for held in certificates
        if held.has_access(wall) and held.party.meets(gate, policy)
    }
    if len(found) > limits.RECIPIENTS_MAX:
        return Refusal(
            "config-invalid",
            f"{len(found)} nodes may read it; it can be sealed for {limits.RECIPIENTS_MAX}",
            "narrow who may: --allow-prop key=value, or --allow EXPR",
        )
    return sorted(found)


def check_sealed(kind: str, options: SeedOptions, recipients: Sequence[str]) -> Refusal | None:
    """Why content cannot be published as sealed, or with these recipients."""
    if not options.sealed:
        if not recipients:
            return None
        return Refusal("bad-request", "what is not sealed has no recipients", "set sealed, too")
    if kind != BLOB:
        return Refusal(
            "config-invalid",
            f"a file can be sealed, and this is a {kind}",
            "leave --sealed out, or pack it: tar c FOLDER | pln seed - NAME --sealed",
        )
    if not 0 < len(recipients) <= limits.RECIPIENTS_MAX or not all(map(is_hash_text, recipients)):
        return Refusal(
            "bad-request",
            f"a sealed blob has 1 to {limits.RECIPIENTS_MAX} recipients, each the id of a node",
            "give those of POST /v1/seeds/check; pln seed --sealed does",
        )
    return None


def check_options(options: SeedOptions) -> Refusal | None:
    """Why what these options say cannot be sealed, whatever it is."""
    if options.sealed and options.public:
        return Refusal(
            "config-invalid",
            "what is sealed is for members alone",
            "leave out --sealed or --public",
        )
    return None


def stated(recipients: Iterable[str]) -> list[str]:
    """The recipients as a spec states them, by the first digits of their ids: for people to see.
    Who can open a blob is decided by its bytes."""
    return sorted({short(bytes.fromhex(text)) for text in recipients})
