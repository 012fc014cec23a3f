"""Upgrades over the mesh: what this node asks of others, and what it does when it is asked.

Decides: nothing of substance; whether a release is taken is the brain's word (``TakeRelease``).
Does not know: how a wheel gets here and in place; a process of its own does that, since this one
    ends meanwhile.
Invariants: nothing is begun that the brain did not take, and no second upgrade beside one that is
    under way. The setting ``upgrade.from`` is read for each question.
Source: docs/design/protocol.md#upgrades; docs/decisions/an-upgrade-over-the-mesh.md.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from pollen.core import commands as cmd
from pollen.core.rootwords import ReleaseTaken, TakeReleaseCommand
from pollen.errors import BadRequest, PollenError, error_from
from pollen.paths import Paths
from pollen.runtime.elsewhere import Elsewhere, read
from pollen.runtime.folder import supervised
from pollen.runtime.folder.config import read_config
from pollen.runtime.folder.version import VERSION
from pollen.runtime.upgrade import taken
from pollen.runtime.upgrade.taken import Box, Wish

T = TypeVar("T")
Ask = Callable[[cmd.Command, float], Awaitable[msgspec.Struct]]
# Seconds that the brain may take over a release: it verifies one signature.
_JUDGE_SECONDS = 10
# Seconds that systemd may take to begin a process. Guess.
_BEGIN_SECONDS = 30


class UpgradeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/nodes/{node}/upgrade``: a release as base64, and how long the node may
    take to be healthy."""

    release: str
    patience_ms: int = 60_000


