"""Tokens that are worth nothing: each says why, nothing is written, the issuer goes on."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pollen import _native
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import running
from tests.e2e.talk import check_error

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Cluster]:
    """One node that invites."""
    with running(Cluster(1)) as cluster:
        yield cluster


@pytest.fixture
def newcomer() -> Iterator[Node]:
    """A folder that is in no cluster."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as home:
        yield Node("new", Path(home), "127.0.0.1:0", None)


async def invite(cluster: Cluster, **wish: object) -> str:
    token = (await cluster[0].post("/v1/invites", wish))["token"]
    assert isinstance(token, str)
    return token


async def refused(cluster: Cluster, newcomer: Node, token: str, says: str) -> None:
    """The token is refused, the folder stays outside, the issuer is well."""
    problem = check_error(await newcomer.pln("join", "--no-up", "--json", token), "token-invalid")
    assert says in problem["title"]
    assert not newcomer.paths.store.exists()
    status = await cluster[0].status()
    assert newcomer.name not in {node["name"] for node in status["nodes"]}


async def test_an_expired_token(issuer: Cluster, newcomer: Node) -> None:
    token = await invite(issuer, ttl_ms=1)
    await refused(issuer, newcomer, token, "expired")


@pytest.mark.parametrize("at", [5, 40, 0.5, -1])
async def test_an_altered_token(issuer: Cluster, newcomer: Node, at: float) -> None:
    """One letter anywhere; never taken for another reason than that it was altered."""
    token = await invite(issuer)
    index = int(len(token) * at) if isinstance(at, float) else at
    letters = list(token)
    letters[index] = "b" if letters[index] != "b" else "c"
    await refused(issuer, newcomer, "".join(letters), "token")


@pytest.mark.parametrize("text", ["", "pln1", "nonsense", "pln2abcdef", "pln1" + "a" * 20_000])
async def test_a_text_that_is_no_token(issuer: Cluster, newcomer: Node, text: str) -> None:
    await refused(issuer, newcomer, text, "token")


async def test_a_token_for_another_key(issuer: Cluster, newcomer: Node) -> None:
    stranger = _native.KeyPair.generate().public.hex()
    token = await invite(issuer, subject=stranger)
    await refused(issuer, newcomer, token, "foreign")


async def test_a_token_of_another_cluster_at_this_issuer(newcomer: Node) -> None:
    """A member of one cluster is not taken by another while it is shared."""
    async with Cluster(2) as one, Cluster(1) as other:
        token = await invite(other)
        done = await one[1].pln("join", "--no-up", "--json", token)
        problem = check_error(done, "already-running")
        await one[1].stop()
        problem = check_error(
            await one[1].pln("join", "--no-up", "--json", token), "already-in-cluster"
        )
        assert "pln purge" in problem["remedy"]


async def test_a_used_token(issuer: Cluster, newcomer: Node) -> None:
    token = await invite(issuer)
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as home:
        first = Node("first", Path(home), "127.0.0.1:0", None)
        assert (await first.pln("join", "--no-up", "--name", "first", token)).returncode == 0
        # The same key may ask again: its first answer may have been lost.
        assert (await first.pln("join", "--no-up", "--name", "first", token)).returncode == 0
    await refused(issuer, newcomer, token, "used")


async def test_an_issuer_that_is_gone(newcomer: Node) -> None:
    async with Cluster(1) as cluster:
        token = await invite(cluster)
        await cluster[0].kill()
        done = await newcomer.pln("join", "--no-up", "--json", token)
        check_error(done, "unreachable")
        assert not newcomer.paths.store.exists()
        await cluster[0].start()
        joined = await newcomer.pln("join", "--no-up", "--name", "new", token)
        assert joined.returncode == 0

        async def is_known() -> bool:
            return "new" in {node["name"] for node in (await cluster[0].status())["nodes"]}

        await newcomer.start()
        await until(is_known, 20, "the issuer sees the new node")
        await newcomer.stop()


async def test_an_issuer_that_speaks_another_version(newcomer: Node) -> None:
    """Somebody of the issuer's key is there, and has no protocol in common with us."""
    async with Cluster(1) as cluster:
        (a,) = cluster
        token = await invite(cluster)
        await a.stop()
        key = (a.home / "node.key").read_text().split()[1]
        target = Path(os.environ.get("CARGO_TARGET_DIR", Path.home() / ".cache/pollen/target"))
        stranger = await asyncio.create_subprocess_exec(
            str(target / "release" / "examples" / "stranger"),
            key,
            a.address,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert stranger.stdout is not None
            assert await stranger.stdout.readline() == b"listening\n"
            done = await newcomer.pln("join", "--no-up", "--json", token)
            check_error(done, "version-mismatch")
        finally:
            stranger.kill()
            await stranger.wait()
