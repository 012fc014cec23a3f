"""The driver and its port alone: full queues, faults, timers, the disk, what the muscles say."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core.commands import StatusCommand, UnseedCommand
from pollen.core.ids import Hash, LinkId, PeerId, RequestId, Token
from pollen.errors import InvariantError, PollenError
from pollen.runtime.loop import driver as driver_module
from pollen.runtime.loop.driver import COLLECT_BEATS, COLLECT_NEVER, Driver
from pollen.runtime.loop.native import Port
from pollen.runtime.loop.store import Store
from pollen.runtime.watch.metrics import Timings
from tests.contract.fake_keys import FakeKey
from tests.contract.fake_native import FakeMuscles, Network


def make_port() -> tuple[Port, FakeMuscles, list[Any]]:
    muscles = FakeMuscles(Network(), FakeKey(b"s" * 32), b"b" * 16)
    warned: list[Any] = []
    return Port(muscles, lambda event, fields: warned.append((event, fields))), muscles, warned


def test_a_full_queue_keeps_effects_and_their_order() -> None:
    """``overloaded`` is back-pressure: nothing is lost, nothing overtakes."""
    port, muscles, warned = make_port()
    muscles.fail_next = ["overloaded"] * 3
    for n in range(3):
        port.carry_out(fx.Dial(peer=PeerId(bytes([n]) * 32), addresses=[]))
    assert port.has_backlog
    for _ in range(3):
        port.retry()
    assert not port.has_backlog
    port.drain()
    assert (warned, port.refused) == ([], 3)
    muscles.close(0)


def test_tables_wait_for_nothing_that_waits_for_room() -> None:
    """Who is denied is cut while a dial has to wait."""
    port, muscles, _ = make_port()
    muscles.fail_next = ["overloaded"]
    port.carry_out(fx.Dial(peer=PeerId(b"p" * 32), addresses=[]))
    push = fx.PushTables(generation=1, base=0, lanes={}, lease_ms=1)
    port.carry_out(push)
    assert (port.has_backlog, muscles.generation) == (True, 1)
    muscles.close(0)


def test_a_peer_whose_backlog_overflows_loses_its_link() -> None:
    """Memory is bounded; the next link begins with everything."""
    port, muscles, warned = make_port()
    peer = PeerId(b"p" * 32)
    muscles.fail_next = ["overloaded"] * 5_000
    for _ in range(2_000):
        port.carry_out(fx.SendMessage(peer=peer, body=b"x"))
    assert [event for event, _ in warned] == ["link-cut"]
    muscles.close(0)


def test_an_effect_that_fails_for_good_is_logged_and_done_with() -> None:
    """The rest goes on."""
    port, muscles, warned = make_port()
    muscles.fail_next = ["bad-request"]
    port.carry_out(fx.AdmitLink(link=LinkId(1)))
    assert not port.has_backlog
    assert [fields["slug"] for _, fields in warned] == ["bad-request"]
    muscles.close(0)


class StubNode:
    """Raises what it is told to; else returns what it is told to."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.effects: list[fx.Effect] = []
        self.seen: list[ev.Event] = []

    def handle(self, event: ev.Event, now: Any) -> list[fx.Effect]:
        self.seen.append(event)
        if self.error is not None:
            raise self.error
        return self.effects


