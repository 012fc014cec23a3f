"""A blob from holders whose lines are narrow: each has a token bucket, and the reader has none."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from pollen.testing import Cluster, Node, until
from pollen.testing.namespaces import Network
from tests.e2e.conftest import NO_SPACES
from tests.e2e.test_blobs import MIB, blob, digest, knows, noise, succeeds

SIZE = 96 * MIB
# Each holder sends so much, and no more than so many bytes at once.
RATE, BURST, QUEUE = "80mbit", "64kb", "50ms"
# What three holders are worth at least, in holders.
GAIN = 2.5
PATIENCE = 60.0


def narrow(network: Network, node: Node) -> None:
    """What leaves the node goes through a token bucket."""
    line = ["tc", "-n", network.space(node.name), "qdisc", "add", "dev", "eth0", "root", "tbf"]
    subprocess.run([*line, "rate", RATE, "burst", BURST, "latency", QUEUE], check=True)


async def fetched(reader: Node, name: str, to: Path) -> float:
    """The seconds that a fetch takes; what it leaves is removed."""
    began = time.monotonic()
    async with reader.connect() as mesh:
        await mesh.fetch(name, to)
    return time.monotonic() - began


@pytest.mark.slow
async def test_three_narrow_holders_send_as_much_as_two_and_a_half(tmp_path: Path) -> None:
    """Of one file by one of them, and of another file by all three, in turn."""
    if not Network.is_possible():
        pytest.skip(NO_SPACES)
    roles = {name: {"role": "holder"} for name in "abc"} | {"a": {"role": "holder", "of": "one"}}
    async with Cluster(4, namespaces=True, properties=roles) as cluster:
        a, reader, network = cluster[0], cluster[3], cluster.network
        assert isinstance(network, Network)
        sizes = {"one": SIZE, "three": SIZE + 1}
        files = {name: noise(tmp_path / name, size) for name, size in sizes.items()}
        one, three = (
            ["--host-prop", "of=one"],
            ["--host-prop", "role=holder", "--min-replicas", "3"],
        )
        await succeeds(a, "seed", files["one"], *one)
        await succeeds(a, "seed", files["three"], *three)

        async def are_ready() -> bool:
            for name, count in (("one", 1), ("three", 3)):
                held = (await blob(reader, name)).get("replicas", ())
                if sum(copy["state"] == "ready" for copy in held) != count:
                    return False
            return True

        for name in files:
            await knows(reader, name)
        await until(are_ready, PATIENCE, "one and three copies")
        for holder in cluster.nodes[:3]:
            narrow(network, holder)
        (tmp_path / "to").mkdir()
        took = {name: await fetched(reader, name, tmp_path / "to" / name) for name in files}
        for name, file in files.items():
            assert digest(tmp_path / "to" / name) == digest(file)
        gain = took["one"] / took["three"]
        rates = {name: round(SIZE / MIB / seconds, 1) for name, seconds in took.items()}
        print(f"MiB/s of one holder and of three: {rates}, {gain:.2f} times as much")
        assert gain >= GAIN
