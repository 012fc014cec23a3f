"""How the end-to-end tests talk to a node: every door, every kind of error."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from pollen.errors import SLUGS, PollenError
from pollen.runtime.watch import logs
from pollen.sdk.asking import Payload
from pollen.sdk.control import Control
from pollen.testing import Node, until
from tests import recorder


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer, whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem+json of an error."""
        assert self.headers["content-type"] == "application/problem+json"
        held = json.loads(self.body)
        assert isinstance(held, dict)
        return held


def over_http(
    where: Path | str,
    target: str,
    body: bytes = b"",
    method: str = "POST",
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request, to a unix socket (a path) or to ``ip:port``."""
    if isinstance(where, Path):
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30)
        connection.sock.connect(str(where))
    else:
        connection = http.client.HTTPConnection(where, timeout=30)
    try:
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        named = {key.lower(): value for key, value in response.getheaders()}
        answer = Answer(response.status, named, response.read())
        recorder.note_words(answer.body)
        return answer
    finally:
        connection.close()


async def refusal(
    node: Node, seed: str, function: str | None, data: Payload = b"", **how: Any
) -> PollenError:
    """The error of a call through the SDK."""
    try:
        async with node.connect() as mesh:
            reply = await mesh.call(seed, function, data, **how)
    except PollenError as error:
        return error
    raise AssertionError(f"{seed}/{function} answered {reply.data[:80]!r}")


async def alive(*nodes: Node) -> None:
    """The nodes answer a call and ``status``, and nothing went wrong inside."""
    for node in nodes:
        async with node.connect() as mesh:
            reply = await mesh.call("echo", "echo", b"still here", timeout=10)
        assert reply.data == b"still here"
        assert (await node.get("/v1/health"))["state"] == "running"
        assert await metric(node, "brain_faults_total") == 0


async def metric(node: Node, name: str) -> int:
    """A counter or gauge of the metrics page."""
    page = await asyncio.to_thread(Control(node.paths).text, "/v1/metrics")
    for line in page.splitlines():
        if line.startswith(f"pollen_{name} "):
            return int(float(line.split()[1]))
    raise AssertionError(f"there is no metric {name}")


async def settles(node: Node, name: str, value: int, timeout: float = 20) -> None:
    """Wait until a gauge has a value."""

    async def is_so() -> bool:
        return await metric(node, name) == value

    await until(is_so, timeout, f"{name} of {node.name} is {value}")


def check_error(done: subprocess.CompletedProcess[bytes], slug: str) -> dict[str, Any]:
    """What ``pln --json`` printed: this slug, its exit code, a reason and a remedy."""
    recorder.note_words(done.stderr)
    assert done.returncode == SLUGS[slug].exit_code, done.stderr.decode()
    problem = json.loads(done.stderr)
    assert isinstance(problem, dict)
    assert (problem["slug"], problem["status"]) == (slug, SLUGS[slug].http_status)
    assert problem["title"] and problem["remedy"], problem
    return problem


def logged(node: Node, word: str) -> list[dict[str, Any]]:
    """The lines of a node's log that hold a word."""
    return [json.loads(line) for line in logs.tail(node.paths.log_file, 100_000) if word in line]
