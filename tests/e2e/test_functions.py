"""Functions of a program run on the mesh: their source goes, their values and errors come back."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import pytest

import pollen
from pollen.errors import CallError, Denied, NotFound
from pollen.sdk.control import Control
from pollen.testing import Cluster, Node
from pollen.testing.cluster import until
from tests.e2e.conftest import running
from tests.unit.python.test_requirements import wheel

pytestmark = pytest.mark.timeout(300)

RATE = 3


@dataclasses.dataclass
class Order:
    item: str
    count: int = 1


def times(n: int) -> int:
    return n * RATE


@pollen.remote
def score(n: int, order: Order | None = None) -> tuple[int, Order | None]:
    """A function with a helper, a constant and a class of its module."""
    return times(n), order


@pollen.remote(timeout=20, idempotent=True)
async def napped(seconds: float) -> float:
    ended = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, ended.set)
    await ended.wait()
    return seconds


def square(n: int) -> int:
    return n * n


def where() -> str:
    import pollen

    return str(pollen.caller().node)


def half(n: int) -> float:
    return n / 0


def shouted(text: str) -> str:
    import outer  # type: ignore[import-not-found]

    return str(outer.up(text))


def burn(n: int) -> int:
    end = time.monotonic() + 0.02
    while time.monotonic() < end:
        pass
    return n


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes whose runner is compiled: it takes ten seconds each."""
    with running(Cluster(3, settings={"idle_ms": "1s"})) as cluster:
        asyncio.run(_warm(cluster))
        yield cluster


async def _warm(cluster: Cluster) -> None:
    """A node that compiles on a busy machine may look dead meanwhile."""
    first = pollen.remote(timeout=60, replicas=3, idempotent=True)(square)
    for node in cluster:
        async with pollen.connect(node.home) as mesh:

            async def is_warm(mesh: pollen.Mesh = mesh) -> bool:
                try:
                    return await mesh.run(first, 3) == 9
                except CallError:
                    return False

            await until(is_warm, 200, f"{node} runs Python")


def functions_at(node: Node) -> list[str]:
    """The seeds of functions that the node sees."""
    seeds = Control(node.paths).get("/v1/seeds")["seeds"]
    return [seed["name"] for seed in seeds if seed["name"].startswith("fn-")]


async def test_a_function_runs_with_what_it_reads_and_gives_values_back(three: Cluster) -> None:
    async with pollen.connect(three[0].home) as mesh:
        assert await mesh.run(score, 4) == (12, None)
        assert await mesh.run(score, n=5, order=Order("nut", 2)) == (15, Order("nut", 2))
        assert await mesh.run(napped, 0.01) == 0.01
        assert await mesh.run(pow, 2, 10) == 1024
        assert score.local(1) == score(1) == (3, None)
        before = functions_at(three[0])
        assert await mesh.run(score, 6) == (18, None)
        assert functions_at(three[0]) == before
    with pollen.connect_sync(three[0].home) as mesh:
        assert mesh.run(score, 7) == (21, None)
        assert mesh.run(napped, 0.01) == 0.01
        assert list(mesh.map(square, range(50), in_flight=4)) == [n * n for n in range(50)]
        assert functions_at(three[0]) == before or len(functions_at(three[0])) == len(before) + 1


async def test_only_its_publisher_calls_a_function_unless_it_says_who_else(three: Cluster) -> None:
    open_one = pollen.remote(allow='caller.tier == "publisher"')(where)
    async with pollen.connect(three[0].home) as mesh:
        own = (await mesh.status())["node"]
        assert await mesh.run(where) == own
        assert await mesh.run(open_one) == own
        (closed, opened) = [name for name in functions_at(three[0]) if name.startswith("fn-where")]
        options = {s["name"]: s["options"] for s in (await mesh.status())["seeds"]}
        if "||" in options[closed]["allow_if"]:
            closed, opened = opened, closed
    request = b'{"t":"tests.e2e.test_functions:where","a":[],"k":{}}'
    async with pollen.connect(three[1].home) as mesh:
        with pytest.raises(Denied):
            await mesh.call(closed, "call", request)
        reply = await mesh.call(opened, "call", request)
        assert reply.data.startswith(b'{"r":"')


