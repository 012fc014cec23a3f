"""Which wheel the root lets a node run: a signed release, made here or judged here.

Decides: whether a release may be signed here, and whether this node takes one now.
Does not know: wheels, files, how a version is put in place (``runtime.upgrade``); what was taken
    last is told.
Invariants: a release is taken only from the newest root of the line, in its time, where the node
    takes upgrades at all, and never one that is older than the last one taken. A refusal is in the
    node's log.
Source: docs/internals/trust.md#releases; docs/decisions/an-upgrade-over-the-mesh.md.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import ClassVar

import msgspec

from pollen.core import limits
from pollen.core.admission.redeeming import Redeeming
from pollen.core.codec import (
    RELEASE_DOMAIN,
    U64,
    Refusal,
    Signed,
    WireClusterId,
    WireHash,
    WirePeerId,
    decode,
    encode,
    signing_bytes,
)
from pollen.core.effects import Log
from pollen.core.ids import (
    DAY,
    HOUR,
    MILLISECOND,
    ClusterId,
    Hash,
    KeyRole,
    Nanos,
    PeerId,
    Sign,
    Verify,
    is_hash_text,
    short,
)
from pollen.core.rootwords import (
    ReleaseSigned,
    ReleaseTaken,
    SignReleaseCommand,
    TakeReleaseCommand,
)
from pollen.core.trust import Trust
from pollen.core.turn import Asked, Handler, Turn

# The word of ``upgrade.from`` for a node that takes what the root signed.
ROOT = "root"
# The record of an act: verb, subject, detail.
Note = Callable[[str, PeerId, str, Turn], None]


class Release(msgspec.Struct, frozen=True, array_like=True):
    """``root`` says that nodes may run a wheel. Positional; fields are only appended.

    ``issued`` is wall nanoseconds and at once its number: of two releases the later one stands.
    ``wheel`` is the SHA-256 of the file, as package indexes print it, and ``size`` its bytes.
    """

    # How long a release may be handed out. Raising it gives a thief of one more time, lowering it
    # ends long rollouts in between. Guess: a day's work.
    LIFE_NS: ClassVar[int] = DAY
    # The largest wheel: what is written to a node's disk before it is checked. Guess.
    SIZE_MAX: ClassVar[int] = 1 << 30
    # The longest version and tags. Guess: far over those of any wheel.
    TEXT_MAX: ClassVar[int] = 1024

    cluster: WireClusterId
    root: WirePeerId
    issued: U64
    expires: U64
    wheel: WireHash
    size: U64
    version: str
    tags: str
    allow_older: bool = False

    def signed(self, sign: Sign) -> Signed:
        """As it is carried, signed by the root here."""
        body = encode(self)
        return Signed(body, sign(KeyRole.ROOT, signing_bytes(RELEASE_DOMAIN, body)))


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What a release is judged by: the line of ``roots`` as this node knows it, oldest first, the
    word of ``upgrade.from``, and the release (signed) that was taken last, or None."""

    cluster: ClusterId
    roots: list[PeerId]
    wall: Nanos
    takes_from: str
    last: Signed | None = None


def judge_release(signed: Signed | None, standing: Standing, verify: Verify) -> Release | Refusal:
    """The release that this node takes now, or why it takes none; None stands for junk."""
    if standing.takes_from != ROOT:
        reason = "this node takes no upgrade over the mesh: upgrade.from is nobody"
        remedy = "on that machine: pln set upgrade.from root\nor over ssh: pln upgrade --all FILE"
        return Refusal("upgrade-not-taken", reason, remedy)
    release = None if signed is None else decode(Release, signed.body, "release")
    if signed is None or not isinstance(release, Release):
        return _denied("it is not a release", "sign it with the version of this node, or later")
    refusal = _signer_refused(release, signed, standing, verify)
    return refusal or _stale(release, signed, standing) or release


def _signer_refused(
    release: Release, signed: Signed, standing: Standing, verify: Verify
) -> Refusal | None:
    if release.cluster != standing.cluster:
        return _denied("it is for another cluster", "sign it there: pln upgrade --mesh FILE.whl")
    root, newest = PeerId(release.root), standing.roots[-1]
    if root != newest:
        known = "has a successor" if root in standing.roots else "is not a root of this cluster"
        remedy = "sign where the newest root's key is; it is shown by: pln root status"
        return _denied(f"its signer {short(root)} {known}, and {short(newest)} counts", remedy)
    message = signing_bytes(RELEASE_DOMAIN, signed.body)
    if verify([(root, message, signed.signature)]) != [True]:
        return _denied("the root did not sign it", "sign it again: pln upgrade --mesh FILE.whl")
    if not 0 < release.size <= Release.SIZE_MAX:
        return _denied(f"its wheel has {release.size} bytes", "name a wheel of Pollen")
    return None


