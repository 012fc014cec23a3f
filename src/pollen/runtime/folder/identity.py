"""Keys and the state that makes a folder a node: ``init``, ``id``, ``purge``.

``node.key`` says who this machine is, ``root.key`` beside it who may make members; both are written
by the native module with mode 0600 and never overwritten. ``member`` holds the id of the cluster
from the moment that the store holds the membership: with it a store that was lost is told from a
folder that never was a node's, or whose first start was cut off.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from pollen import lock, paths
from pollen.core import restoring
from pollen.core.codec import Refusal, Rejection
from pollen.core.ids import ClusterId, PeerId, cluster_id_of
from pollen.core.labels import check_name
from pollen.core.properties import check_properties
from pollen.core.restoring import Identity
from pollen.core.trust import Certificate, Tier, Trust, leases
from pollen.errors import Conflict, PollenError
from pollen.paths import Paths
from pollen.plain import name_of_machine
from pollen.runtime.loop import entropy
from pollen.runtime.loop.native import Key, Native, RealNative, make_sign, make_verify
from pollen.runtime.loop.store import REMEDY, Store


@dataclass(frozen=True)
class Founded:
    """What ``init`` left: ``is_new`` is false when the folder was a node already."""

    node: PeerId
    cluster: ClusterId
    is_new: bool


def node_key(where: Paths, native: Native) -> Key:
    """The node's key pair, made on first use.

    Raises ``state-unusable`` when the folder is a member's and its key is gone: another key would
    be another node with this one's membership.
    """
    if where.member_file.exists() and not where.node_key.exists():
        raise _lost(where.node_key, where.member_file.read_text())
    return _load_or_make(str(where.node_key), where.node_key.exists(), native)


def key_of_root(where: Paths, native: Native) -> Key | None:
    """The key pair in ``root.key``, of whatever root it is; None when there is none."""
    return native.load_key(str(where.root_key)) if where.root_key.exists() else None


def half_written_root_keys(where: Paths) -> list[Path]:
    """What a cut-off write of a root key left: a private key, whose original is elsewhere."""
    return sorted([*where.home.glob("root.tmp"), *where.home.glob("root-*.tmp")])


def roots_of(held: Identity, native: Native) -> list[PeerId]:
    """The roots of the folder's cluster, oldest first, by what the node last showed of itself."""
    trust = Trust(held.cluster, held.root, make_verify(native))
    shown = leases.decode_credentials(held.chain)
    if not isinstance(shown, Rejection):
        trust.follow(shown.successions)
    return list(trust.roots)


def root_key(where: Paths, native: Native, held: Identity) -> Key | None:
    """The root's key pair when it lies here and is this cluster's."""
    key = key_of_root(where, native)
    return key if key is not None and key.public in roots_of(held, native) else None


def mark(where: Paths, cluster: bytes) -> None:
    """Say beside the store that it holds a membership; what fails is done at the next start."""
    line = f"{cluster.hex()}\n"
    with contextlib.suppress(OSError):
        if where.member_file.exists() and where.member_file.read_text() == line:
            return
        temporary = where.member_file.with_suffix(".tmp")
        with temporary.open("w") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(where.member_file)


def lost(where: Paths) -> PollenError | None:
    """The error of a folder that was a member's and whose key is gone, or its store, or that is
    empty; else None.

    The files stay as they are.
    """
    try:
        cluster = where.member_file.read_text().strip()
    except OSError:
        return None
    for path in (where.store, where.node_key):
        if not path.exists() or not path.stat().st_size:
            return _lost(path, cluster)
    return None


def _lost(path: Path, cluster: str) -> PollenError:
    what = "is empty" if path.exists() else "is missing"
    reason = f"{path} {what}, and this folder is a member's of cluster {cluster[:8]}"
    return PollenError("state-unusable", reason, REMEDY)


def node_id(where: Paths, native: Native | None = None) -> PeerId:
    """The node's public key; makes the folder and the key on first use."""
    paths.make_home(where)
    return PeerId(node_key(where, native or RealNative()).public)


