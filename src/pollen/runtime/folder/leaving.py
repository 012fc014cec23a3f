"""Whom a node leaves behind: what its store says of its cluster, before it is removed.

Decides: nothing; it reads.
Does not know: what is done about it; the command line says it before it asks.
Invariants: the store stays as it is. A store that cannot be read says nothing of anybody.
Source: docs/design/protocol.md#trust.
"""

from __future__ import annotations

from pollen.core import restoring
from pollen.core.ids import PeerId
from pollen.core.trust import Chain, Members, Tier
from pollen.errors import PollenError
from pollen.paths import Paths
from pollen.runtime.folder import identity
from pollen.runtime.loop import clock
from pollen.runtime.loop.native import Native, RealNative, make_verify
from pollen.runtime.loop.store import Store


def members_without_admin(where: Paths, native: Native | None = None) -> list[str]:
    """The names of those who would have no admin without this node; empty when it is not the last.

    As this node knew them when it ran last; the node must be down.
    """
    native = native or RealNative()
    try:
        if not where.node_key.exists() or identity.read(where) is None:
            return []
        known = _members_of(where, native)
    except PollenError:
        return []
    if known is None:
        return []
    members, own = known
    current, admins = members.trust.current, members.trust.admins
    if own not in admins or any(peer in current for peer in admins if peer != own):
        return []
    return sorted(members.name_of(peer) for peer in current if peer != own)


def _members_of(where: Paths, native: Native) -> tuple[Members, PeerId] | None:
    """Everybody in the store, and this node; None without a membership that holds."""
    store = Store(where.store)
    try:
        restored = store.load()
    finally:
        store.close()
    held = restoring.read_identity(restored)
    if held is None:
        return None
    members = Members(held.cluster, held.root, make_verify(native))
    own = PeerId(identity.node_key(where, native).public)
    chain = members.trust.take_shown(own, held.chain)
    if not isinstance(chain, Chain) or chain.leaf.tier < Tier.ADMIN:
        return None
    members.trust.declare(own, chain.carried)
    records, _ = restoring.decode_records(restored.get(restoring.RECORD_TABLE, ()), held.cluster)
    for record in records:
        if record.body.kind in Members.KINDS:
            members.apply(record)
    members.take_changed(clock.now().wall)
    return members, own