async def test_a_leaf_is_told_that_it_may_publish_nothing(three: Cluster) -> None:
    try:
        done = await three[0].pln("grant", "c", "--leaf", "--yes")
        assert done.returncode == 0, done.stderr

        async def is_leaf() -> bool:
            nodes = (await three[2].status())["nodes"]
            return bool({n["tier"] for n in nodes if n["state"] == "self"} == {"leaf"})

        await until(is_leaf, 20, "c is a leaf")
        async with pollen.connect(three[2].home) as mesh:
            with pytest.raises(Denied) as caught:
                await mesh.run(pollen.remote(requirements=["never-fetched"])(half), 1)
            assert caught.value.slug == "denied" and caught.value.remedy
    finally:
        await three[0].pln("grant", "c", "--publisher", "--yes")


async def test_map_keeps_order_takes_inputs_as_needed_and_stops_when_left(three: Cluster) -> None:
    taken = 0

    def inputs() -> Iterator[float]:
        nonlocal taken
        while True:
            taken += 1
            yield 0.001 * (taken % 3)

    async with pollen.connect(three[0].home) as mesh:
        assert [y async for y in mesh.map(square, range(100), in_flight=8)] == [
            n * n for n in range(100)
        ]
        async for _ in mesh.map(napped, inputs(), in_flight=4):
            assert taken <= 6
            if taken == 6:
                break
        count = 0
        with pytest.raises(ZeroDivisionError):
            async for _ in mesh.map(half, range(5)):
                count += 1
        assert count == 0

        async def is_quiet() -> bool:
            return all(not s["in_flight"] for s in (await mesh.status())["seeds"])

        await until(is_quiet, 10, "nothing is under way")


async def test_an_error_is_itself_with_the_traceback_from_there(three: Cluster) -> None:
    async with pollen.connect(three[0].home) as mesh:
        with pytest.raises(ZeroDivisionError) as caught:
            await mesh.run(half, 4)
        told = str(caught.value.__cause__)
        assert "in half" in told and "return n / 0" in told and "glue" not in told
        with pytest.raises(TypeError, match="argument 0: "):
            await mesh.run(square, object())
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            await mesh.run(square)  # type: ignore[call-arg]
        with pytest.raises(pollen.DeadlineExceeded):
            await mesh.run(pollen.remote(timeout=0.3)(napped.local), 60)


async def test_a_class_that_only_an_argument_has_is_shipped_with_it(three: Cluster) -> None:
    async with pollen.connect(three[0].home) as mesh:
        assert await mesh.run(repr, Order("nut")) == "Order(item='nut', count=1)"
        got = [y async for y in mesh.map(dataclasses.astuple, [Order("a"), Order("b", 2)])]
        assert got == [("a", 1), ("b", 2)]


