"""Guests ask services of members: in C, Go, AssemblyScript and Python; who may, and what if not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen.errors import PollenError
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import EXAMPLES, example, running
from tests.e2e.serving import knows, serve, server
from tests.e2e.talk import refusal

pytestmark = pytest.mark.timeout(180)

GREET = EXAMPLES.parent / "assemblyscript" / "greet.wasm"
# Guests run on b alone; the services are on a.
ON_B: dict[str, Any] = {"host": [("bench", "host")], "on": ["b"]}
ASK = '''"""Asks services of the mesh."""
import asyncio

import pollen


def ask(name: str, said: str) -> str:
    return pollen.request(f"pln://service/{name}", said).decode()


async def both(one: str, other: str) -> str:
    uris = (f"pln://service/{name}" for name in (one, other))
    answers = await asyncio.gather(*(pollen.request(uri, b"hi") for uri in uris))
    return b" ".join(answers).decode()


def slug(name: str) -> str:
    try:
        return pollen.request(f"pln://service/{name}").decode()
    except pollen.CallError as error:
        return error.slug
'''


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """An admin that serves, and a publisher that hosts."""
    with running(Cluster(2, properties={"b": {"bench": "host"}})) as cluster:
        yield cluster


async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers when all was said: who waits for no end of input would wait for ever."""
    data = await reader.read(-1)
    writer.write(data.upper())
    writer.close()


@contextlib.asynccontextmanager
async def served(
    cluster: Cluster, name: str, handler: Any = upper, **gate: Any
) -> AsyncIterator[None]:
    """A service of a that both know."""
    async with server(handler) as port:
        await serve(cluster[0], port, name, **gate)
        await knows(cluster[1], name, "a")
        yield


async def counted(node: Node, name: str) -> dict[str, Any]:
    """What a node's muscles say of a service, as of a second ago."""
    view = await node.get("/v1/services")
    found: dict[str, Any] = next(held for held in view["services"] if held["name"] == name)
    return found


async def test_a_c_guest_asks_a_service(pair: Cluster) -> None:
    """From the node where the guest runs, and the answer is all that the service said."""
    async with served(pair, "c-upper"):
        await pair.seed(example("relay"), "c-ask", allow_services=["c-upper"], **ON_B)
        for node in pair:
            async with node.connect() as mesh:
                reply = await mesh.call("c-ask", "relay", b"pln://service/c-upper\nhello")
            assert reply.data == b"HELLO"
        # Nothing said, and nothing answered, is an answer.
        async with pair[0].connect() as mesh:
            assert (await mesh.call("c-ask", "relay", b"pln://service/c-upper\n")).data == b""

        async def is_counted() -> bool:
            seen = await counted(pair[1], "c-upper")
            figures = [seen[name] for name in ("opened", "open", "bytes_in", "bytes_out")]
            return figures == [3, 0, 10, 10]

        await until(is_counted, 10, "three tunnels are counted, with their bytes")


async def test_an_assemblyscript_guest_asks_a_service(pair: Cluster) -> None:
    """By the same import; the address is a configuration value."""
    async with served(pair, "as-upper"):
        config = {"next": "pln://service/as-upper"}
        await pair.seed(GREET, "as-ask", config=config, allow_services=["as-upper"], **ON_B)
        async with pair[0].connect() as mesh:
            assert (await mesh.call("as-ask", "relay", "Uri")).text == "URI"


async def test_a_go_guest_asks_a_service(pair: Cluster, tmp_path: Path) -> None:
    """The example of the repository, built here."""
    go = shutil.which("go", path=os.environ["PATH"] + ":/usr/local/go/bin")
    if go is None:
        pytest.skip("needs go")
    made = tmp_path / "ask.wasm"
    environment = os.environ | {"GOOS": "wasip1", "GOARCH": "wasm"}
    line = [go, "build", "-buildmode=c-shared", "-o", str(made), "./ask"]
    await asyncio.to_thread(
        subprocess.run, line, cwd=EXAMPLES.parent / "go", env=environment, check=True
    )
    async with served(pair, "go-upper"), pair[0].connect() as mesh:
        await mesh.seed(made, "go-ask", allow_services=["go-upper"], host=ON_B["host"])
        # A module of 2 MB is compiled.
        await pair.ready("go-ask", 120, on=["b"])
        assert (await mesh.call("go-ask", "ask", "go-upper\nhello")).text == "HELLO"


@pytest.mark.timeout(400)
async def test_a_python_guest_asks_services_one_by_one_and_together(
    pair: Cluster, tmp_path: Path
) -> None:
    """Waiting or awaited; what went wrong is an exception, but for what it may not ask."""
    source = tmp_path / "asks.py"
    source.write_text(ASK)
    names = ["py-upper", "py-lost"]
    async with served(pair, "py-upper"):
        await serve(pair[0], 9, "py-lost")
        await knows(pair[1], "py-lost", "a")
        # Both nodes compile the runner, which takes 10 s when alone.
        async with pair[0].connect() as mesh:
            await mesh.seed(str(source), "py-ask", allow_services=names, host=ON_B["host"])
        await pair.ready("py-ask", 150, on=["b"])
        async with pair[0].connect() as mesh:
            seed = mesh.function("py-ask", "ask")
            assert (await seed('["py-upper", "hello"]')).text == '"HELLO"'
            both = await mesh.call("py-ask", "both", '["py-upper", "py-upper"]')
            assert both.text == '"HI HI"'
            lost = await mesh.call("py-ask", "slug", '["py-lost"]')
            assert lost.text == '"provider-refused"'
        error = await refusal(pair[0], "py-ask", "slug", b'["elsewhere"]')
        assert error.slug == "guest-host-refused"


