"""Where the project's files are, for the style tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "pollen"
CRATES = ROOT / "crates"


def python_files(folder: Path) -> list[Path]:
    """Every module under a folder."""
    return sorted(folder.rglob("*.py"))


def rust_files() -> list[Path]:
    """Every Rust source of the workspace."""
    return sorted(path for path in CRATES.rglob("*.rs") if "target" not in path.parts)


def tracked_files() -> list[Path]:
    """What git would clone; where there is no git (an unpacked archive), what lies there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        return [path for path in ROOT.rglob("*") if path.is_file()]
    names = listed.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]
