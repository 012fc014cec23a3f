"""``pln status`` starts fast: what it loads is listed, and it costs at most 7 Pythons."""

from __future__ import annotations

import compileall
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pollen
from tests.cli.conftest import Pln

# What the way to the daemon may load, beside the interpreter's own start and click.
ALLOWED = {
    "pollen",
    "pollen.cli",
    "pollen.cli.__main__",
    "pollen.cli.app",
    "pollen.cli.output",
    "pollen.cli.proposals",
    "pollen.cli.status",
    "pollen.sdk.control",
    "pollen.errors",
    "pollen.plain",
    "pollen.sizes",
    "pollen.units",
    "pollen.sdk",
    "pollen.paths",
}
NEVER = {
    *("asyncio", "rich", "structlog", "starlette", "uvicorn", "msgspec", "psutil"),
    *("http.client", "email", "ssl", "sqlite3", "logging", "multiprocessing", "subprocess"),
    *("tempfile", "pollen._native", "pollen.core"),
}
FACTOR = 7.0
RUNS = 21

_LIST = """
import sys
from pollen.cli.app import main
sys.argv = ["pln", "status"]
try:
    main()
except SystemExit:
    pass
print("\\n".join(sorted(sys.modules)), file=sys.stderr)
"""

_LATE = """
import atexit, signal, sys
def late():
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        print("ignored at the end", file=sys.stderr)
atexit.register(late)
"""


def loaded(pln: Pln) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _LIST], env=pln.environment, capture_output=True, check=True
    )
    return set(done.stderr.decode().split())


def test_status_loads_nothing_heavy(up: Pln) -> None:
    assert loaded(up) & NEVER == set()


def test_status_loads_of_ours_only_what_is_listed(up: Pln) -> None:
    ours = {name for name in loaded(up) if name.split(".")[0] == "pollen"}
    assert ours | {"pollen.cli.__main__"} == ALLOWED


def test_status_loads_no_package_but_click(up: Pln) -> None:
    names = {name.split(".")[0] for name in loaded(up)}
    foreign = {n for n in names if n not in sys.stdlib_module_names and not n.startswith("_")}
    assert foreign <= {"pollen", "click", "sitecustomize", "usercustomize"}


def test_ctrl_c_while_the_command_loads_ends_it_without_a_trace(tmp_path: Path) -> None:
    """Click, the first of the slow imports, finds the signal under way."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "pollen.cli", "version"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(pollen.__file__).parents[1]}"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


def test_who_ignores_ctrl_c_goes_on_to_ignore_it(tmp_path: Path) -> None:
    """A script's background job begins so."""
    (tmp_path / "sitecustomize.py").write_text(_LATE)
    done = subprocess.run(
        [sys.executable, "-m", "pollen.cli", "version"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(pollen.__file__).parents[1]}"},
        capture_output=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert done.returncode == 0, done.stderr
    assert b"ignored at the end" in done.stderr


def processor(line: list[str], environment: dict[str, str]) -> float:
    """Seconds of processor that a command takes, whatever else runs here."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(line, env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds(line: list[str], environment: dict[str, str]) -> float:
    """Seconds that a user waits for a command."""
    began = time.perf_counter()
    subprocess.run(line, env=environment, capture_output=True, check=True)
    return time.perf_counter() - began


def factor(up: Pln, cost: Callable[[list[str], dict[str, str]], float]) -> float:
    """What ``pln status`` costs, in Pythons that do nothing: interleaved, and medians."""
    compileall.compile_dir(Path(pollen.__file__).parent, quiet=2)
    environment = {k: v for k, v in up.environment.items() if k != "PYTHONDONTWRITEBYTECODE"}
    bare, ours = [sys.executable, "-c", "pass"], up.line("status")
    pairs = [(cost(bare, environment), cost(ours, environment)) for _ in range(RUNS)]
    nothing, status = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"python {nothing * 1e3:.1f} ms, status {status * 1e3:.1f} ms, {os.cpu_count()} cores")
    return status / nothing


@pytest.mark.timeout(120)
def test_status_takes_the_processor_of_at_most_seven_pythons(up: Pln) -> None:
    """The command's own work."""
    assert factor(up, processor) <= FACTOR


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_status_takes_the_time_of_at_most_seven_pythons(up: Pln) -> None:
    """Done-when 9 of the Skeleton: with the daemon's answer, on an otherwise idle machine."""
    assert factor(up, seconds) <= FACTOR
