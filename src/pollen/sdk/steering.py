"""What a mesh can do beside calls: publish, serve, reach services, look around.

Decides: nothing; each is a request to the node's control socket, or a tunnel through it.
Does not know: calls and their connection (``client``, ``blocking``); functions of the program
    (``functions``), whose methods it inherits.
Invariants: the blocking twin has the same names. The SDK starts no listener of its own but the one
    of a service that the program itself is (``serving``).
Source: docs/design/sdk.md#services.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload
from urllib.parse import quote

from pollen.options import SeedKeywords
from pollen.paths import Paths
from pollen.sdk import files, sealing
from pollen.sdk.asking import seed_options
from pollen.sdk.control import Control
from pollen.sdk.files import Progress
from pollen.sdk.functions.running import Running, SyncRunning
from pollen.sdk.uses import SyncUse, Use

if TYPE_CHECKING:
    from pollen.sdk.blocking import SyncMesh
    from pollen.sdk.client import Mesh
    from pollen.sdk.serving import Handler, SyncHandler, SyncServing

S = TypeVar("S")
# Seconds until a service has answered. Guess: a link that must come up first.
_PATIENCE = 20.0


def _untold(done: int, whole: int) -> None:
    pass


def _serve(paths: Paths, target: int | str, name: str, options: dict[str, Any]) -> dict[str, Any]:
    body = {"target": str(target), "name": name, **options}
    return Control(paths).request("POST", "/v1/services", body)


def _unserve(paths: Paths, name: str) -> dict[str, Any]:
    return Control(paths).request("DELETE", f"/v1/services/{quote(name, safe='')}")


def _gate(allow: dict[str, str] | None, allow_if: str) -> dict[str, Any]:
    return {"allow": [[key, value] for key, value in (allow or {}).items()], "allow_if": allow_if}


def _options(
    allow: dict[str, str] | None, allow_if: str, beside: bool, take_over: bool, proxy_header: bool
) -> dict[str, Any]:
    options = _gate(allow, allow_if) | {"beside": beside, "take_over": take_over}
    return options | {"proxy_header": proxy_header}


def _check(check: str, every: float, timeout: float) -> dict[str, Any]:
    """Seconds become the milliseconds of the control API; 0 are the node's defaults."""
    times = {"check_every_ms": round(every * 1000), "check_timeout_ms": round(timeout * 1000)}
    return {"check": check, **times}


