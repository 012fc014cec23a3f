"""The SDK against a node that is a thread: whose answers, which loop, which process, how long."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import math
import os
import socket
import tempfile
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import pollen
from pollen.errors import BadRequest, DeadlineExceeded, PollenError, Unreachable
from pollen.options import SeedOptions
from pollen.sdk import client, door, replies
from pollen.sdk.asking import SeedKeywords

NODE = bytes(32)
SILENT, BROKEN, BAD = b"silent", b"broken", b"bad"


class Echo:
    """A node that answers a call with its input, or as the words above say."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.connections = 0
        self._meshes: list[pollen.SyncMesh] = []
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door.bind(str(home / "call.sock"))
        self._door.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def mesh(self) -> pollen.SyncMesh:
        """A blocking mesh that closes with the node."""
        self._meshes.append(pollen.connect_sync(self.home))
        return self._meshes[-1]

    def close(self) -> None:
        for mesh in self._meshes:
            mesh.close()
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._door.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as source:
            source.read(len(door.PREFACE))
            while head := source.read(4):
                frame = msgspec.msgpack.decode(source.read(int.from_bytes(head, "big")))
                if frame[0] != 0 or frame[-1] == SILENT:
                    continue
                if frame[-1] == BROKEN:
                    return
                failed = frame[-1] == BAD
                connection.sendall((refusal if failed else answer)(frame[1], frame[-1]))


def answer(number: int, output: bytes) -> bytes:
    body = msgspec.msgpack.encode((2, number, None, NODE, 1, 0, 0, 0, 0, 0, output))
    return len(body).to_bytes(4, "big") + body


def refusal(number: int, output: bytes) -> bytes:
    why = ("guest-failed", "not a number", "give a number", NODE, 1, True, 0)
    body = msgspec.msgpack.encode((3, number, *why))
    return len(body).to_bytes(4, "big") + body


@pytest.fixture
def node() -> Iterator[Echo]:
    with tempfile.TemporaryDirectory(prefix="pln-") as folder:
        echo = Echo(Path(folder))
        yield echo
        echo.close()


def in_a_child(work: Callable[[], bool]) -> bool:
    """Whether the work comes true in a forked process; an alarm ends one that hangs."""
    import signal
    import warnings

    with warnings.catch_warnings():
        # Python 3.12 and later warn of a fork beside threads: that is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        fine = False
        try:
            fine = work()
        finally:
            os._exit(0 if fine else 1)
    return os.waitpid(pid, 0)[1] == 0


def test_a_forked_process_has_a_connection_of_its_own(node: Echo) -> None:
    mesh = node.mesh()
    assert mesh.call("echo", data=b"parent").data == b"parent"
    assert in_a_child(lambda: mesh.call("echo", data=b"child").data == b"child")
    assert mesh.call("echo", data=b"again").data == b"again"
    assert node.connections == 2


def test_a_fork_while_another_thread_has_the_turn_does_not_hang(node: Echo) -> None:
    """The lock that a thread of the parent holds at fork is held for ever in the child."""
    mesh = node.mesh()
    replies = mesh.function("echo").map([b"1", b"2", b"3"], in_flight=2)
    assert next(replies).data == b"1"
    assert in_a_child(lambda: mesh.call("echo", data=b"child").data == b"child")
    assert [reply.data for reply in replies] == [b"2", b"3"]


def test_a_map_that_was_forked_along_is_refused_and_leaves_the_parents_be(node: Echo) -> None:
    replies = node.mesh().function("echo").map([b"1", b"2", b"3"], in_flight=1)
    assert next(replies).data == b"1"

    def go_on() -> bool:
        with pytest.raises(PollenError) as refused:
            next(replies)
        return refused.value.slug == "forked"

    assert in_a_child(go_on)
    assert [reply.data for reply in replies] == [b"2", b"3"]


async def forked_answer(mesh: pollen.Mesh) -> str:
    try:
        await mesh.call("echo", data=b"child")
    except PollenError as error:
        await mesh.close()
        return error.slug
    return "answered"


