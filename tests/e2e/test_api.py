"""The control API as its own document describes it: no bug, no answer that is not documented."""

from __future__ import annotations

import asyncio
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core import NOT_SET
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from pollen.runtime.control.openapi import openapi_view
from pollen.testing import Cluster
from tests import others
from tests.e2e.conftest import example, running

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


class Forwarder:
    """A TCP port of loopback whose connections lead to a unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Forwarder:
        self._thread.start()
        return self

    def __exit__(self, *of: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        start = asyncio.start_server(self._forward, sock=self._listener)
        server = self._loop.run_until_complete(start)
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end_all())
        self._loop.close()

    async def _end_all(self) -> None:
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_unix_connection(str(self._path))
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Bytes from one to the other until the source ends or the sink is gone."""
    try:
        while chunk := await source.read(65_536):
            sink.write(chunk)
            await sink.drain()
    except ConnectionError:
        pass
    finally:
        sink.close()


@pytest.fixture(scope="module")
def door() -> Iterator[Forwarder]:
    """One node with a seed, and its control socket on a port."""
    with running(Cluster(1)) as cluster:
        asyncio.run(cluster.seed(example("echo"), "echo"))
        with Forwarder(cluster[0].paths.control_socket) as forwarder:
            yield forwarder


calm = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
SCHEMA = schemathesis.openapi.from_dict(openapi_view("0"))
OPERATIONS = {result.ok().label: result.ok() for result in SCHEMA.get_all_operations()}
NO_OTHERS = "only root can act as another user"
LAST = ("POST /v1/drain", "POST /v1/shutdown")


def test_a_node_hands_out_the_document_of_the_table(door: Forwarder) -> None:
    document = requests.get(f"{door.url}/v1/openapi.json", timeout=5).json()
    assert document["paths"] == openapi_view("0")["paths"]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", [label for label in OPERATIONS if label not in LAST])
def test_every_answer_is_documented_and_none_is_a_bug(
    label: str, mode: GenerationMode, door: Forwarder
) -> None:
    """Bodies, queries and paths that fit the document, and such that do not."""
    strategy = OPERATIONS[label].as_strategy(generation_mode=mode)
    cases = 0

    @calm
    @given(case=strategy)
    def ask(case: Case) -> None:
        nonlocal cases
        cases += 1
        if case.query and str(case.query.get("follow", "")).lower() in ("true", "1"):
            case.query["follow"] = False  # It would go on for ever.
        case.call_and_validate(base_url=door.url, checks=CHECKS, timeout=20)

    try:
        ask()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # Nothing in it can be wrong.
    else:
        assert cases > 0


@pytest.mark.parametrize("label", LAST)
def test_the_end_is_documented_too(label: str, door: Forwarder) -> None:
    case = OPERATIONS[label].Case(body={} if label.endswith("shutdown") else NOT_SET)
    case.call_and_validate(base_url=door.url, checks=CHECKS[:4], timeout=20)


KNOCK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as door:
    door.settimeout(5)
    door.connect(sys.argv[1])
    try:
        door.sendall(b"GET /v1/health HTTP/1.1\\r\\nhost: node\\r\\n\\r\\n")
        print(door.recv(100))
    except (BrokenPipeError, ConnectionResetError):
        print(b"")
"""


def others_knock(path: Path) -> subprocess.CompletedProcess[str]:
    line = others.line("code", KNOCK, path)
    return subprocess.run(line, cwd=others.ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not others.can_become(), reason=NO_OTHERS)
@pytest.mark.parametrize("name", ["control.sock", "call.sock"])
def test_a_socket_is_its_owners_even_when_its_mode_is_not(name: str) -> None:
    """Who is no owner cannot reach it; and when somebody opened the doors, it is hung up on."""
    knock = [sys.executable, "-c", KNOCK]
    with running(Cluster(1)) as cluster:
        path = cluster[0].paths.home / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        own = subprocess.run([*knock, path], capture_output=True, text=True, check=True)
        assert "HTTP/1.1" in own.stdout
        refused = others_knock(path)
        assert refused.returncode != 0 and "PermissionError" in refused.stderr
        for opened in (path.parent.parent, path.parent):
            opened.chmod(0o755)
        path.chmod(0o666)
        heard = others_knock(path)
        assert (heard.stdout.strip(), heard.returncode) == ("b''", 0), heard.stderr
