"""Real daemons. A cluster is made once a module; its logs are shown with a test that fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from pollen.testing import Cluster
from pollen.testing.namespaces import Network
from tests import recorder

EXAMPLES = Path(__file__).parents[2] / "examples" / "c"
NO_SPACES = "network namespaces need root, iproute2 and nftables"
SEEDS = ("echo", "shout", "trap", "hog", "loop", "relay", "primes")

try:
    from pollen import _native
except ImportError as error:
    if os.environ.get("POLLEN_REQUIRE_NATIVE") == "1":
        raise
    pytest.skip(f"the native module is not installed: {error}", allow_module_level=True)

assert _native is not None


def example(name: str) -> str:
    """The path of an example's module."""
    return str(EXAMPLES / f"{name}.wasm")


@pytest.fixture(autouse=True)
def recording() -> Iterator[None]:
    """What leaves by the SDK counts as seen (``tests.recorder``)."""
    with recorder.listening():
        yield


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster for tests that each have a loop of their own."""
    asyncio.run(cluster.__aenter__())
    try:
        yield cluster
    finally:
        asyncio.run(cluster.__aexit__(None, None, None))


async def with_seeds(cluster: Cluster) -> None:
    """Publish the examples from the first node."""
    for name in SEEDS:
        await cluster.seed(example(name), name)


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """Two nodes on loopback that both host every example."""
    with running(Cluster(2)) as cluster:
        asyncio.run(with_seeds(cluster))
        yield cluster


@pytest.fixture(scope="module")
def two() -> Iterator[Cluster]:
    """Two linked nodes without a seed: as a rule a serves, and the clients are b's."""
    with running(Cluster(2)) as cluster:
        yield cluster


@pytest.fixture
def spaces() -> None:
    """Only where namespaces can be made."""
    if not Network.is_possible():
        pytest.skip(NO_SPACES)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        values = [getattr(value, "cluster", value) for value in item.funcargs.values()]
        held = [value for value in values if isinstance(value, Cluster)]
        words = "\n".join(node.last_words() for cluster in held for node in cluster)
        if words:
            report.sections.append(("the nodes", words))
    return report