class Steering(Running):
    """For asyncio."""

    _paths: Paths

    async def seed(
        self, source: str | os.PathLike[str], name: str, **options: Unpack[SeedKeywords]
    ) -> dict[str, Any]:
        """Publish a module, a Python file, a folder of Python or any other file under a name; the
        answer is what ``pln seed --json`` prints."""
        from pollen.sdk.python.publish import publish_source

        control, given = Control(self._paths), seed_options(options)
        return await asyncio.to_thread(publish_source, control, source, name, given)

    async def fetch(
        self,
        name: str,
        place: str | os.PathLike[str],
        *,
        force: bool = False,
        bytes_per_s: int = 0,
        progress: Progress = _untold,
    ) -> int:
        """Fetch a blob into a file, or a site into a folder, which is there whole or not at all;
        its bytes. ``bytes_per_s`` limits how fast it comes from other nodes. ``progress`` is told
        of the bytes that came and of all of them, in another thread. Raises ``seed-not-found``,
        ``denied``, ``unreachable``, ``file-exists``."""
        control, path, how = Control(self._paths), Path(place), {"bytes_per_s": bytes_per_s}
        fetched = await asyncio.to_thread(
            files.fetch, control, name, path, progress, force=force, **how
        )
        return fetched.size

    async def read(self, name: str, *, bytes_per_s: int = 0) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob as they come: ``async for piece in mesh.read("film.mp4")``. No piece
        is larger than 1 MiB, and the next one is read when it is asked for. Raises as ``fetch``."""
        pieces = files.pieces(Control(self._paths), name, bytes_per_s=bytes_per_s)
        try:
            while piece := await asyncio.to_thread(next, pieces, b""):
                yield piece
        finally:
            await asyncio.to_thread(pieces.close)

    @overload
    def use(self, seed: str, *, timeout: float = 60.0) -> Use: ...

    @overload
    def use(self, seed: str, shape: type[S], *, timeout: float = 60.0) -> S: ...

    def use(self, seed: str, shape: type[S] | None = None, *, timeout: float = 60.0) -> Use | S:
        """A seed whose functions take and give values: ``await mesh.use("hello").greet("world")``.
        ``timeout`` is that of each call, in seconds. ``shape`` is a class that ``pln stubs`` wrote:
        type checkers then know the functions; nothing else comes of it."""
        return Use(cast("Mesh", self), seed, timeout)

    async def unseed(self, target: str) -> dict[str, Any]:
        """Withdraw a seed by name or hash."""
        return await asyncio.to_thread(Control(self._paths).withdraw, target)

    async def versions(self, name: str) -> dict[str, Any]:
        """What ``pln versions --json`` prints."""
        return await asyncio.to_thread(Control(self._paths).versions, name)

    async def rollback(self, name: str, version: int | str = "") -> dict[str, Any]:
        """Publish a former version of a name again, with its options: the one before, or one by
        its number or the first digits of a hash. Raises ``version-not-found``, ``denied``,
        ``blob-not-found``; the name stands as before then."""
        return await asyncio.to_thread(Control(self._paths).rollback, name, str(version))

    async def reseal(self, name: str) -> dict[str, Any] | None:
        """Seal a blob that this node sealed anew, for the nodes that may read it now; None when
        those are the same. Raises ``seed-not-found``, ``denied``, ``bad-request``."""
        return await asyncio.to_thread(sealing.reseal, Control(self._paths), name)

    async def pin(self, name: str) -> dict[str, Any]:
        """Have the node keep a copy of a blob or a site, whatever the plan says. Raises
        ``seed-not-found``, ``bad-request`` for a module, ``denied`` where its gate excludes it."""
        return await asyncio.to_thread(Control(self._paths).pin, name)

    async def unpin(self, name: str) -> dict[str, Any]:
        """Let the plan decide again whether the node keeps a copy."""
        return await asyncio.to_thread(Control(self._paths).pin, name, is_pinned=False)

    async def status(self) -> dict[str, Any]:
        """What ``pln status --json`` prints."""
        return await asyncio.to_thread(Control(self._paths).get, "/v1/status")

    @overload
    def serve(
        self,
        target: int | str,
        name: str,
        *,
        allow: dict[str, str] | None = None,
        allow_if: str = "",
        beside: bool = False,
        take_over: bool = False,
        proxy_header: bool = False,
        check: str = "",
        check_every: float = 0,
        check_timeout: float = 0,
    ) -> Awaitable[dict[str, Any]]: ...

    @overload
    def serve(
        self,
        target: str,
        name: Handler,
        *,
        allow: dict[str, str] | None = None,
        allow_if: str = "",
        beside: bool = False,
        take_over: bool = False,
        proxy_header: bool = False,
        check: str = "",
        check_every: float = 0,
        check_timeout: float = 0,
    ) -> AbstractAsyncContextManager[dict[str, Any]]: ...

    def serve(
        self,
        target: int | str,
        name: str | Handler,
        *,
        allow: dict[str, str] | None = None,
        allow_if: str = "",
        beside: bool = False,
        take_over: bool = False,
        proxy_header: bool = False,
        check: str = "",
        check_every: float = 0,
        check_timeout: float = 0,
    ) -> Awaitable[dict[str, Any]] | AbstractAsyncContextManager[dict[str, Any]]:
        """Serve what listens at ``target`` (a port, ``HOST:PORT``, ``udp:PORT``, ``unix:PATH``)
        under a name, until ``unserve``; the answer is what ``pln serve --json`` prints.

        Or serve this program: ``async with mesh.serve("api", handler)``, as long as the block runs
        and the program lives. ``handler(reader, writer)`` is that of ``asyncio.start_server``.
        ``check`` is ``tcp`` or ``http:/PATH``: the node checks it each ``check_every`` seconds, for
        ``check_timeout`` seconds at most, and clients go to other nodes while it fails.
        Raises ``name-taken``, ``denied``, ``path-too-long``, and ``usage`` over ssh.
        """
        options = _options(allow, allow_if, beside, take_over, proxy_header)
        options |= _check(check, check_every, check_timeout)
        if isinstance(name, str):
            return asyncio.to_thread(_serve, self._paths, target, name, options)
        from pollen.sdk import serving

        return serving.served(self._paths, str(target), name, options)

    async def unserve(self, name: str) -> dict[str, Any]:
        """Serve a name on this node no more."""
        return await asyncio.to_thread(_unserve, self._paths, name)

    @contextlib.asynccontextmanager
    async def open(
        self, service: str, *, timeout: float = _PATIENCE
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to a service, ``NAME`` or ``NAME@NODE``; ``timeout`` seconds to get it.

        ``async with mesh.open("api") as (reader, writer)``. ``writer.write_eof()`` tells the
        service the end and leaves its answer to come. Raises ``service-not-found``,
        ``provider-refused``, ``denied``, ``unreachable``. Where the tunnel broke or was cut,
        reading raises ``ConnectionResetError``; not caught inside, it becomes ``unreachable``.
        """
        from pollen.sdk import reach

        reader, writer = await reach.open_stream(self._paths, service, timeout)
        try:
            yield reader, writer
        except ConnectionError as error:
            if reader.exception() is not error:
                raise
            raise reach.cut() from error
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class SyncSteering(SyncRunning):
    """The blocking twin."""

    _paths: Paths

    def seed(
        self, source: str | os.PathLike[str], name: str, **options: Unpack[SeedKeywords]
    ) -> dict[str, Any]:
        """Publish a module, a Python file or a folder of Python under a name; the answer is what
        ``pln seed --json`` prints."""
        from pollen.sdk.python.publish import publish_source

        return publish_source(Control(self._paths), source, name, seed_options(options))

    def fetch(
        self,
        name: str,
        place: str | os.PathLike[str],
        *,
        force: bool = False,
        bytes_per_s: int = 0,
        progress: Progress = _untold,
    ) -> int:
        """As ``Steering.fetch``; ``progress`` is called in this thread."""
        control, path = Control(self._paths), Path(place)
        fetched = files.fetch(control, name, path, progress, force=force, bytes_per_s=bytes_per_s)
        return fetched.size

    def read(self, name: str, *, bytes_per_s: int = 0) -> Iterator[bytes]:
        """As ``Steering.read``: ``for piece in mesh.read("film.mp4")``."""
        return files.pieces(Control(self._paths), name, bytes_per_s=bytes_per_s)

    @overload
    def use(self, seed: str, *, timeout: float = 60.0) -> SyncUse: ...

    @overload
    def use(self, seed: str, shape: type[S], *, timeout: float = 60.0) -> S: ...

    def use(self, seed: str, shape: type[S] | None = None, *, timeout: float = 60.0) -> SyncUse | S:
        """As ``Steering.use``, without ``await``."""
        return SyncUse(cast("SyncMesh", self), seed, timeout)

    def unseed(self, target: str) -> dict[str, Any]:
        """Withdraw a seed by name or hash."""
        return Control(self._paths).withdraw(target)

    def versions(self, name: str) -> dict[str, Any]:
        """What ``pln versions --json`` prints."""
        return Control(self._paths).versions(name)

    def rollback(self, name: str, version: int | str = "") -> dict[str, Any]:
        """As ``Steering.rollback``, without ``await``."""
        return Control(self._paths).rollback(name, str(version))

    def reseal(self, name: str) -> dict[str, Any] | None:
        """Seal a blob that this node sealed anew, for the nodes that may read it now; None when
        those are the same."""
        return sealing.reseal(Control(self._paths), name)

    def pin(self, name: str) -> dict[str, Any]:
        """As ``Steering.pin``, without ``await``."""
        return Control(self._paths).pin(name)

    def unpin(self, name: str) -> dict[str, Any]:
        """As ``Steering.unpin``, without ``await``."""
        return Control(self._paths).pin(name, is_pinned=False)

    def status(self) -> dict[str, Any]:
        """What ``pln status --json`` prints."""
        return Control(self._paths).get("/v1/status")

    @overload
    def serve(
        self,
        target: int | str,
        name: str,
        *,
        allow: dict[str, str] | None = None,
        allow_if: str = "",
        beside: bool = False,
        take_over: bool = False,
        proxy_header: bool = False,
        check: str = "",
        check_every: float = 0,
        check_timeout: float = 0,
    ) -> dict[str, Any]: ...

    @overload
    def serve(
        self,
        target: str,
        name: SyncHandler,
        *,
        allow: dict[str, str] | None = None,
        allow_if: str = "",
        beside: bool = False,
        take_over: bool = False,
        proxy_header: bool = False,
        check: str = "",
        check_every: float = 0,
        check_timeout: float = 0,
    ) -> AbstractContextManager[SyncServing]: ...

    def serve(
        self,
        target: int | str,
        name: str | SyncHandler,
        *,
        allow: dict[str, str] | None = None,
        allow_if: str = "",
        beside: bool = False,
        take_over: bool = False,
        proxy_header: bool = False,
        check: str = "",
        check_every: float = 0,
        check_timeout: float = 0,
    ) -> dict[str, Any] | AbstractContextManager[SyncServing]:
        """As ``Steering.serve``. This program is served by ``serving.forever()`` within ``with
        mesh.serve("api", handler) as serving``: ``handler`` gets each client's socket, one after
        another."""
        options = _options(allow, allow_if, beside, take_over, proxy_header)
        options |= _check(check, check_every, check_timeout)
        if isinstance(name, str):
            return _serve(self._paths, target, name, options)
        from pollen.sdk import serving

        return serving.served_sync(self._paths, str(target), name, options)

    def unserve(self, name: str) -> dict[str, Any]:
        """Serve a name on this node no more."""
        return _unserve(self._paths, name)

    @contextlib.contextmanager
    def open(self, service: str, *, timeout: float = _PATIENCE) -> Iterator[socket.socket]:
        """A socket that is the service: ``with mesh.open("api") as held``. ``timeout`` seconds to
        get it; the socket itself has none. Where the tunnel broke or was cut, ``recv`` raises
        ``ConnectionResetError``; not caught inside, it becomes ``unreachable``."""
        from pollen.sdk import reach

        held = reach.opened(self._paths, service, timeout)
        try:
            yield held
        except ConnectionResetError as error:
            raise reach.cut() from error
        finally:
            held.close()
