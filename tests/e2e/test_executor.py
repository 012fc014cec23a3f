"""``pollen.Executor`` behaves as CPython's own executors do, by CPython's own tests of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import pytest

import pollen
from pollen.testing import Cluster
from tests.e2e.conftest import running
from tests.style.tree import ROOT

pytestmark = pytest.mark.timeout(600)

CPYTHON = Path("/usr/lib/python3.11/test/test_concurrent_futures.py")
# Of the mixins' tests; the page names each, with its reason.
FAILING = {
    "ExecutorShutdownTest.test_interpreter_shutdown",
    "ExecutorShutdownTest.test_hang_gh83386",
    "ExecutorShutdownTest.test_submit_after_interpreter_shutdown",
    "ExecutorTest.test_free_reference",
}


def square(n: int) -> int:
    return n * n


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A node whose runner is compiled."""
    with running(Cluster(1)) as cluster:
        with pollen.connect_sync(cluster[0].home) as mesh:
            assert mesh.run(pollen.remote(timeout=120)(square), 3) == 9
        yield cluster[0].home


@pytest.mark.slow
def test_the_mixins_of_cpython_pass_but_for_those_that_the_page_names(home: Path) -> None:
    if not CPYTHON.is_file():
        pytest.skip("Debian's libpython3.11-testsuite is not installed: ./.ci/programs")
    line = [sys.executable, "-m", "tests.e2e.executor_mixins", str(CPYTHON)]
    environment = {**os.environ, "PLN_DIR": str(home)}
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=500, cwd=ROOT, env=environment, check=False
    )
    told = json.loads(done.stdout.splitlines()[-1])
    passed, failed = set(told["passed"]), told["failed"]
    assert set(failed) == FAILING, done.stderr
    assert len(passed) >= 0.8 * (len(passed) + len(failed))
    page = (ROOT / "docs" / "design" / "functions.md").read_text()
    assert f"{len(passed)} of {len(passed) + len(failed)} pass" in page
    assert all(name.partition(".")[2] in page for name in FAILING)


def test_a_program_that_ends_without_shutdown_finishes_what_it_submitted(
    home: Path, tmp_path: Path
) -> None:
    """And what it submits after that is refused."""
    script = tmp_path / "leaves.py"
    script.write_text(
        textwrap.dedent(
            """
            import atexit, time, pollen

            @atexit.register
            def run_last():
                try:
                    pool.submit(id, None)
                except RuntimeError as error:
                    print("refused:", error)

            pool = pollen.Executor(2)
            for _ in range(6):
                done = pool.submit(time.sleep, 0.2)
            done.add_done_callback(lambda done: print("done", done.exception()))
            """
        )
    )
    environment = {**os.environ, "PLN_DIR": str(home)}
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "done None",
        "refused: cannot schedule new futures after shutdown",
    ]


def test_a_callback_may_submit(home: Path) -> None:
    """It runs in the executor's own thread, and waits for nothing there."""
    with pollen.Executor(1, place=home) as pool:
        seen: list[int] = []
        ended = threading.Event()

        def more(done: futures.Future[int]) -> None:
            seen.append(done.result())
            if len(seen) < 5:
                pool.submit(square, len(seen) + 1).add_done_callback(more)
            else:
                ended.set()

        pool.submit(square, 1).add_done_callback(more)
        assert ended.wait(30)
    assert seen == [1, 4, 9, 16, 25]


def test_an_executor_works_beside_a_loop(home: Path) -> None:
    """``run_in_executor`` takes it as it takes any."""

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        with pollen.Executor(4, place=home) as pool:
            calls = [loop.run_in_executor(pool, square, n) for n in range(10)]
            return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [n * n for n in range(10)]


def test_what_was_withdrawn_is_shipped_again(home: Path) -> None:
    """A pool may rest for longer than a seed that nobody calls is kept."""
    with pollen.Executor(4, place=home) as pool, pollen.connect_sync(home) as mesh:
        assert pool.submit(square, 3).result(60) == 9
        for seed in mesh.status()["seeds"]:
            mesh.unseed(seed["name"])
        assert list(pool.map(square, range(6))) == [0, 1, 4, 9, 16, 25]
