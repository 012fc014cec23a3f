"""``pln status`` starts fast: what it loads is listed, and it costs at most 7 Pythons."""

from __future__ import annotations

import compileall
import os
import statistics
import subprocess
import sys
import time
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
    "pollen.cli.status",
    "pollen.control",
    "pollen.errors",
    "pollen.runtime",
    "pollen.runtime.paths",
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


def seconds(line: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(line, env=environment, capture_output=True, check=True)
    return time.perf_counter() - began


@pytest.mark.timeout(120)
def test_status_costs_at_most_seven_pythons(up: Pln) -> None:
    """Interleaved, so that whatever else runs here slows both; medians, since it may be much."""
    compileall.compile_dir(Path(pollen.__file__).parent, quiet=2)
    environment = {k: v for k, v in up.environment.items() if k != "PYTHONDONTWRITEBYTECODE"}
    bare, ours = [sys.executable, "-c", "pass"], up.line("status")
    pairs = []
    for _ in range(RUNS):
        pairs.append((seconds(bare, environment), seconds(ours, environment)))
    nothing, status = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"python {nothing * 1e3:.1f} ms, status {status * 1e3:.1f} ms, {os.cpu_count()} cores")
    assert status / nothing <= FACTOR