def read(where: Paths) -> Identity | None:
    """The identity in the store, or None when the folder is in no cluster.

    Raises ``state-unusable`` when it was in one and the store is gone."""
    paths.check_home(where)
    error = lost(where)
    if error is not None:
        raise error
    if not where.store.exists():
        return None
    store = Store(where.store)
    try:
        return restoring.read_identity(store.load())
    finally:
        store.close()


def is_enrolled(where: Paths) -> bool:
    """True when the folder is a member of a cluster."""
    return read(where) is not None


def init(
    where: Paths, name: str = "", properties: str = "{}", native: Native | None = None
) -> Founded:
    """Make a cluster with this node as its first admin. Idempotent for the same root.

    Raises ``already-in-cluster`` when the folder joined somebody else's; ``already-running``.
    """
    native = native or RealNative()
    paths.make_home(where)
    try:
        with lock.hold(where):
            return found(where, name, properties, native)
    except PollenError as error:
        # A daemon holds the folder: there is nothing to make, when the cluster is its own.
        held = read(where) if error.slug == "already-running" else None
        if held is None or root_key(where, native, held) is None:
            raise
        return Founded(PeerId(node_key(where, native).public), held.cluster, is_new=False)


def found(where: Paths, name: str, properties: str, native: Native) -> Founded:
    """``init`` for a caller that holds the folder's lock."""
    checked = check_properties(properties)
    if isinstance(checked, Refusal):
        raise checked.to_error()
    node = node_key(where, native)
    held = read(where)
    if held is not None:
        if root_key(where, native, held) is None:
            raise Conflict(
                "already-in-cluster",
                f"this node is a member of cluster {held.cluster.hex()[:8]}",
                "to leave it first: pln down, then pln purge",
            )
        return Founded(PeerId(node.public), held.cluster, is_new=False)
    root = _load_or_make(str(where.root_key), where.root_key.exists(), native)
    cluster = cluster_id_of(root.public, entropy.draw_nonce())
    certificate = Certificate(
        cluster=cluster,
        subject=PeerId(node.public),
        issuer=PeerId(root.public),
        tier=Tier.ADMIN,
        properties=checked,
        lineage=[],
        generation=1,
        not_before=time.time_ns(),
    )
    chain = leases.founding_credentials(certificate, make_sign(node, root))
    identity = Identity(
        cluster=cluster, root=PeerId(root.public), chain=chain, name=check_or_default(name)
    )
    store = Store(where.store)
    try:
        store.write_now(restoring.identity_rows(identity))
    finally:
        store.close()
    mark(where, cluster)
    return Founded(PeerId(node.public), cluster, is_new=True)


def check_or_default(name: str) -> str:
    """The node's name: the one given when it is valid, else the machine's."""
    if name:
        refusal = check_name(name)
        if refusal is not None:
            raise refusal.to_error()
        return name
    tame = name_of_machine(socket.gethostname())
    return tame if check_name(tame) is None else "node"


def purge(where: Paths, *, include_keys: bool) -> None:
    """Remove what the node keeps here; its keys only when asked, its settings never.

    A folder that is then empty is also removed. With its key kept a machine comes back as the same
    node by a new token. Raises ``already-running`` while a daemon uses the folder.
    """
    if not where.home.exists():
        return
    with lock.hold(where):
        doomed = where.state()
        if include_keys:
            doomed += [where.node_key, where.root_key, *where.former_root_keys()]
            doomed += half_written_root_keys(where)
        for path in doomed:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    # Not empty, or not ours to remove: it stays.
    with contextlib.suppress(OSError):
        where.home.rmdir()


def _load_or_make(path: str, exists: bool, native: Native) -> Key:
    if exists:
        return native.load_key(path)
    key = native.generate_key()
    try:
        key.save(path)
    except Exception as error:
        raise PollenError(
            "state-unusable", f"the key {path} cannot be written: {error}", "check the folder"
        ) from error
    return key
