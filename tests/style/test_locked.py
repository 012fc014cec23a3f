"""What ``pln bootstrap`` sends along is what is tested here: one lock, and a part of it.

``PYTHONPATH=src:. python -m tests.style.test_locked`` writes that part.
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

from packaging.requirements import Requirement

from tests.style.tree import ROOT

LOCKED = ROOT / "src" / "pollen" / "sdk" / "bootstrap" / "locked.txt"
# It installs the others on a machine that has none; nothing of ours imports it.
INSTALLER = "pip"


def entries(text: str) -> dict[str, str]:
    """Each name of a lock with its lines."""
    found = re.findall(r"^(\S+)==(?:.*\\\n)*.*\n", text, re.MULTILINE)
    blocks = re.findall(r"^\S+==(?:.*\\\n)*.*\n", text, re.MULTILINE)
    return dict(zip(found, blocks, strict=True))


def wanted() -> set[str]:
    """What pollen needs to run, and what that needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo: list[str] = list(project["dependencies"])
    seen: set[str] = set()
    while todo:
        need = Requirement(todo.pop())
        name = re.sub(r"[-_.]+", "-", need.name).lower()
        if name in seen or (need.marker and not need.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        todo += metadata.requires(name) or []
    return seen


def expected() -> str:
    """The part of requirements.lock that pollen needs to run."""
    held = entries((ROOT / "requirements.lock").read_text())
    return "".join(held[name] for name in sorted(wanted()))


def test_what_a_machine_gets_is_what_is_tested_here() -> None:
    """The same versions with the same hashes, and pip beside them."""
    held = entries(LOCKED.read_text())
    installer = held.pop(INSTALLER)
    assert re.search(r"--hash=sha256:[0-9a-f]{64}", installer)
    assert "".join(held[name] for name in sorted(held)) == expected()


if __name__ == "__main__":
    installer = entries(LOCKED.read_text())[INSTALLER] if LOCKED.exists() else ""
    LOCKED.write_text(installer + expected())