async def test_packages_that_are_named_go_along(
    three: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that the program itself has not."""
    text = "def up(t):\n    return t.upper()\n"
    wheel(tmp_path, "outer", "1.2", files={"outer/__init__.py": text})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    async with pollen.connect(three[0].home) as mesh:
        with pytest.raises(ModuleNotFoundError, match="outer"):
            await mesh.run(shouted, "a")
        assert await mesh.run(pollen.remote(requirements=["outer"])(shouted), "a") == "A"


async def test_what_was_withdrawn_is_shipped_again(three: Cluster) -> None:
    async with pollen.connect(three[0].home) as mesh:
        assert await mesh.run(times, 1) == 3
        (name,) = [name for name in functions_at(three[0]) if name.startswith("fn-times")]
        await mesh.unseed(name)
        assert await mesh.run(times, 2) == 6


async def test_a_seed_that_nobody_calls_is_withdrawn_by_its_publisher(
    three: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "brief.py"
    file.write_text("def go() -> int:\n    return 1\n")
    async with pollen.connect(three[0].home) as mesh, pollen.connect(three[1].home) as other:
        await mesh.seed(file, "brief", withdraw_unused_ms=12_000)
        await mesh.seed(file, "kept")
        end = time.monotonic() + 25

        async def is_called_for_long() -> bool:
            # Calls of another member are use, too: their demand is told.
            assert await other.use("brief").go() == 1
            return time.monotonic() > end

        await until(is_called_for_long, 40, "calls for twice the time", poll=0.5)

        async def is_gone() -> bool:
            return "brief" not in {s["name"] for s in (await mesh.status())["seeds"]}

        await until(is_gone, 60, "brief is withdrawn")
        with pytest.raises(NotFound):
            await other.use("brief").go()
        assert await mesh.use("kept").go() == 1


def test_a_script_ships_its_own_functions(three: Cluster, tmp_path: Path) -> None:
    (tmp_path / "shapes.py").write_text("def area(a, b):\n    return a * b\n")
    script = tmp_path / "work-it.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, threading
            import pollen
            import shapes

            BASE = int(sys.argv[2])
            LOCK = threading.Lock()

            @pollen.remote
            def work(a: int, b: int) -> int:
                return shapes.area(a, b) + BASE

            if __name__ == "__main__":
                with pollen.connect_sync(sys.argv[1]) as mesh:
                    print(mesh.run(work, 3, b=4), work.files())
            """
        )
    )
    line = [sys.executable, str(script), str(three[0].home), "100"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "112 ['shapes.py', 'work_it.py']"


def test_an_executor_is_one_of_the_library(three: Cluster) -> None:
    with pollen.Executor(max_workers=8, place=three[0].home) as pool:
        assert list(pool.map(square, range(40))) == [n * n for n in range(40)]
        assert list(pool.map(pow, range(9), range(9), chunksize=4)) == [n**n for n in range(9)]
        one = pool.submit(score, 2, order=Order("x"))
        assert one.result(30) == (6, Order("x"))
        assert isinstance(pool.submit(half, 1).exception(30), ZeroDivisionError)
        assert isinstance(pool.submit(square, object()).exception(30), TypeError)
        assert pool.submit(napped, 0.01).result(30) == 0.01
        values = pool.map(half, [1, 2, 3], chunksize=2)
        with pytest.raises(ZeroDivisionError):
            next(values)
        naps = [pool.submit(time.sleep, 0.2) for _ in range(40)]
        assert futures.wait(naps[:2], timeout=30).not_done == set()
        assert naps[-1].cancel()
        pool.shutdown(wait=True, cancel_futures=True)
        assert all(nap.done() for nap in naps) and any(nap.cancelled() for nap in naps)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            pool.submit(square, 1)
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        pollen.Executor(0)


async def test_all_results_are_right_when_a_node_is_killed(three: Cluster) -> None:
    counted = pollen.remote(idempotent=True, replicas=3)(burn)
    done: list[int] = []

    async with pollen.connect(three[0].home) as mesh:
        await mesh.run(counted, 0)
        async for n in mesh.map(counted, range(600), in_flight=24):
            done.append(n)
            if len(done) == 150:
                await three[2].kill()
    assert done == list(range(600))
    await three[2].start()
    await three.linked()


def test_types_reach_the_program(tmp_path: Path) -> None:
    """mypy sees the parameters and results of a decorated function."""
    pytest.importorskip("mypy")
    file = tmp_path / "typed.py"
    file.write_text(
        textwrap.dedent(
            """
            import pollen

            @pollen.remote(replicas=2)
            def score(n: int, *, loud: bool = False) -> str:
                return str(n)

            @pollen.remote
            async def slow(n: int) -> float:
                return n / 2

            async def main(mesh: pollen.Mesh) -> None:
                reveal_type(await mesh.run(score, 1, loud=True))
                reveal_type(await mesh.run(slow, 1))
                reveal_type(score.local(1))
                async for y in mesh.map(slow, [1, 2]):
                    reveal_type(y)
                await mesh.run(score, "x")
                score.local(1, quiet=True)

            def plain(mesh: pollen.SyncMesh, pool: pollen.Executor) -> None:
                reveal_type(mesh.run(score, 1))
                reveal_type(pool.submit(score, 1).result())
            """
        )
    )
    line = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", str(file)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=280, check=False)
    told = done.stdout
    assert told.count('Revealed type is "str"') == 4, told
    assert told.count('Revealed type is "float"') == 2, told
    assert told.count("error:") == 2 and "[call-overload]" in told, told
    assert "[call-arg]" in told, told
