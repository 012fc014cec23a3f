"""A service that is this program's own: a socket of it, published as long as it runs.

Decides: where the socket is, and when it is published another time.
Does not know: what is spoken there; who may reach it: the node's gates do.
Invariants: the name is served until the block is left or the program ends, however it ends: the
    node withdraws it when the connection of its request is gone. A node that starts again is asked
    again. The socket lies in the node's folder, and no other user opens it.
Source: docs/design/sdk.md#services.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from pollen.errors import PollenError, error_from
from pollen.paths import Paths, check_socket_path
from pollen.sdk.control import Control

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]
SyncHandler = Callable[[socket.socket], object]

# Seconds between two tries to be served by a node that went away. Guess: a restart takes one.
_AGAIN: Final = 1.0
# Clients that wait to be taken. As asyncio.start_server.
_BACKLOG: Final = 100
_log = logging.getLogger("pollen")


class _Place:
    """A listening socket in the node's folder, for whoever owns that; closed, its file is gone."""

    def __init__(self, paths: Paths) -> None:
        if paths.host:
            reason = "a program can be served by a node of its own machine only"
            raise error_from("usage", reason, "run a node here: pln up -d, pln join TOKEN")
        _sweep(paths)
        # A number of a process comes again, and in containers it is always the same.
        self.path = paths.home / f"s{os.getpid()}-{secrets.token_hex(3)}.sock"
        check_socket_path(self.path)
        self.socket = socket.socket(socket.AF_UNIX)
        self._is_bound = False
        mask = os.umask(0o177)
        try:
            self.socket.bind(str(self.path))
            self._is_bound = True
            held = paths.home.stat()
            if held.st_uid != os.geteuid():
                os.chown(self.path, held.st_uid, held.st_gid)
            self.socket.listen(_BACKLOG)
        except OSError as error:
            self.close()
            reason = f"no socket can be made in {paths.home}: {error.strerror}"
            raise error_from("state-unusable", reason, "pln doctor") from None
        finally:
            os.umask(mask)

    @property
    def target(self) -> str:
        return f"unix:{self.path}"

    def close(self) -> None:
        self.socket.close()
        if self._is_bound:
            self.path.unlink(missing_ok=True)


def _sweep(paths: Paths) -> None:
    """Remove the sockets of programs that ended without a word."""
    for path in paths.home.glob("s[0-9]*-*.sock"):
        with contextlib.suppress(OSError, ValueError):
            if not _is_running(int(path.name[1:].partition("-")[0])) and _is_dead(path):
                path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _is_dead(path: Path) -> bool:
    """Whether nobody listens; a process of another namespace may."""
    with socket.socket(socket.AF_UNIX) as held:
        held.setblocking(False)
        try:
            held.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


class _Tie:
    """The request that keeps a name served; its end is seen at its socket."""

    def __init__(self, paths: Paths, body: dict[str, Any]) -> None:
        self._control, self._body = Control(paths), body
        self._lock = threading.Lock()
        self._stack: contextlib.ExitStack | None = None
        self._is_closed = False
        self.socket: socket.socket | None = None

    def open(self) -> dict[str, Any]:
        """What ``pln serve --json`` prints. Raises what the node refuses with."""
        stack = contextlib.ExitStack()
        served, held = stack.enter_context(
            self._control.held("POST", "/v1/services/tied", self._body)
        )
        with self._lock:
            if self._is_closed:
                # Whoever waited for this left meanwhile.
                stack.close()
            else:
                self._stack, self.socket = stack, held
        return served

    def drop(self) -> None:
        """It ended; it may be opened again."""
        with self._lock:
            stack, held = self._stack, self.socket
            self._stack = self.socket = None
        if stack is not None and held is not None:
            # A forked child may hold it as well: the node is to see its end all the same.
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
            stack.close()

    def close(self) -> None:
        """For good."""
        with self._lock:
            self._is_closed = True
        self.drop()


def _body(name: str, place: _Place, options: dict[str, Any]) -> dict[str, Any]:
    return {"target": place.target, "name": name, **options}


def _say(name: str, error: PollenError, before: str) -> str:
    """A warning when the reason is new; its slug."""
    if error.slug != before:
        _log.warning("%s is not served now, and tried again: %s", name, error)
    return error.slug


# -- for asyncio ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def served(
    paths: Paths, name: str, handler: Handler, options: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """Clients of the service come to ``handler``, as those of ``asyncio.start_server`` do."""
    place = _Place(paths)
    tie = _Tie(paths, _body(name, place, options))
    keeper: asyncio.Task[None] | None = None
    try:
        server = await asyncio.start_unix_server(handler, sock=place.socket)
        try:
            answer = await asyncio.to_thread(tie.open)
            keeper = asyncio.create_task(_keep(name, tie))
            try:
                yield answer
            finally:
                # First no more clients come, then nobody listens.
                keeper.cancel()
                await asyncio.wait([keeper])
                tie.close()
        finally:
            # Who is served still is not waited for: since 3.12 ``async with server`` would.
            server.close()
    finally:
        tie.close()
        place.close()


async def _keep(name: str, tie: _Tie) -> None:
    slug = ""
    while True:
        await _ended(tie)
        tie.drop()
        await asyncio.sleep(_AGAIN)
        try:
            await asyncio.to_thread(tie.open)
            slug = ""
        except PollenError as error:
            slug = _say(name, error, slug)


async def _ended(tie: _Tie) -> None:
    """When the node has ended the request, which says nothing else."""
    held = tie.socket
    if held is None:
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    descriptor = held.fileno()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)


# -- for blocking code ----------------------------------------------------------------------------


class SyncServing:
    """A service of this program: ``forever`` serves its clients, one after another.

    ``listener`` is its socket, for a program that takes them otherwise; ``answer`` is what
    ``pln serve --json`` prints.
    """

    def __init__(self, name: str, handler: SyncHandler, place: _Place, tie: _Tie) -> None:
        self.listener = place.socket
        self._name, self._handler, self._tie = name, handler, tie
        self.answer = tie.open()

    def forever(self) -> None:
        """Hand each client's socket to the handler, and close it then. What a handler raises is
        raised here, but for a connection that broke."""
        slug, again = "", 0.0
        while True:
            tied = self._tie.socket
            waits = [self.listener] if tied is None else [self.listener, tied]
            left = None if tied is not None else max(0.0, again - time.monotonic())
            ready, _, _ = select.select(waits, [], [], left)
            if tied is None and time.monotonic() >= again:
                try:
                    self._tie.open()
                    slug = ""
                except PollenError as error:
                    slug, again = _say(self._name, error, slug), time.monotonic() + _AGAIN
            elif tied in ready:
                self._tie.drop()
                again = time.monotonic() + _AGAIN
            if self.listener in ready:
                held, _ = self.listener.accept()
                with held, contextlib.suppress(ConnectionError):
                    self._handler(held)


@contextlib.contextmanager
def served_sync(
    paths: Paths, name: str, handler: SyncHandler, options: dict[str, Any]
) -> Iterator[SyncServing]:
    """As ``served``, without a loop and without a thread."""
    place = _Place(paths)
    tie = _Tie(paths, _body(name, place, options))
    try:
        yield SyncServing(name, handler, place, tie)
    finally:
        tie.close()
        place.close()
