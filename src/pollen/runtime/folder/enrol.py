"""The joiner's side of enrolment: a token in, a member's folder out.

Nothing is written before the issuer's answer was checked; a failed join changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from pollen import lock, paths
from pollen.core import restoring
from pollen.core.admission import NONCE_TABLE, Invite, JoinReply, JoinRequest, invites
from pollen.core.codec import Refusal, encode
from pollen.core.ids import ClusterId, PeerId
from pollen.core.peers import PEER_TABLE
from pollen.core.restoring import Identity
from pollen.core.trust import Tier
from pollen.errors import Conflict, PollenError, error_from
from pollen.paths import Paths
from pollen.runtime.folder import identity
from pollen.runtime.loop import entropy
from pollen.runtime.loop.native import Key, Muscles, Native, RealNative, as_error, make_verify
from pollen.runtime.loop.store import Store

T = TypeVar("T")

JOIN_TIMEOUT_MS = 20_000
_PROBE_MEMORY = 1 << 20
# What the transport says before its own names of what failed.
_NO_LINK = "no link to the peer: "


@dataclass(frozen=True)
class Joined:
    """What ``join`` left."""

    node: PeerId
    cluster: ClusterId
    tier: str
    peers: int
    is_new: bool = True


def join(
    where: Paths, token: str, name: str = "", *, replace: bool = False, native: Native | None = None
) -> Joined:
    """Redeem a token at its issuer and write what makes this folder a member.

    ``replace`` gives up a one-node cluster that was never shared. Errors: ``token-invalid``,
    ``unreachable``, ``already-in-cluster``, ``already-running``, ``denied``.
    """
    native = native or RealNative()
    paths.make_home(where)
    chosen = identity.check_or_default(name)
    raw = _or_raise(invites.token_bytes(token))
    invite = _or_raise(invites.open_token(raw, make_verify(native)))
    with lock.hold(where):
        held = _check_place(where, invite, replace)
        key = identity.node_key(where, native)
        body = encode(JoinRequest(raw, chosen))
        answer, silent = _ask(where, native, key, invite, body)
        checked = invites.check_reply(answer, invite, PeerId(key.public), make_verify(native))
        reply, certificate = _or_raise(with_silent(checked, silent))
        replaced = held if held and held.cluster != invite.cluster else None
        _write(where, invite.cluster, reply, chosen, replaced)
    tier = Tier(certificate.tier).label
    return Joined(PeerId(key.public), ClusterId(invite.cluster), tier, len(reply.peers))


def _check_place(where: Paths, invite: Invite, replace: bool) -> Identity | None:
    """The identity that stands here, when it may be replaced or is of the same cluster."""
    # Whoever lost the store comes back so.
    held = None if identity.lost(where) else identity.read(where)
    if held is None or held.cluster == invite.cluster:
        return held
    mine = f"this node is in cluster {held.cluster.hex()[:8]} already"
    if not (where.root_key.exists() and is_never_shared(where)):
        raise Conflict("already-in-cluster", mine, "to leave it first: pln down, then pln purge")
    if not replace:
        raise Conflict(
            "already-in-cluster", f"{mine}, alone", "to replace it: pln join --yes TOKEN"
        )
    return held


def is_never_shared(where: Paths) -> bool:
    """True when this folder knows no other node and never let one in."""
    store = Store(where.store)
    try:
        rows = store.load()
    finally:
        store.close()
    return not rows.get(PEER_TABLE) and not rows.get(NONCE_TABLE)


def with_silent(checked: T | Refusal, silent: Sequence[str]) -> T | Refusal:
    """What another member says of an issuer that it does not reach, with where we sought it."""
    if not isinstance(checked, Refusal) or checked.slug != "unreachable" or not silent:
        return checked
    reason = f"{checked.reason}; no answer came from {', '.join(silent)}"
    return msgspec.structs.replace(checked, reason=reason)


def _ask(
    where: Paths, native: Native, key: Key, invite: Invite, body: bytes
) -> tuple[bytes, list[str]]:
    """One exchange over an endpoint that lives for it only: the answer, and who gave none."""
    boot = entropy.draw_boot()
    muscles = native.open_muscles(
        key=key,
        boot=boot,
        directory=str(where.home),
        memory_bytes=_PROBE_MEMORY,
    )
    mask, began = os.umask(0o077), time.monotonic()
    silent: list[str] = []
    try:
        muscles.start(listen=["0.0.0.0:0", "[::]:0"], call_socket=str(where.call_socket))
        return _ask_in_turn(muscles, invite, body, silent), silent
    except Exception as error:
        raise in_words(as_error(error), silent, time.monotonic() - began) from error
    finally:
        os.umask(mask)
        muscles.close(0)
        where.call_socket.unlink(missing_ok=True)


def in_words(error: PollenError, addresses: Sequence[str], seconds: float) -> PollenError:
    """A connection that did not come about: with the addresses, and without the names of what
    failed inside."""
    if error.slug != "unreachable" or not addresses:
        return error
    asked = ", ".join(addresses)
    if not error.reason.startswith(_NO_LINK):
        return error_from(error.slug, f"{error.reason}; tried: {asked}", error.remedy)
    reason = f"no answer from {asked} within {seconds:.0f} s"
    if not error.reason.endswith("timed out"):
        reason = f"no link to {asked}: {error.reason.rpartition(': ')[2]}"
    remedy = f"{error.remedy}; an old token has old addresses: there, pln invite"
    return error_from(error.slug, reason, remedy)


def _ask_in_turn(muscles: Muscles, invite: Invite, body: bytes, silent: list[str]) -> bytes:
    """The issuer's answer, or the one that another member brought from it. ``silent`` gets the
    addresses from which none came."""
    try:
        return muscles.ask_join(invite.addresses, invite.issuer, body, JOIN_TIMEOUT_MS)
    except Exception:
        silent += invite.addresses
        for peer, addresses in invite.carriers:
            with contextlib.suppress(Exception):
                return muscles.ask_join(addresses, peer, body, JOIN_TIMEOUT_MS)
            silent += addresses
        raise


def _write(
    where: Paths, cluster: bytes, reply: JoinReply, name: str, replaced: Identity | None
) -> None:
    store = Store(where.store)
    try:
        if replaced is not None:
            old = where.root_key.with_name(f"root-{replaced.cluster.hex()[:8]}.key")
            where.root_key.rename(old)
            store.clear_now()
        store.write_now(restoring.enrolment_rows(reply, name))
    finally:
        store.close()
    identity.mark(where, cluster)


def _or_raise(value: T | Refusal) -> T:
    if isinstance(value, Refusal):
        raise value.to_error()
    return value
