"""Guests read blobs of the mesh: all of one or a part; who may, and what if not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen.testing import Cluster
from tests.e2e.conftest import example, running
from tests.e2e.talk import refusal
from tests.e2e.test_blobs import knows, noise, succeeds

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20
# Guests run on c alone, which holds none of the blobs.
ON_C: dict[str, Any] = {"host": [("bench", "guest")], "on": ["c"]}
TEXT = b"a blob of thirty-five bytes for all"
READ = '''"""Reads blobs of the mesh."""
import hashlib

import pollen


def text(address: str) -> str:
    return pollen.request(f"pln://blob/{address}").decode()


def digest(address: str) -> str:
    return hashlib.sha256(pollen.request(f"pln://blob/{address}")).hexdigest()


def slug(address: str, said: str = "") -> str:
    try:
        return pollen.request(f"pln://blob/{address}", said).decode()
    except pollen.CallError as error:
        return error.slug
'''


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An admin that publishes, a publisher of team red, and a host of guests who is of none."""
    properties = {"a": {"team": "red"}, "b": {"team": "red"}, "c": {"bench": "guest"}}
    with running(Cluster(3, properties=properties)) as cluster:
        yield cluster


async def read(cluster: Cluster, address: str) -> bytes:
    """What the relay of c reads there."""
    async with cluster[0].connect() as mesh:
        reply = await mesh.call("relay", "relay", f"pln://blob/{address}\n".encode(), timeout=30)
    return reply.data


async def refused(cluster: Cluster, address: str, said: str = "") -> str:
    """The words of a call whose guest could not read."""
    error = await refusal(cluster[0], "relay", "relay", f"pln://blob/{address}\n{said}".encode())
    assert error.slug == "guest-failed"
    return error.remedy


async def test_a_guest_reads_all_of_a_blob_or_a_part(trio: Cluster, tmp_path: Path) -> None:
    """It is fetched to where the guest runs."""
    file = tmp_path / "words"
    file.write_bytes(TEXT)
    await succeeds(trio[0], "seed", file, "words", "--host-prop", "team=red")
    await knows(trio[2], "words")
    await trio.seed(example("relay"), "relay", **ON_C)
    assert await read(trio, "words") == TEXT
    for query, expected in [
        ("bytes=0-0", TEXT[:1]),
        ("bytes=2-5", TEXT[2:6]),
        ("bytes=30-", TEXT[30:]),
        ("bytes=-3", TEXT[-3:]),
        ("bytes=30-999", TEXT[30:]),
    ]:
        assert await read(trio, f"words?{query}") == expected, query
    for query, words in [
        ("bytes=35-", "the range begins behind"),
        ("bytes=5-4", "the address names no range"),
        ("bytes=0-1,3-4", "the address names no range"),
        ("lines=1-2", "the address names no range"),
        ("", "the address names no range"),
    ]:
        assert words in await refused(trio, f"words?{query}"), query
    assert "takes no input" in await refused(trio, "words", "ab")
    assert "[seed-not-found]" in await refused(trio, "nobody")
    assert "[bad-request]" in await refused(trio, "relay")


async def test_a_blob_of_many_pieces_is_read_in_parts(trio: Cluster, tmp_path: Path) -> None:
    """51 MiB are over the limit of a reply; a Python guest adds up what it reads."""
    file = noise(tmp_path / "large", 51 * MIB)
    await succeeds(trio[0], "seed", file, "large", "--host-prop", "team=red")
    script = tmp_path / "reader.py"
    script.write_text(READ)
    options = ("--host-prop", "bench=guest", "--memory", "256MiB")
    await succeeds(trio[0], "seed", script, "reader", *options)
    await knows(trio[2], "large")
    data = file.read_bytes()
    # Across the edge of two pieces, and the last bytes.
    for first, last in [(8 * MIB - 1_000, 8 * MIB + 999), (50 * MIB, 51 * MIB - 1)]:
        address = f"large?bytes={first}-{last}"
        said = await succeeds(trio[0], "call", "reader", "digest", f"address={address}")
        assert hashlib.sha256(data[first : last + 1]).hexdigest() in said
    said = await succeeds(trio[0], "call", "reader", "slug", "address=large")
    assert "bad-request" in said


async def test_node_and_publisher_must_both_be_let_in(trio: Cluster, tmp_path: Path) -> None:
    """c is not of team red: it reads nothing of red's, whoever published the guest that asks. And a
    publisher who may not read a blob reads it by no guest on a node that may."""
    file = tmp_path / "secret"
    file.write_bytes(b"red only")
    await succeeds(trio[0], "seed", file, "secret", "--allow-prop", "team=red")
    for node in trio:
        await knows(node, "secret")
    await trio.seed(example("relay"), "relay", **ON_C)
    assert "[denied]" in await refused(trio, "secret")
    on_b = {"host": [("team", "red")], "min_replicas": 1}
    async with trio[1].connect() as mesh:
        await mesh.seed(example("relay"), "own", **on_b)
    await trio.ready("own")
    async with trio[0].connect() as mesh:
        reply = await mesh.call("own", "relay", b"pln://blob/secret\n", timeout=30)
    assert reply.data == b"red only"
    async with trio[2].connect() as mesh:
        await mesh.seed(example("relay"), "foreign", **on_b)
    await trio.ready("foreign")
    error = await refusal(trio[0], "foreign", "relay", b"pln://blob/secret\n")
    assert "may not read blob" in error.remedy and "[denied]" in error.remedy