def test_an_async_mesh_in_a_forked_process_is_refused(node: Echo) -> None:
    """And closing it there takes nothing from the parent."""
    mesh = pollen.connect(node.home)
    with asyncio.Runner() as runner:
        assert runner.run(mesh.call("echo", data=b"1")).data == b"1"
        assert in_a_child(lambda: asyncio.run(forked_answer(mesh)) == "forked")
        assert runner.run(mesh.call("echo", data=b"2")).data == b"2"
        runner.run(mesh.close())


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_mesh_whose_loop_is_closed_connects_anew(node: Echo) -> None:
    mesh = pollen.connect(node.home)
    for text in (b"1", b"2"):
        assert asyncio.run(mesh.call("echo", data=text, timeout=2)).data == text
    asyncio.run(mesh.close())
    del mesh
    gc.collect()
    assert node.connections == 2


def test_a_mesh_of_another_loop_that_is_open_is_refused(node: Echo) -> None:
    mesh = pollen.connect(node.home)
    with asyncio.Runner() as first:
        first.run(mesh.call("echo", data=b"1"))
        with pytest.raises(PollenError, match="another event loop"):
            asyncio.run(mesh.call("echo", data=b"2"))
        assert first.run(mesh.call("echo", data=b"3")).data == b"3"
        first.run(mesh.close())


def test_a_node_that_is_silent_is_a_deadline(node: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client keeps the time itself: a stopped node says nothing."""
    monkeypatch.setattr(replies, "GRACE", 0.05)
    with pollen.connect_sync(node.home) as blocking, pytest.raises(DeadlineExceeded) as late:
        blocking.call("echo", data=SILENT, timeout=0.05)
    assert (late.value.slug, late.value.may_have_executed) == ("deadline", True)

    async def ask() -> None:
        async with pollen.connect(node.home) as mesh:
            await mesh.call("echo", data=SILENT, timeout=0.05)

    with pytest.raises(DeadlineExceeded) as late:
        asyncio.run(ask())
    assert (late.value.slug, late.value.may_have_executed) == ("deadline", True)


def test_each_of_many_calls_has_its_own_deadline(
    node: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a silent node, the shortest first, whichever was asked first; others go on."""
    monkeypatch.setattr(replies, "GRACE", 0.0)
    order: list[float] = []

    async def one(mesh: client.Mesh, timeout: float) -> None:
        with pytest.raises(DeadlineExceeded):
            await mesh.call("echo", data=SILENT, timeout=timeout)
        order.append(timeout)

    async def ask() -> None:
        async with pollen.connect(node.home) as mesh:
            await asyncio.gather(*(one(mesh, timeout) for timeout in (0.2, 0.05, 0.3, 0.1)))
            assert (await mesh.call("echo", data=b"after", timeout=5)).data == b"after"

    asyncio.run(ask())
    assert order == [0.05, 0.1, 0.2, 0.3]


def test_an_answer_that_nobody_asked_breaks_the_connection() -> None:
    """One to a call that was given up is dropped."""
    conversation = door.Conversation()
    number, _ = conversation.call(
        "echo", None, b"", budget_ms=1, retries=0, idempotent=False, traceparent=None
    )
    conversation.forget(number)
    assert conversation.receive(answer(number, b"late")) == []
    with pytest.raises(Unreachable, match="nobody asked"):
        conversation.receive(answer(number + 1, b"another's"))


@pytest.mark.parametrize("data", [5, {"a": 1}, None, ["a"]])
def test_an_input_is_bytes_or_text_and_nothing_is_guessed(node: Echo, data: Any) -> None:
    """``bytes(5)`` is five zero bytes."""
    mesh = node.mesh()
    match = f"bytes or str, not {type(data).__name__}; give json="
    with pytest.raises(TypeError, match=match):
        mesh.call("echo", data=data)
    with pytest.raises(TypeError, match=match):
        list(mesh.function("echo").map([b"1", data]))

    async def ask() -> None:
        async with pollen.connect(node.home) as held:
            with pytest.raises(TypeError, match=match):
                await held.call("echo", data=data)
            with pytest.raises(TypeError, match=match):
                async for _ in held.function("echo").map([b"1", data]):
                    pass

    asyncio.run(ask())
    assert mesh.call("echo", data=array("B", b"as it is")).data == b"as it is"


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"timeout": "5s"}, "seconds, not str"),
        ({"timeout": None}, "seconds, not None"),
        ({"timeout": True}, "seconds, not bool"),
        ({"idempotent": "no"}, "idempotent is bool, not str"),
        ({"retries": 1.5}, "retries is int, not float"),
        ({"traceparent": 1}, "str or None, not int"),
    ],
)
def test_an_option_of_a_wrong_type_is_a_type_error(
    node: Echo, option: dict[str, Any], match: str
) -> None:
    with pytest.raises(TypeError, match=match):
        node.mesh().call("echo", **option)


