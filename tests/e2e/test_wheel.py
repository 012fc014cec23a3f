"""The wheel for other machines: small, for old systems too, and enough by itself."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000


@pytest.mark.slow
@pytest.mark.timeout(3_000)
def test_the_wheel_runs_where_there_is_no_cargo(tmp_path: Path) -> None:
    """Done-when 2: built by make wheel, installed into an empty environment, the demo passes."""
    subprocess.run(["make", "wheel"], cwd=ROOT, check=True)
    (wheel,) = sorted((ROOT / "dist").glob("*.whl"), key=os.path.getmtime)[-1:]
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size / MEGABYTE:.1f} MB")
    assert "manylinux_2_28" in wheel.name
    assert size < 30 * MEGABYTE
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    where = subprocess.run(["/usr/bin/env", "sh", "-c", "command -v cargo"], env=bare, check=False)
    assert where.returncode != 0, "there is a cargo after all"
    pln = [python.with_name("pln"), "demo"]
    done = subprocess.run(pln, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("your turn"), done.stdout
