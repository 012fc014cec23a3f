"""To services of other members by name, without a listener: one socket of the node is one tunnel.

Decides: what is asked of the node, and the error that its refusal is.
Does not know: who serves a name, or the way there; the node does.
Invariants: a socket or stream that is returned is open at the service's node, and says nothing but
    the bytes of the service. Its half-closes are those of the service. Where a tunnel broke or was
    cut, reading raises ``ConnectionResetError``; the end of bytes is the service's own. Over ssh
    that is not so: the way there knows no reset.
Source: docs/internals/seam.md#doors (``pollen-tunnel/1``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from typing import Final
from urllib.parse import quote

import msgspec

from pollen.errors import PollenError, error_from
from pollen.paths import Paths
from pollen.sdk import streams
from pollen.sdk.control import Control
from pollen.sdk.replies import gone

PREFACE: Final = b"\0pln-t1\n"
# Seconds until the service's node has answered. Guess: a link that must come up first.
PATIENCE: Final = 20.0
_PREFIX: Final = 4
_ANSWER_MAX: Final = 64 * 1024
_PIECE: Final = 256 * 1024


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    """What the node says before the bytes of the service: no slug when the tunnel is open."""

    slug: str
    reason: str
    remedy: str
    node: bytes | None = None


def _request(service: str, node: bytes | None) -> bytes:
    body = msgspec.msgpack.encode((service, node))
    return len(body).to_bytes(_PREFIX, "big") + body


def _check(answer: bytes) -> str:
    """The id of the node whose service it is. Raises what was refused."""
    try:
        read = msgspec.msgpack.decode(answer, type=_Answer)
    except msgspec.DecodeError as error:
        raise error_from("unreachable", f"the node sent nonsense: {error}") from None
    if read.slug:
        node = read.node.hex() if read.node else None
        raise error_from(read.slug, read.reason, read.remedy, node=node)
    return read.node.hex() if read.node else ""


def _length_of(prefix: bytes) -> int:
    length = int.from_bytes(prefix, "big")
    if length > _ANSWER_MAX:
        raise error_from("unreachable", "the node sent a frame over its own limit")
    return length


def parted(paths: Paths, service: str) -> tuple[str, bytes | None]:
    """The name and the provider in ``NAME`` or ``NAME@NODE``: the node says whom that means. Raises
    ``service-not-found``, ``ambiguous`` and ``usage``."""
    if "@" not in service:
        return service, None
    told = Control(paths).get(f"/v1/why/service/{quote(service, safe='')}")
    return told["name"], bytes.fromhex(told["providers"][0]["node"])


def opened(paths: Paths, service: str, seconds: float = PATIENCE) -> socket.socket:
    """A socket that is the service. Raises ``service-not-found``, ``provider-refused``, ``denied``,
    ``unreachable`` and what else the node refuses with."""
    return _opened(paths, *parted(paths, service), seconds)[0]


def touch(paths: Paths, name: str, node: bytes | None, seconds: float = PATIENCE) -> str:
    """Connect to a service and hang up; the id of the node that has it. Raises as ``opened``."""
    held, provider = _opened(paths, name, node, seconds)
    held.close()
    return provider


def _opened(
    paths: Paths, name: str, node: bytes | None, seconds: float
) -> tuple[socket.socket, str]:
    held = streams.opened(paths, seconds, PREFACE)
    try:
        held.settimeout(seconds)
        held.sendall(_request(name, node))
        provider = _check(_received(held, _length_of(_received(held, _PREFIX))))
        held.settimeout(None)
    except PollenError:
        held.close()
        raise
    except OSError as error:
        held.close()
        raise gone(paths, error) from None
    except BaseException:
        held.close()
        raise
    return held, provider


def _received(held: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = held.recv(size - len(data))
        if not piece:
            raise ConnectionResetError("the node closed the connection")
        data += piece
    return data


async def open_stream(
    paths: Paths, service: str, seconds: float = PATIENCE
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As ``opened``, for asyncio."""
    held = await asyncio.to_thread(opened, paths, service, seconds)
    held.setblocking(False)
    return await asyncio.open_unix_connection(sock=held)


def cut() -> PollenError:
    """The error of a tunnel that broke or was cut."""
    reason = "the service, or a node on the way, ended the connection"
    return error_from("unreachable", reason, "pln status services")


# -- standard input and output --------------------------------------------------------------------


def join_stdio(paths: Paths, service: str) -> int:
    """Standard input goes to the service and its answer to standard output, until both ended.

    Returns the exit code: 0, also when the reader of standard output went away. Raises
    ``unreachable`` where the tunnel broke, after what came is written.
    """
    held = opened(paths, service)
    with held:
        held.setblocking(False)
        _Joined(held).run()
    return 0


class _Joined:
    """Two ways of bytes; each ends by itself, and the other goes on."""

    def __init__(self, held: socket.socket) -> None:
        self._held = held
        self._up, self._down = bytearray(), bytearray()
        self._reads_in, self._reads_far = True, True
        self._is_up_over, self._is_cut = False, False

    def run(self) -> None:
        """Until the service has ended and all of it is written."""
        while self._reads_far or self._down:
            far = self._held.fileno()
            readable = [0] if self._reads_in and len(self._up) < _PIECE else []
            if self._reads_far and len(self._down) < _PIECE:
                readable.append(far)
            writable = ([far] if self._up else []) + ([1] if self._down else [])
            ready, able, _ = select.select(readable, writable, [])
            if 0 in ready:
                self._take_in()
            if far in ready:
                self._take_far()
            if far in able:
                self._send()
            if 1 in able and not self._write_out():
                return
            if not (self._reads_in or self._up or self._is_up_over):
                self._is_up_over = True
                with contextlib.suppress(OSError):
                    self._held.shutdown(socket.SHUT_WR)
        if self._is_cut:
            raise cut()

    def _take_in(self) -> None:
        data = os.read(0, _PIECE)
        self._up += data
        self._reads_in = bool(data)

    def _take_far(self) -> None:
        try:
            data = self._held.recv(_PIECE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data, self._is_cut = b"", True
        self._down += data
        self._reads_far = bool(data)

    def _send(self) -> None:
        try:
            del self._up[: self._held.send(self._up)]
        except BlockingIOError:
            return
        except OSError:
            # It takes no more; what it still says is read to its end.
            self._up.clear()
            self._reads_in, self._is_up_over = False, True

    def _write_out(self) -> bool:
        """False when nobody reads standard output any more."""
        try:
            del self._down[: os.write(1, self._down[:4096])]
        except BrokenPipeError:
            return False
        return True