def _stale(release: Release, signed: Signed, standing: Standing) -> Refusal | None:
    again = "sign it again: pln upgrade --mesh FILE.whl"
    if standing.wall >= release.expires:
        hours = (standing.wall - release.expires) // HOUR
        return _stale_for(f"it expired {hours} h ago by the clock of this node", again)
    if release.issued > standing.wall + limits.CLOCK_TOLERANCE_NS:
        remedy = "set the clocks of both machines, then sign again"
        return _stale_for("it was signed in the future by the clock of this node", remedy)
    last = None if standing.last is None else decode(Release, standing.last.body, "release")
    if not isinstance(last, Release) or last.root != release.root:
        return None
    is_same = standing.last is not None and standing.last.body == signed.body
    if release.issued > last.issued or is_same:
        return None
    reason = f"this node took a later one already, of {last.version}"
    remedy = f"{again}; where that is refused too, its clock is behind: set it"
    return _stale_for(reason, remedy)


def _denied(why: str, remedy: str) -> Refusal:
    return Refusal("release-denied", f"the release is refused: {why}", remedy)


def _stale_for(why: str, remedy: str) -> Refusal:
    return Refusal("release-stale", f"the release is refused: {why}", remedy)


class Releases:
    """What a node may do with releases; a machine of ``Granting``."""

    def __init__(
        self, trust: Trust, redeeming: Redeeming, sign: Sign, verify: Verify, note: Note
    ) -> None:
        self._trust = trust
        self._redeeming = redeeming
        self._sign = sign
        self._verify = verify
        self._note = note

    def commands(self) -> Mapping[type[object], Handler]:
        """To sign and to take."""
        return {SignReleaseCommand: self.on_sign, TakeReleaseCommand: self.on_take}

    def on_sign(self, asked: Asked, turn: Turn) -> None:
        """Have the root here say that a wheel may be run."""
        answer = self._signed(asked.command, turn)
        turn.answer(asked.request, answer, when_durable=True)

    def _signed(self, command: SignReleaseCommand, turn: Turn) -> ReleaseSigned | Refusal:
        if refusal := _fault_of(command):
            return refusal
        issuer, root = self._redeeming.issuer(), list(self._trust.roots)[-1]
        if issuer.signing_root != root:
            who = "the root key is not on this node" if issuer.signing_root is None else _OLDER
            reason = f"{who}, and only the newest root signs what nodes take over the mesh"
            return Refusal("root-not-here", reason, _BRING)
        wall = turn.now.wall
        release = Release(
            cluster=issuer.cluster,
            root=root,
            issued=wall,
            expires=wall + Release.LIFE_NS,
            wheel=Hash(bytes.fromhex(command.wheel)),
            size=command.size,
            version=command.version,
            tags=command.tags,
            allow_older=command.allow_older,
        )
        detail = f"{command.version}, {command.tags}, sha256 {command.wheel}"
        self._note("release", root, detail, turn)
        return ReleaseSigned(
            release=base64.b64encode(encode(release.signed(self._sign))).decode(),
            issued_unix_ms=release.issued // MILLISECOND,
            expires_unix_ms=release.expires // MILLISECOND,
        )

    def on_take(self, asked: Asked, turn: Turn) -> None:
        """Judge a release that came over the mesh; either way the log has it."""
        command: TakeReleaseCommand = asked.command
        standing = Standing(
            cluster=self._redeeming.issuer().cluster,
            roots=list(self._trust.roots),
            wall=turn.now.wall,
            takes_from=command.takes_from,
            last=_opened(command.last),
        )
        judged = judge_release(_opened(command.release), standing, self._verify)
        if isinstance(judged, Refusal):
            fields: dict[str, str | int] = {"slug": judged.slug, "reason": judged.reason}
            turn.do(Log(level="warning", event="release-refused", fields=fields))
            turn.answer(asked.request, judged)
            return
        fields = {"version": judged.version, "wheel": judged.wheel.hex()}
        turn.do(Log(level="info", event="release-taken", fields=fields))
        taken = ReleaseTaken(
            wheel=judged.wheel.hex(),
            size=judged.size,
            version=judged.version,
            tags=judged.tags,
            allow_older=judged.allow_older,
        )
        turn.answer(asked.request, taken)


_OLDER = "the root key on this node has a successor"
_BRING = "bring it here: pln root import FILE\nor use the ssh contexts: pln upgrade --all FILE.whl"


def _fault_of(command: SignReleaseCommand) -> Refusal | None:
    if not is_hash_text(command.wheel):
        return Refusal("bad-request", f"{command.wheel[:80]!r} is not a hash", "give 64 hex digits")
    texts = (command.version, command.tags)
    is_long = any(len(text) > Release.TEXT_MAX for text in texts)
    if is_long or not all(texts) or not 0 < command.size <= Release.SIZE_MAX:
        reason = f"a wheel of {command.size} bytes and version {command.version[:80]!r} is none"
        return Refusal("bad-request", reason, "name a wheel of Pollen")
    return None


def _opened(text: str) -> Signed | None:
    """The signed bytes in base64; None for what holds none."""
    try:
        signed = decode(Signed, base64.b64decode(text, validate=True), "release")
    except (binascii.Error, ValueError):
        return None
    return signed if isinstance(signed, Signed) else None