class Log:
    """Collects (level, event)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: self.lines.append((level, event))


async def with_driver(folder: Path, body: Any) -> Any:
    """Run ``body(driver, node, log)`` under a driver over the fakes."""
    node, log = StubNode(), Log()
    muscles = FakeMuscles(Network(), FakeKey(b"s" * 32), b"b" * 16)
    store = Store(folder / "state.db")
    held: Any = node
    driver = Driver(held, muscles, store, log, Timings())
    driver.start([])
    try:
        return await body(driver, node, log)
    finally:
        await driver.close(0)


def test_an_exception_in_handle_is_logged_and_the_daemon_goes_on(folder: Path) -> None:
    """One bad event is not the end; the next is handled."""

    async def body(driver: Driver, node: StubNode, log: Log) -> None:
        node.error = ValueError("a bug")
        driver.feed(ev.TimerFired(token=Token("x")))
        node.error = None
        driver.feed(ev.TimerFired(token=Token("y")))
        assert driver.counters["faults"] == 1
        assert ("error", "fault") in log.lines
        assert not driver.failed.done()

    asyncio.run(with_driver(folder, body))


def test_full_collections_happen_between_turns(folder: Path) -> None:
    """One in an hour, and none within a turn; another loop of this process has its own."""
    before = gc.get_threshold()
    full: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 2:
            full.append(phase)

    async def body(driver: Driver, node: StubNode, log: Log) -> None:
        assert gc.get_threshold() == (*before[:2], COLLECT_NEVER)
        driver._beats = COLLECT_BEATS - 2
        gc.callbacks.append(note)
        driver._beat()
        assert full == []
        driver._beat()
        assert full == ["start", "stop"]

    try:
        asyncio.run(with_driver(folder, body))
    finally:
        gc.callbacks.remove(note)
    assert gc.get_threshold() == before


def test_exceptions_again_and_again_end_the_daemon_in_order(folder: Path) -> None:
    """Ten within a minute: exit 70, for the supervisor."""

    async def body(driver: Driver, node: StubNode, log: Log) -> None:
        node.error = ValueError("a bug")
        for _ in range(driver_module.FAULTS_MAX):
            driver.feed(ev.TimerFired(token=Token("x")))
        assert await asyncio.wait_for(driver.failed, 1) == 70

    asyncio.run(with_driver(folder, body))


def test_a_broken_invariant_ends_the_daemon_at_once(folder: Path) -> None:
    """It must not decide from a state that it knows to be wrong."""

    async def body(driver: Driver, node: StubNode, log: Log) -> None:
        node.error = InvariantError("broken")
        driver.feed(ev.TimerFired(token=Token("x")))
        assert driver.failed.done()

    asyncio.run(with_driver(folder, body))


def test_a_user_is_told_of_a_bug_behind_the_command(folder: Path) -> None:
    """``internal``, with the log to look at; not a time-out."""

    async def body(driver: Driver, node: StubNode, log: Log) -> None:
        node.error = ValueError("a bug")
        with pytest.raises(PollenError) as caught:
            await driver.command(StatusCommand())
        assert caught.value.slug == "internal"

    asyncio.run(with_driver(folder, body))


def test_timers_fire_once_and_the_last_setting_counts(folder: Path) -> None:
    """``SetTimer`` replaces the same token."""

    async def body(driver: Driver, node: StubNode, log: Log) -> None:
        import time

        soon = time.monotonic_ns() + 30_000_000
        token = Token("t")
        node.effects = [
            fx.SetTimer(token=token, at=soon + 10**12),  # type: ignore[arg-type]
            fx.SetTimer(token=token, at=soon),  # type: ignore[arg-type]
        ]
        driver.feed(ev.TablesStale())
        node.effects = []
        await asyncio.sleep(0.15)
        assert [e for e in node.seen if isinstance(e, ev.TimerFired)] == [
            ev.TimerFired(token=token)
        ]

    asyncio.run(with_driver(folder, body))


def test_persisted_follows_the_commit(folder: Path) -> None:
    """From the writer's thread to the node, on the loop."""

    async def body(driver: Driver, node: StubNode, log: Log) -> None:
        node.effects = [fx.Persist(token=Token("p"), batch=[("t", b"k", b"v")])]
        driver.feed(ev.TablesStale())
        node.effects = []
        for _ in range(200):
            if ev.Persisted(token=Token("p")) in node.seen:
                break
            await asyncio.sleep(0.01)
        assert ev.Persisted(token=Token("p")) in node.seen
        assert threading.current_thread() is threading.main_thread()

    asyncio.run(with_driver(folder, body))


def test_a_stale_table_comes_back_as_an_event(folder: Path) -> None:
    """The node then pushes whole."""

    async def body(driver: Driver, node: StubNode, log: Log) -> None:
        push = fx.PushTables(generation=9, base=8, lanes={}, lease_ms=1)
        node.effects = [push]
        driver.feed(ev.TimerFired(token=Token("x")))
        node.effects = []
        await asyncio.sleep(0.05)
        assert ev.TablesStale() in node.seen

    asyncio.run(with_driver(folder, body))


def test_what_the_muscles_say_reaches_the_node(folder: Path) -> None:
    """Decoded, in order, and log lines go to the log."""

    async def body(driver: Driver, node: StubNode, log: Log) -> None:
        muscles: Any = driver._muscles
        muscles.inspect_module(RequestId(3), Hash(b"\1" * 32))
        await asyncio.sleep(0.05)
        assert [e.request for e in node.seen if isinstance(e, ev.ModuleInspected)] == [3]

    asyncio.run(with_driver(folder, body))


def test_a_write_that_fails_is_told_and_a_command_waits_for_the_next_attempt(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota is full where the disk seems to have room; after it was lifted nobody is refused."""
    commit = Store._commit
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    monkeypatch.setattr("pollen.runtime.loop.store.RETRY_SECONDS", 60.0)

    def refuse(store: Store, rows: Any) -> None:
        raise full

    def told(node: StubNode) -> list[ev.StoreTroubled]:
        return [event for event in node.seen if isinstance(event, ev.StoreTroubled)]

    async def body(driver: Driver, node: StubNode, log: Log) -> None:
        monkeypatch.setattr(Store, "_commit", refuse)
        node.effects = [fx.Persist(token=Token("1"), batch=[("t", b"k", b"v")])]
        driver.feed(ev.TimerFired(token=Token("x")))
        node.effects = []
        async with asyncio.timeout(10):
            while not told(node):
                await asyncio.sleep(0.01)
        (first,) = told(node)
        assert (first.slug, first.is_failed) == ("storage-full", True)
        assert "make room on the disk" in first.remedy
        monkeypatch.setattr(Store, "_commit", commit)
        with pytest.raises(PollenError):
            await driver.command(UnseedCommand(target="echo"), timeout=0.1)
        assert told(node)[-1] == ev.StoreTroubled()
        asked = [type(event) for event in node.seen].index(ev.Commanded)
        assert node.seen.index(ev.Persisted(token=Token("1"))) < asked
        assert node.seen.index(ev.StoreTroubled()) < asked

    asyncio.run(with_driver(folder, body))
