"""A wheel on its way between nodes: held out by one, fetched by another through a tunnel.

Decides: from which holder a wheel is fetched, and when what came is given up.
Does not know: who signed the hash, what is done with the wheel.
Invariants: a file that was fetched has the size and the hash that were asked for, else it is gone.
    Memory is one piece, whatever the wheel. Nothing of it passes through a brain.
Source: docs/decisions/an-upgrade-over-the-mesh.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from pollen import paths
from pollen.errors import PollenError, error_from
from pollen.paths import Paths
from pollen.runtime.upgrade.taken import SERVICE
from pollen.sdk import reach
from pollen.sdk.control import Control

_PIECE = 1 << 20
# Seconds without a byte after which a holder, or who fetches, counts as gone. Guess.
_SILENT = 60
# Seconds until the holder's record has come here, beside the question. Guess: a spread, many times.
_KNOWN_WITHIN = 30
_LOOK = 0.2
# A question is the hash in hex and a line's end.
_ASKED = 65


def hash_of(path: Path) -> str:
    """The SHA-256 of a file, as package indexes print it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Shelf:
    """Holds out one file at a socket in the node's folder, to whoever names its hash."""

    def __init__(self, where: Paths, path: Path, wheel: str) -> None:
        self._path, self._wheel = path, wheel
        self._socket = where.wheel_socket
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Shelf:
        paths.check_socket_path(self._socket)
        self._socket.unlink(missing_ok=True)
        mask = os.umask(0o077)
        try:
            self._listener.bind(str(self._socket))
        finally:
            os.umask(mask)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._socket.unlink(missing_ok=True)
        # Closing alone does not wake the thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                held, _ = self._listener.accept()
                threading.Thread(target=self._give, args=(held,), daemon=True).start()

    def _give(self, held: socket.socket) -> None:
        with held, contextlib.suppress(OSError):
            held.settimeout(_SILENT)
            asked = b""
            while len(asked) < _ASKED and (piece := held.recv(_ASKED - len(asked))):
                asked += piece
            if asked == f"{self._wheel}\n".encode():
                with self._path.open("rb") as file:
                    held.sendfile(file)


def fetch(
    where: Paths, wheel: str, size: int, path: Path, say: Callable[[str], None] = lambda text: None
) -> None:
    """Bring a wheel here from any node that holds it out, by its hash.

    Raises ``unreachable`` when nobody does, ``wheel-invalid`` when what came is another file,
    ``state-unusable`` when it cannot be written. Then there is no file at ``path``.
    """
    fault: PollenError | None = None
    for provider in _holders(where):
        try:
            _fetch_from(where, provider, wheel, size, path, say)
            return
        except PollenError as error:
            path.unlink(missing_ok=True)
            if error.slug == "state-unusable":
                raise
            fault = error
    if fault is None:
        reason = "no node holds the wheel out"
        fault = error_from("unreachable", reason, "run pln upgrade --mesh FILE.whl again")
    raise fault


def _holders(where: Paths) -> Iterator[dict[str, Any]]:
    """Who holds wheels out, the nearest first; their records may still be on their way."""
    end = time.monotonic() + _KNOWN_WITHIN
    while time.monotonic() < end:
        listed = Control(where).get("/v1/services")["services"]
        held = next((held for held in listed if held["name"] == SERVICE), None)
        if held is not None and held["providers"]:
            yield from held["providers"]
            return
        time.sleep(_LOOK)


def _fetch_from(
    where: Paths,
    provider: dict[str, Any],
    wheel: str,
    size: int,
    path: Path,
    say: Callable[[str], None],
) -> None:
    name = provider["name"]
    with reach.opened(where, f"{SERVICE}@{provider['node']}") as held:
        try:
            held.settimeout(_SILENT)
            held.sendall(f"{wheel}\n".encode())
            came, digest = _received(held, size, path, lambda n: say(f"{n} of {size} bytes"))
        except TimeoutError:
            reason = f"node {name} sent nothing for {_SILENT} s"
            raise error_from("unreachable", reason, "pln status nodes") from None
        except ConnectionError as error:
            reason = f"the way to node {name} broke: {error}"
            raise error_from("unreachable", reason, "pln status nodes") from None
    if came < size:
        reason = f"node {name} sent {came} of {size} bytes of the wheel"
        raise error_from("unreachable", reason, "run pln upgrade --mesh FILE.whl again")
    if (came, digest) != (size, wheel):
        reason = f"what node {name} sent is not the wheel that the root signed: {digest}"
        raise error_from("wheel-invalid", reason, f"its hash must be sha256 {wheel}")


def _received(
    held: socket.socket, size: int, path: Path, say: Callable[[int], None]
) -> tuple[int, str]:
    """How many bytes came, at most one over the size, and their hash."""
    came, digest = 0, hashlib.sha256()
    told = time.monotonic()
    with _written(path) as descriptor:
        while came <= size and (piece := held.recv(min(_PIECE, size + 1 - came))):
            came += len(piece)
            digest.update(piece)
            _write(descriptor, piece, path)
            if time.monotonic() > told + 1:
                told = time.monotonic()
                say(came)
    return came, digest.hexdigest()


@contextlib.contextmanager
def _written(path: Path) -> Iterator[int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise _unwritten(path, error) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, piece: bytes, path: Path) -> None:
    try:
        while piece:
            piece = piece[os.write(descriptor, piece) :]
    except OSError as error:
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> PollenError:
    reason = f"{path} cannot be written: {error.strerror}"
    return PollenError("state-unusable", reason, paths.cure(path, error))
