"""A detached daemon with a TCP door, and raw connections to it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from pollen import lock
from pollen.paths import Paths, resolve
from pollen.runtime.watch import logs
from tests import recorder
from tests.e2e.conftest import example
from tests.e2e.talk import over_http

MIB = 1 << 20
LIMIT = 4 * MIB
HOST = b"host: a\r\n"
CALL = b"POST /call/echo/echo HTTP/1.1\r\n"
ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class House(msgspec.Struct):
    """A detached daemon with a TCP door, and the seed ``echo``, which is public."""

    paths: Paths
    port: int

    @property
    def tcp(self) -> str:
        """Where the door is."""
        return f"127.0.0.1:{self.port}"

    @property
    def process(self) -> psutil.Process:
        """The daemon's process."""
        pid = lock.read_pid(self.paths)
        assert pid is not None
        return psutil.Process(pid)

    def log_bytes(self) -> int:
        """All that it has written to logs so far."""
        names = ("pollen.log*", "seed-logs/*", "daemon.err*")
        return sum(file.stat().st_size for name in names for file in self.paths.home.glob(name))

    def refused(self) -> dict[str, float]:
        """What the metrics page says of refusals."""
        page = over_http(self.paths.control_socket, "/v1/metrics", method="GET").body.decode()
        name = 'pollen_door_refusals_total{reason="'
        rows = [line.removeprefix(name) for line in page.splitlines() if line.startswith(name)]
        return {row.split('"')[0]: float(row.split()[-1]) for row in rows}

    def buffered(self) -> float:
        """What the metrics page says of bodies and answers that are held, bytes."""
        page = over_http(self.paths.control_socket, "/v1/metrics", method="GET").body.decode()
        rows = [line for line in page.splitlines() if line.startswith("pollen_door_buffered_bytes")]
        return float(rows[0].split()[-1])


def pln(home: Path, *words: str, files: int = 0) -> None:
    """Run ``pln``, with so many open files for it and what it starts."""
    line = [sys.executable, "-m", "pollen.cli", "--dir", str(home), *words]
    limit = f"ulimit -n {files}; " if files else ""
    line = ["sh", "-c", f'{limit}exec "$0" "$@"', *line]
    done = subprocess.run(line, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()


@contextlib.contextmanager
def house(files: int = 0) -> Iterator[House]:
    """A daemon that may open so many files."""
    home = Path(tempfile.mkdtemp(prefix="pln-"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    found = House(resolve(str(home)), port)
    try:
        listen = ("--ips", "127.0.0.1", "--port", "0", "--http", found.tcp)
        pln(home, "up", "-d", *listen, files=files)
        pln(home, "seed", example("echo"), "--public")
        yield found
    except BaseException:
        print("\n".join(logs.tail(found.paths.log_file, 20)), file=sys.stderr)
        raise
    finally:
        with contextlib.suppress(psutil.NoSuchProcess, AssertionError):
            found.process.kill()
        shutil.rmtree(home, ignore_errors=True)


def connected(door: House | Path, source: str = "127.0.0.1") -> socket.socket:
    """A connection to the TCP door, or to a unix socket."""
    if isinstance(door, Path):
        link = socket.socket(socket.AF_UNIX)
        link.connect(str(door))
    else:
        link = socket.create_connection(("127.0.0.1", door.port), 20, (source, 0))
    link.settimeout(20)
    return link


def heard(link: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := link.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def said(door: House | Path, request: bytes) -> bytes:
    """What comes back for some bytes until the door closes."""
    with connected(door) as link:
        with contextlib.suppress(ConnectionError):
            link.sendall(request)
        answer = heard(link)
    recorder.note_words(answer)
    return answer


def problem(answer: bytes) -> dict[str, Any]:
    """The only answer of a connection: a problem, behind which it was closed."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert len(ANSWER.findall(answer)) == 1, answer
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    held = json.loads(body)
    assert isinstance(held, dict)
    assert int(head[9:12]) == held["status"]
    assert held["remedy"]
    return held
