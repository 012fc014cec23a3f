"""Guests that know little or nothing of the mesh: an ordinary program, a seed in AssemblyScript."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from pollen.errors import GuestError
from pollen.testing import Cluster
from tests.e2e.conftest import EXAMPLES, example, running
from tests.e2e.talk import over_http, refusal

pytestmark = pytest.mark.timeout(60)

LINES = EXAMPLES.parent / "wasi" / "lines.wasm"
GREET = EXAMPLES.parent / "assemblyscript" / "greet.wasm"


@pytest.fixture(scope="module")
def alone() -> Iterator[Cluster]:
    """One node with the program ``lines`` (twice), the greeter in AssemblyScript, and relay."""
    with running(Cluster(1)) as cluster:
        asyncio.run(_publish(cluster))
        yield cluster


async def _publish(cluster: Cluster) -> None:
    await cluster.seed(LINES, "lines", config={"args": "tt"})
    await cluster.seed(LINES, "unarmed", env={"UNUSED": "1"})
    await cluster.seed(GREET, "hello", config={"greeting": "Grüezi,"})
    await cluster.seed(GREET, "asker", config={"next": "pln://seed/hello/greet"})
    await cluster.seed(example("relay"), "relay")


async def test_a_program_is_a_seed_from_stdin_to_exit_code(alone: Cluster) -> None:
    done = await alone[0].pln("call", "lines", "-", stdin=b"attic\ncellar\nmutt\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"attic\nmutt\n", b"")
    none = await alone[0].pln("call", "lines", "-", stdin=b"cellar\n")
    assert (none.returncode, none.stdout) == (1, b"")
    assert b"the function returned the code 1" in none.stderr and b"[guest-status]" in none.stderr


async def test_one_word_after_a_program_is_its_input(alone: Cluster) -> None:
    """It has no other function, so nothing else can be meant; a library is asked which one."""
    done = await alone[0].pln("call", "lines", "attic")
    assert (done.returncode, done.stdout) == (0, b"attic")
    other = await alone[0].pln("call", "relay", "attic")
    assert other.returncode == 3 and b"[function-not-found]" in other.stderr


async def test_what_a_program_says_on_stderr_is_in_the_seed_s_log(alone: Cluster) -> None:
    error = await refusal(alone[0], "unarmed", None, b"x\n")
    assert isinstance(error, GuestError)
    assert (error.slug, error.status, error.output) == ("guest-status", 2, b"")
    logs = await alone[0].pln("logs", "--seed", "unarmed")
    assert b"usage: unarmed [-v] TEXT" in logs.stdout


async def test_a_program_answers_over_http_and_to_other_seeds(alone: Cluster) -> None:
    answer = over_http(alone[0].paths.call_socket, "/call/lines/_start", b"attic\nbath\n")
    assert (answer.status, answer.body) == (200, b"attic\n")
    async with alone[0].connect() as mesh:
        reply = await mesh.call("relay", "relay", b"pln://seed/lines/_start\nbutter\nrye\n")
    assert reply.data == b"butter\n"


async def test_arguments_with_an_open_quote_are_told_where_the_seed_stands(alone: Cluster) -> None:
    """The spec is valid; each node that tries to load it refuses, and says why."""
    config = ("--config", "args='a")
    published = await alone[0].pln("seed", str(LINES), "broken", *config, "--min-replicas", "1")
    assert published.returncode == 0
    error = await refusal(alone[0], "broken", None, b"x\n", timeout=20)
    assert "args" in error.reason + str((await alone[0].status())["seeds"])
    await alone[0].pln("unseed", "broken")


async def test_assemblyscript_takes_and_gives_text_logs_and_asks_other_seeds(
    alone: Cluster,
) -> None:
    async with alone[0].connect() as mesh:
        assert (await mesh.call("hello", "greet", "Zürich")).text == "Grüezi, Zürich"
        assert (await mesh.call("asker", "relay", "Uri")).text == "Grüezi, Uri"
    assert b"text=Z" in (await alone[0].pln("logs", "--seed", "hello")).stdout
    error = await refusal(alone[0], "asker", "greet", b"x")
    assert error.slug == "guest-failed"
    assert error.reason == "no greeting: seed with --config greeting=..."


async def test_an_instance_in_assemblyscript_serves_many_calls_without_growing(
    alone: Cluster,
) -> None:
    """Its garbage is collected: 400 calls of 256 KiB each are more than its 64 MiB."""
    name = "x" * (256 << 10)
    async with alone[0].connect() as mesh:
        greet = mesh.function("hello", "greet")
        for _ in range(400):
            assert len((await greet(name)).data) == len("Grüezi, ".encode()) + len(name)