@pytest.mark.parametrize("timeout", [0, -1, 1e12, math.inf, math.nan])
def test_a_time_out_that_cannot_be_is_refused(node: Echo, timeout: float) -> None:
    mesh = node.mesh()
    for ask in (
        lambda: mesh.call("echo", timeout=timeout),
        lambda: mesh.function("echo")(timeout=timeout),
    ):
        with pytest.raises(BadRequest) as refused:
            ask()
        assert refused.value.remedy


def test_with_on_an_async_mesh_says_what_to_write(node: Echo) -> None:
    with pytest.raises(TypeError, match=r"async with.*connect_sync"), pollen.connect(node.home):
        pass


@pytest.mark.parametrize("mesh", [pollen.Mesh, pollen.SyncMesh])
def test_a_keyword_that_there_is_not_is_a_type_error(mesh: type[Any], node: Echo) -> None:
    """In an editor, as the package is typed, and when it runs."""
    assert (Path(pollen.__file__).parent / "py.typed").is_file()
    kinds = {p.kind for p in inspect.signature(mesh.call).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    with pytest.raises(TypeError, match="time_out"):
        pollen.connect_sync(node.home).call("echo", time_out=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "match"),
    [("memory", "memory_bytes="), ("no_tail_call", "tail_call=False"), ("speed", "'speed'$")],
)
def test_an_option_of_seed_that_there_is_not_is_a_type_error(
    node: Echo, name: str, match: str
) -> None:
    options: dict[str, Any] = {name: 1}
    with pytest.raises(TypeError, match=match):
        pollen.connect_sync(node.home).seed("echo.wasm", "echo", **options)
    with pytest.raises(TypeError, match=match):
        asyncio.run(pollen.connect(node.home).seed("echo.wasm", "echo", **options))


def test_the_keywords_of_seed_are_what_a_node_takes() -> None:
    page = Path(__file__).parents[3] / "docs" / "guide" / "call-it.md"
    names = set(SeedKeywords.__annotations__)
    assert names == {*SeedOptions.__struct_fields__, "take_over"}
    assert [name for name in sorted(names) if f"`{name}`" not in page.read_text()] == []


Outcomes = list[pollen.Reply | pollen.CallError]


def mapped(node: Echo, inputs: list[Any]) -> list[Outcomes]:
    """Every outcome of both twins."""

    async def ask() -> Outcomes:
        async with pollen.connect(node.home) as mesh:
            replies = mesh.function("echo").map(inputs, in_flight=2, return_exceptions=True)
            return [reply async for reply in replies]

    blocking = node.mesh().function("echo").map(inputs, in_flight=2, return_exceptions=True)
    return [list(blocking), asyncio.run(ask())]


def test_map_keeps_each_error_in_its_place_when_it_is_told_to(node: Echo) -> None:
    """Of the node, and of an input that never leaves."""
    big = bytes(door.MAX_INPUT + 1)
    for outcomes in mapped(node, [b"1", BAD, b"3", big, b"5"]):
        slugs = [o.slug if isinstance(o, PollenError) else o.text for o in outcomes]
        assert slugs == ["1", "guest-failed", "3", "input-too-large", "5"]
        errors = [o for o in outcomes if isinstance(o, PollenError)]
        assert [error.index for error in errors] == [1, 3]
        assert str(errors[0]) == "input 1: not a number"


def test_map_goes_on_after_a_broken_connection_when_it_is_told_to(node: Echo) -> None:
    for outcomes in mapped(node, [b"1", BROKEN, b"3", b"4", b"5"]):
        assert len(outcomes) == 5
        assert isinstance(outcomes[1], Unreachable) and outcomes[1].may_have_executed
        assert isinstance(outcomes[4], pollen.Reply)


def test_map_raises_the_first_error_and_names_its_input(node: Echo) -> None:
    seen = []
    with pytest.raises(pollen.GuestError, match="input 2: not a number") as failed:
        for reply in node.mesh().function("echo").map([b"0", b"1", BAD, b"3"], in_flight=4):
            seen.append(reply.data)
    assert (seen, failed.value.index) == ([b"0", b"1"], 2)

    async def ask() -> None:
        async with pollen.connect(node.home) as mesh:
            async for _ in mesh.function("echo").map([b"0", b"1", BAD, b"3"]):
                pass

    with pytest.raises(pollen.GuestError, match="input 2: not a number"):
        asyncio.run(ask())
