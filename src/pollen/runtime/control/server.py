"""The socket and the server: uvicorn on a unix socket that we bind and guard ourselves.

The socket is bound under umask 177 in a 0700 folder (uvicorn would open it to everybody), and each
peer's user id is asked of the kernel when it connects: ours and root's are answered, others are
closed unread.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from pollen.errors import PollenError
from pollen.paths import check_socket_path
from pollen.runtime.control.accept import Acceptor

# Connections that wait to be taken: a burst of commands. Guess.
BACKLOG = 512
# Connections of the control socket at once; a command has one. Guess.
CONNECTIONS = 256
_UCRED = struct.Struct("3i")
# Darwin: LOCAL_PEERCRED at SOL_LOCAL gives an xucred: version, uid, ngroups, 16 groups.
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1
_XUCRED = struct.Struct("IIh2x16I")


def bind_control(path: Path) -> socket.socket:
    """A listening unix socket that only its owner can open. Replaces a dead one."""
    check_socket_path(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PollenError(
            "state-unusable",
            f"the socket {path} cannot be bound: {error.strerror}",
            "give another folder: --dir or PLN_DIR",
        ) from error
    finally:
        os.umask(mask)
    listener.setblocking(False)
    return listener


def peer_uid(peer: socket.socket) -> int | None:
    """The user id at the other end of a unix socket, or None when the kernel does not say."""
    try:
        if sys.platform == "darwin":
            raw = peer.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size)
            return int(_XUCRED.unpack(raw)[1])
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return int(_UCRED.unpack(raw)[1])
    except OSError:
        return None


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol, for peers of our own user id and root only."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = transport.get_extra_info("socket")
        if peer is None or peer_uid(peer) not in (os.getuid(), 0):
            transport.abort()
            return
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is not None:
            super().connection_lost(exc)


class ControlServer:
    """The running server. uvicorn's own loop (ten wake-ups a second) and signals are not used."""

    def __init__(
        self,
        app: Starlette,
        listener: socket.socket,
        warn: Callable[[str, str], None],
        protocol: type[H11Protocol] = GuardedProtocol,
        connections: int = CONNECTIONS,
    ) -> None:
        self._listener = listener
        self._end: asyncio.Event | None = getattr(app.state, "end", None)
        is_file = listener.family == socket.AF_UNIX
        self._path = Path(str(listener.getsockname())) if is_file else None
        config = uvicorn.Config(
            app,
            http=protocol,
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            ws="none",
            timeout_graceful_shutdown=2,
        )
        config.load()
        self._server: Any = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        state = self._server.server_state
        make: Callable[[], H11Protocol] = functools.partial(
            protocol, config=config, server_state=state, app_state={}
        )
        self._acceptor = Acceptor(listener, make, lambda: len(state.connections), connections, warn)

    async def start(self) -> None:
        """Answer from now on."""
        # No socket for uvicorn: asyncio's accept loop would serve it.
        await self._server.startup(sockets=[])
        self._acceptor.start()

    async def stop(self) -> None:
        """Answer no more; requests under way may end. The socket's file goes with it."""
        if self._end is not None:
            self._end.set()
        self._acceptor.stop()
        await self._server.shutdown(sockets=[self._listener])
        if self._path is not None:
            self._path.unlink(missing_ok=True)
