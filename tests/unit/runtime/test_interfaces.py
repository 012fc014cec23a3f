"""Changes of addresses, as the kernel tells them; tests/e2e/test_paths.py has a real kernel."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from pollen.runtime.loop import interfaces
from pollen.runtime.loop.interfaces import Interfaces
from pollen.testing import until


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The kernel's end of the socket."""
    says, held = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    held.setblocking(False)
    monkeypatch.setattr(interfaces, "_listen", lambda: held)
    monkeypatch.setattr(interfaces, "SETTLE_SECONDS", 0.02)
    with says, held:
        yield says


async def test_several_changes_at_once_are_told_once(kernel: socket.socket) -> None:
    """The old address goes and the new one comes: one look sees both."""
    told: list[int] = []
    held = Interfaces(lambda: told.append(1))
    assert held.start()

    async def is_told(times: int) -> None:
        async def has() -> bool:
            return len(told) >= times

        await until(has, 5, "it is told", poll=0.005)

    for times in (1, 2):
        for _ in range(5):
            kernel.send(b"an address")
        await is_told(times)
        assert len(told) == times
    kernel.send(b"an address")
    held.close()
    held.close()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(is_told(3), 0.1)


async def test_where_the_kernel_tells_nothing_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever is told looks from time to time as well."""
    monkeypatch.setattr(interfaces, "_listen", lambda: None)
    held = Interfaces(lambda: pytest.fail("told"))
    assert not held.start()
    held.close()


def test_addresses_of_both_families_are_listened_to() -> None:
    """The groups of rtnetlink(7)."""
    held = interfaces._listen()
    assert held is not None
    with held:
        assert (held.family, held.getsockname()[1]) == (socket.AF_NETLINK, 0x110)