async def told(cluster: Cluster, name: str) -> str:
    """What `pln why call` says of a seed of these tests."""
    done = await cluster[0].pln("why", "call", name, "relay")
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.decode().split())


async def test_a_service_that_the_spec_does_not_name_ends_the_call(pair: Cluster) -> None:
    """None by default; the remedy names the flag, and a caller of that seed lives on."""
    async with served(pair, "unnamed"):
        await pair.seed(example("relay"), "no-ask", **ON_B)
        error = await refusal(pair[0], "no-ask", "relay", b"pln://service/unnamed\nx")
        assert error.slug == "guest-host-refused"
        assert error.remedy.startswith("seed it with --allow-service unnamed")
        assert "service unnamed" not in await told(pair, "no-ask")
        # A guest whose child ended so is told, and goes on: it fails by its own word.
        await pair.seed(example("relay"), "above", **ON_B)
        uri = b"pln://seed/no-ask/relay\npln://service/unnamed\nx"
        error = await refusal(pair[0], "above", "relay", uri)
        assert error.slug == "guest-failed"
        assert "[guest-host-refused]" in error.remedy


async def test_a_gate_must_let_in_the_host_and_the_publisher(pair: Cluster) -> None:
    """Each of them alone is not enough, and `pln why call` says which one is missing."""
    async with contextlib.AsyncExitStack() as stack:
        for node in pair:
            gate = f'caller.id == "{(await node.status())["node"]}"'
            await stack.enter_async_context(served(pair, f"for-{node.name}", allow_if=gate))
        # Published by a, runs on b: one gate shuts out its host, the other its publisher.
        options: dict[str, Any] = {"allow_services": ["for-a", "for-b"], **ON_B}
        await pair.seed(example("relay"), "of-a", **options)
        host = await refusal(pair[0], "of-a", "relay", b"pln://service/for-a\nx")
        publisher = await refusal(pair[0], "of-a", "relay", b"pln://service/for-b\nx")
        assert {host.slug, publisher.slug} == {"guest-host-refused"}
        assert "publisher" not in host.reason
        assert "publisher of the guest's seed" in publisher.reason
        words = await told(pair, "of-a")
        assert "it may not ask service for-a: the gate at a does not let in its hosts: b" in words
        assert "it may not ask service for-b: the gate at a does not let in a, who" in words
        # Published by b, both are b.
        await pair.seed(example("relay"), "of-b", at=1, **options)
        async with pair[0].connect() as mesh:
            reply = await mesh.call("of-b", "relay", b"pln://service/for-b\nx")
        assert reply.data == b"X"
        assert "it may ask service for-b at a" in await told(pair, "of-b")


async def test_a_service_that_never_answers_ends_with_the_call(pair: Cluster) -> None:
    """The time of the call is that of its requests, and the service is hung up on."""
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

        async def is_hung_up_on() -> bool:
            writer.write(b"still here")
            try:
                await writer.drain()
            except ConnectionError:
                return True
            return False

        await until(is_hung_up_on, 20, "nobody waits for an answer any more")
        gone.set()
        writer.close()

    async with served(pair, "silent", silent):
        options: dict[str, Any] = {"allow_services": ["silent"], "timeout_ms": 700, **ON_B}
        await pair.seed(example("relay"), "waits", **options)
        began = time.monotonic()
        error = await refusal(pair[0], "waits", "relay", b"pln://service/silent\nx")
        assert (error.slug, error.may_have_executed) == ("deadline", True)
        assert time.monotonic() - began < 5
        await asyncio.wait_for(gone.wait(), 10)


async def test_each_request_of_a_service_counts_as_a_call(pair: Cluster) -> None:
    """So that a tree of calls cannot ask for ever."""
    async with served(pair, "counted"):
        await pair.seed(example("relay"), "spends", allow_services=["counted"], **ON_B)
        # What is over the limit is told to the guest; its tail call to a service is none.
        error = await refusal(pair[0], "spends", "spend", b"1010\npln://service/counted")
        assert error.slug == "guest-failed"

        async def is_counted() -> bool:
            return 990 <= (await counted(pair[1], "counted"))["opened"] <= 1000

        await until(is_counted, 10, "as many tunnels as calls are counted, and no more")


async def test_a_name_that_is_none_is_refused_at_seed_time(pair: Cluster) -> None:
    """Before anything is published."""
    with pytest.raises(PollenError) as caught:
        await pair.seed(example("relay"), "ill", allow_services=["no name"])
    assert caught.value.slug == "name-invalid"


async def test_the_options_are_shown(pair: Cluster) -> None:
    """`pln inspect` names the services, and the flag may be given again."""
    flags = ("--allow-service", "one", "--allow-service", "two")
    done = await pair[0].pln("seed", example("relay"), "shown", *flags)
    assert done.returncode == 0, done.stderr

    async def is_known() -> bool:
        shown = (await pair[0].pln("inspect", "shown")).stdout.decode()
        return "service/one, service/two" in shown

    await until(is_known, 20, "the services are shown")
