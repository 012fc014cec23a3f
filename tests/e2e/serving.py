"""What the tests of services share: servers, who knows a name, and clients of listeners."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

from pollen.testing import Node, until

LOOPBACK = "127.0.0.1"


@contextlib.asynccontextmanager
async def server(handler: Any) -> AsyncIterator[int]:
    """A TCP server on a free port of loopback."""
    held = await asyncio.start_server(handler, LOOPBACK, 0, limit=1 << 20)
    try:
        yield held.sockets[0].getsockname()[1]
    finally:
        await hang_up()
        held.close()


async def until_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads to the end, then says how much came and its hash, and ends."""
    data = await reader.read(-1)
    writer.write(f"{len(data)} {hashlib.sha256(data).hexdigest()}\n".encode())
    writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says again what comes."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


def named(text: str) -> Any:
    """A server that says its name and ends."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text.encode())
        writer.close()

    return handler


async def serve(node: Node, target: int | str, name: str, **more: Any) -> None:
    """Serve a target there under a name; ``knows`` waits until another node has heard."""
    await node.post("/v1/services", {"target": str(target), "name": name, **more})


async def knows(node: Node, name: str, *providers: str) -> None:
    """Wait until a node shows that these serve a name, and are online."""

    async def is_so() -> bool:
        for held in (await node.get("/v1/services"))["services"]:
            if held["name"] == name:
                up = {p["name"] for p in held["providers"] if p["state"] in ("self", "online")}
                return up == set(providers)
        return not providers

    await until(is_so, 20, f"{node.name} knows {name} of {providers}")


async def listener(node: Node, service: str, **more: Any) -> str:
    """Where clients of a node find a service from now on."""
    body = {"service": service, "local": f"{LOOPBACK}:0", **more}
    return str((await node.post("/v1/listeners", body))["bound"])


_dialled: list[asyncio.StreamWriter] = []


async def dial(bound: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a listener; it is closed when its server is."""
    if bound.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(bound.removeprefix("unix:"))
    else:
        host, _, port = bound.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
    _dialled.append(writer)
    return reader, writer


async def hang_up() -> None:
    """Close whatever the test dialled, within its loop."""
    while _dialled:
        writer = _dialled.pop()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
