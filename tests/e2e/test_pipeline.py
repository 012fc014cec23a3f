"""examples/pipeline as a user runs it: five nodes, three seeds, the table, the figures, the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "pipeline" / "run.py"
STAGES = {"ingest", "terminal", "sink"}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder with a short path, for everything that the script makes."""
    made = Path(tempfile.mkdtemp(prefix="pln-pipe-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-u", str(SCRIPT), *options]
    environment = os.environ | {"TMPDIR": str(folder)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        line, stdout=pipe, stderr=pipe, env=environment, text=True, start_new_session=True
    )


def run(folder: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """The script to its end: what it printed and its figures."""
    report = folder / "report.json"
    process = start(folder, "--json", str(report), *options)
    printed, errors = process.communicate(timeout=280)
    print(printed)
    assert (process.returncode, errors) == (0, "")
    assert [path.name for path in folder.iterdir()] == ["report.json"], "it leaves nothing behind"
    return printed, json.loads(report.read_text())


def test_the_pipeline_answers_every_call_and_says_what_bounds_it(folder: Path) -> None:
    """Loose: the machine may be busy. Every stage ran every call, on some node, without failure."""
    printed, found = run(folder, "--seconds", "4", "--quiet", "0", "--rounds", "1")
    assert "kept: readings 16, least 20000, mean 20000, most 20000" in printed
    for name in ("light", "heavy"):
        held = found[name]
        assert held["ok"] > 100 and held["failed"] == 0
        assert dict.fromkeys(STAGES, held["ok"]) == {
            stage: view["count"] for stage, view in held["stages"].items()
        }
        assert set(held["replicas"]) == STAGES
        assert all(held["replicas"].values()), "the table shows where the replicas are"
    assert found["heavy"]["rate"] > 2 * found["light"]["rate"]
    assert 0 < found["profile"]["work_of_cpu"] <= 1.5
    assert found["nested"]["ratio"] > 0.25


def test_ctrl_c_in_the_middle_leaves_no_process_and_no_folder(folder: Path) -> None:
    process = start(folder, "--seconds", "30")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("light load"):
            break
    nodes = psutil.Process(process.pid).children(recursive=True)
    assert len(nodes) == 5
    # As a terminal does: to the whole group.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert [node.pid for node in nodes if node.is_running()] == []
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_nested_calls_reach_six_tenths_and_load_moves_replicas(folder: Path) -> None:
    """Done-when 5, strict: the ratio of the README's arithmetic, the median of 7 rounds."""
    _, found = run(folder, "--seconds", "20", "--quiet", "180", "--rounds", "7")
    assert found["nested"]["ratio"] >= 0.6
    assert found["light"]["most_replicas"]["terminal"] == 1
    assert found["heavy"]["most_replicas"]["terminal"] >= 2
    assert len(found["quiet"]["replicas"]["terminal"]) == 1
    assert found["heavy"]["failed"] == 0