class UpgradeLook(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a node. With ``tags`` also whether it could be upgraded to such a wheel."""

    tags: str = ""


class UpgradeState(msgspec.Struct, frozen=True, kw_only=True):
    """How a node's last upgrade over the mesh went, and whether it takes another one.

    ``content`` is the hash of what is installed. ``trouble`` says why it could not be upgraded,
    empty where nothing is known against it. ``step`` is none, fetching, working, done or failed.
    """

    node: str
    version: str
    takes_from: str
    content: str = ""
    trouble: str = ""
    step: str = taken.NONE
    wheel: str = ""
    said: str = ""
    slug: str = ""
    reason: str = ""
    remedy: str = ""


class Upgrades:
    """Both sides, of the node in a folder. ``own`` is its id."""

    def __init__(self, where: Paths, own: str, ask: Ask, elsewhere: Elsewhere) -> None:
        self._where = where
        self._own = own
        self._ask = ask
        self._elsewhere = elsewhere
        self._box = Box(where)
        self._turn = asyncio.Lock()

    def verbs(self) -> dict[str, Callable[[bytes], Awaitable[bytes]]]:
        """What admins elsewhere may have this node do."""
        return {"upgrade": self.serve_begin, "upgrade-look": self.serve_look}

    # -- asking ---------------------------------------------------------------------------------

    async def look_at(self, node: str, tags: str) -> UpgradeState:
        """How it stands with another node, or with this one."""
        peer = await self._elsewhere.found(node)
        if peer == self._own:
            return await asyncio.to_thread(self._state, tags)
        args = msgspec.json.encode(UpgradeLook(tags=tags))
        return read(await self._elsewhere.answer(peer, "upgrade-look", args), peer, UpgradeState)

    async def begin_at(self, node: str, request: UpgradeRequest) -> UpgradeState:
        """Have another node upgrade itself to what the root signed."""
        peer = await self._elsewhere.found(node)
        if peer == self._own:
            reason = "the node here is upgraded from its own machine, not over the mesh"
            raise error_from("usage", reason, "pln upgrade FILE.whl")
        args = msgspec.json.encode(request)
        return read(await self._elsewhere.answer(peer, "upgrade", args), peer, UpgradeState)

    # -- being asked ----------------------------------------------------------------------------

    async def serve_look(self, args: bytes) -> bytes:
        """The verb ``upgrade-look``."""
        look = _decoded(args, UpgradeLook)
        return msgspec.json.encode(await asyncio.to_thread(self._state, look.tags))

    async def serve_begin(self, args: bytes) -> bytes:
        """The verb ``upgrade``: take the release, and begin. The answer does not wait for it."""
        request = _decoded(args, UpgradeRequest)
        async with self._turn:
            command = TakeReleaseCommand(
                release=request.release,
                takes_from=read_config(self._where.config_file).takes_from,
                last=self._box.last(),
            )
            release = await self._ask(command, _JUDGE_SECONDS)
            assert isinstance(release, ReleaseTaken)
            await asyncio.to_thread(self._begin, request, release)
        return msgspec.json.encode(await asyncio.to_thread(self._state, ""))

    def _begin(self, request: UpgradeRequest, release: ReleaseTaken) -> None:
        held = self._box.report()
        if held.step in taken.UNDER_WAY:
            if held.wheel == release.wheel:
                return
            reason = f"an upgrade to {held.version} is under way here"
            raise error_from("already-running", reason, "wait for its end")
        self._check_own_service()
        wish = Wish(
            wheel=release.wheel,
            size=release.size,
            version=release.version,
            allow_older=release.allow_older,
            patience=request.patience_ms / 1000,
        )
        self._box.begin(request.release, wish)
        try:
            _spawn(self._where)
        except PollenError as error:
            self._box.fail(error)
            raise

    def _state(self, tags: str) -> UpgradeState:
        report = self._box.report()
        content, trouble = self._examined(tags) if tags else ("", "")
        return UpgradeState(
            node=self._own,
            version=VERSION,
            takes_from=read_config(self._where.config_file).takes_from,
            content=content,
            trouble=trouble,
            step=report.step,
            wheel=report.wheel,
            said=report.said,
            slug=report.slug,
            reason=report.reason,
            remedy=report.remedy,
        )

    def _examined(self, tags: str) -> tuple[str, str]:
        """What is installed here, and why it could not be replaced."""
        from pollen.runtime.upgrade import begin, wheel

        content = ""
        try:
            site = begin.site_of_ours()
            content = site.installed().content
            self._check_own_service()
            begin.look(self._where, site)
        except PollenError as error:
            return content, error.reason
        return content, wheel.unfit(tags) and f"the wheel is {wheel.unfit(tags)}"

    def _check_own_service(self) -> None:
        """Raise where only the system's manager may stop and start the node."""
        unit = supervised.of(self._where)
        if unit is not None and not unit.is_user:
            reason = "a service of the system keeps this node up, and only root may start it"
            remedy = f"there: sudo pln --dir {self._where.home} upgrade FILE.whl"
            raise PollenError("state-unusable", reason, remedy)


def _decoded(args: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(args, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        remedy = "bring both nodes to one version"
        raise BadRequest(
            "bad-request", f"the request is none for upgrades: {error}", remedy
        ) from None


def line_of(where: Paths, *, is_kept_by_user: bool) -> list[str]:
    """What upgrades the node of a folder, as a process that the node's end does not end.

    A manager of the user's ends all that a unit began with it, so there the manager begins this.
    """
    line = [sys.executable, "-P", "-m", "pollen.cli", "_upgrade", "--dir", str(where.home)]
    if not is_kept_by_user:
        return line
    return ["systemd-run", "--user", "--collect", "--quiet", "--unit=pln-upgrade", "--", *line]


def _spawn(where: Paths) -> None:
    """Begin it. Raises ``state-unusable`` with the system's words."""
    unit = supervised.of(where)
    is_kept = unit is not None and not unit.is_launchd
    line = line_of(where, is_kept_by_user=is_kept)
    quiet = subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            line, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
    except OSError as error:
        reason = f"the upgrade cannot be begun: {line[0]}: {error.strerror}"
        raise PollenError("state-unusable", reason, "pln upgrade FILE.whl, there") from None
    if not is_kept:
        # Nobody waits for its end, and none that has ended stays as a zombie.
        threading.Thread(target=process.wait, daemon=True).start()
        return
    try:
        code = process.wait(_BEGIN_SECONDS)
    except subprocess.TimeoutExpired:
        code = -1
    if code:
        reason = f"systemd did not begin the upgrade: systemd-run --user ended with {code}"
        raise PollenError("state-unusable", reason, "pln upgrade FILE.whl, there")
