"""The sockets of discovery, on the loopback interface."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
import structlog

from pollen.core import events as ev
from pollen.core.peers.discovery.contract import Factory
from pollen.errors import BadRequest
from pollen.runtime.loop import discovery
from pollen.runtime.loop.discovery import Discovery, make_finder
from tests.unit.peers.test_discovery import HOME, context_of
from tests.unit.world import make_key


def service(name: str, setting: str, feed: Any, addresses: list[str]) -> Discovery:
    finder = make_finder(setting, context_of(name), 1)
    return Discovery(
        finder, make_key(name), feed, lambda: 0, lambda: list(addresses), structlog.get_logger()
    )


def test_two_nodes_find_each_other_by_multicast() -> None:
    """A survey leaves, the other one answers, the address becomes an event."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        setting = f"multicast:239.86.66.99:{probe.getsockname()[1]}@lo"

    async def meet() -> ev.Event:
        heard: asyncio.Queue[ev.Event] = asyncio.Queue()
        asker = service("a", setting, heard.put_nowait, ["192.0.2.2:1"])
        other = service("b", setting, lambda _: None, HOME)
        other.start()
        asker.start()
        try:
            return await asyncio.wait_for(heard.get(), 20)
        finally:
            await asker.close()
            await other.close()
            await other.close()

    expected = ev.PeerFound(peer=make_key("b"), addresses=HOME, source="multicast")
    assert expected == asyncio.run(meet())


def test_a_static_address_without_a_peer_is_anybody() -> None:
    """The event carries no id."""

    async def find() -> ev.Event:
        heard: asyncio.Queue[ev.Event] = asyncio.Queue()
        held = service("a", "static:192.0.2.7:1", heard.put_nowait, HOME)
        held.start()
        try:
            return await asyncio.wait_for(heard.get(), 20)
        finally:
            await held.close()

    expected = ev.PeerFound(peer=b"", addresses=["192.0.2.7:1"], source="static")
    assert expected == asyncio.run(find())


class Entry:
    """An installed entry point."""

    name, value = "custom", "somewhere:thing"

    def __init__(self, factory: Factory | None) -> None:
        self._factory = factory

    def load(self) -> Factory:
        if self._factory is None:
            raise ImportError("no module named somewhere")
        return self._factory


def test_a_package_may_register_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the entry point group; a built-in scheme is never replaced."""
    entries = [Entry(discovery.Static)]
    monkeypatch.setattr(discovery.importlib.metadata, "entry_points", lambda group: entries)
    finder = make_finder("custom:192.0.2.1:1", context_of("a"), 1)
    assert [held.scheme for held in finder.running] == ["custom"]


def test_a_broken_package_is_named_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback."""
    monkeypatch.setattr(discovery.importlib.metadata, "entry_points", lambda group: [Entry(None)])
    with pytest.raises(BadRequest) as caught:
        make_finder("", context_of("a"), 1)
    assert "'custom' of somewhere:thing cannot be loaded" in caught.value.reason


def test_without_a_cipher_multicast_does_not_begin_by_itself() -> None:
    """There is nothing that it could say."""
    finder = make_finder("", context_of("a", seal=None, unseal=None), 1)
    assert finder._automatic == []
