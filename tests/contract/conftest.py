"""The two muscles that every contract is run against: the fake, and the real module.

The real one is left out only when it cannot be imported; POLLEN_REQUIRE_NATIVE=1 makes that an
error, so that CI cannot pass by leaving it out.
"""

from __future__ import annotations

import os
import select
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core.ids import PeerId
from pollen.errors import PollenError
from pollen.runtime.loop.native import Port, RealNative
from tests.contract.fake_native import FakeNative

CLUSTER = b"c" * 32
DEADLINE = 15.0

try:
    _real: Any = RealNative()
    _why = ""
except PollenError as error:
    _real, _why = None, error.reason

if _real is None and os.environ.get("POLLEN_REQUIRE_NATIVE") == "1":
    raise RuntimeError(f"POLLEN_REQUIRE_NATIVE is set, but {_why}")


@pytest.fixture(params=["fake", "real"])
def native(request: pytest.FixtureRequest) -> Any:
    """A ``Native``: a fresh fake network, or the real module."""
    if request.param == "fake":
        return FakeNative()
    if _real is None:
        pytest.skip(_why)
    return _real


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a unix socket must fit into it."""
    with tempfile.TemporaryDirectory(prefix="pln-", ignore_cleanup_errors=True) as path:
        yield Path(path)


class Side:
    """One muscles with its port, and the events that came."""

    def __init__(self, native: Any, home: Path, name: str) -> None:
        place = home / name
        place.mkdir()
        self.key = native.generate_key()
        self.muscles = native.open_muscles(
            key=self.key,
            boot=name.encode().ljust(16, b"."),
            directory=str(place),
            memory_bytes=1 << 28,
        )
        self.call_socket = place / "call.sock"
        self.addresses = self.muscles.start(
            listen=["127.0.0.1:0"], call_socket=str(self.call_socket)
        )
        self.faults: list[Any] = []
        self.port = Port(self.muscles, lambda event, fields: self.faults.append((event, fields)))
        self.events: list[Any] = []

    @property
    def peer(self) -> PeerId:
        return PeerId(self.key.public)

    def say_hello(self) -> None:
        self.muscles.set_hello(cluster=CLUSTER, minor_min=1, minor_max=1, chain=b"chain")

    def part(self) -> None:
        """Close every link and forget what came, for the next test."""
        for event in self.events:
            if isinstance(event, ev.HelloReceived):
                self.port.carry_out(fx.CloseLink(link=event.link, code=5, reason="next test"))
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            if select.select([self.muscles.event_fd()], [], [], 0.05)[0]:
                self.port.drain()
        self.port.is_stale = False
        self.faults.clear()

    def wait(self, kind: type[Any], count: int = 1) -> Any:
        """The ``count``-th event of a kind, waiting by the descriptor alone."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            found = [event for event in self.events if isinstance(event, kind)]
            if len(found) >= count:
                return found[count - 1]
            self.muscles.beat()
            if select.select([self.muscles.event_fd()], [], [], 0.2)[0]:
                self.events += self.port.drain()
        raise AssertionError(f"no {kind.__name__}; came: {self.events}")


# Muscles are one a process in the product, and each real one reserves tens of terabytes of address
# space for its pool: two of them serve all tests, with their links closed in between.
_kept: dict[str, Side] = {}


@pytest.fixture(scope="module", autouse=True)
def close_kept() -> Iterator[None]:
    yield
    for side in _kept.values():
        side.muscles.close(0)
    _kept.clear()


@pytest.fixture
def sides(native: Any, folder: Path) -> Iterator[Callable[[str], Side]]:
    opened: list[Side] = []
    is_real = isinstance(native, RealNative)

    def make(name: str) -> Side:
        if is_real and name in _kept:
            side = _kept[name]
            side.events.clear()
        else:
            home = Path(tempfile.mkdtemp(prefix="pln-")) if is_real else folder
            side = Side(native, home, name)
        if is_real:
            _kept[name] = side
        opened.append(side)
        return side

    yield make
    for side in opened:
        if is_real:
            side.part()
        else:
            side.muscles.close(0)


def linked(sides: Callable[[str], Side]) -> tuple[Side, Side]:
    a, b = sides("a"), sides("b")
    a.say_hello()
    b.say_hello()
    a.port.carry_out(fx.Dial(peer=b.peer, addresses=b.addresses))
    for side in (a, b):
        side.port.carry_out(fx.AdmitLink(link=side.wait(ev.HelloReceived).link))
    return a, b
