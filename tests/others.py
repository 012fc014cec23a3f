"""The product in the hands of another user, from a Python that they need not be able to read.

Run as root: ``python -m tests.others pln ARGUMENTS`` or ``… code SOURCE ARGUMENTS``. Everything is
loaded first, then the process becomes user 65534 for good, and only then it begins.

Why: a checkout or an interpreter in a home of mode 0700 cannot be executed by anybody else.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from pathlib import Path

NOBODY = 65_534
ROOT = Path(__file__).parents[1]
# Loaded on use by Python or by libraries, not by a module of ours.
_LATE = (
    *("difflib", "encodings.idna", "importlib.metadata", "linecache", "socket", "traceback"),
    *("tracemalloc", "warnings"),
)
# Those that run elsewhere: as a command, on another system, and in a guest.
_NOT_HERE = ("__main__", "_winconsole", "glue")


def can_become() -> bool:
    """Whether this process is root of a system that knows that user (a user namespace may not)."""
    if os.geteuid() != 0:
        return False
    try:
        held = [
            map(int, line.split())
            for line in Path("/proc/self/uid_map").read_text().split("\n")
            if line
        ]
    except OSError:
        return True
    return any(first <= NOBODY < first + count for first, _, count in held)


def line(kind: str, *arguments: str | os.PathLike[str]) -> list[str]:
    """The command line; its working directory is ``ROOT``."""
    return [sys.executable, "-m", "tests.others", kind, *map(os.fspath, arguments)]


def _load() -> None:
    import click

    import pollen

    for package in (pollen, click):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.rpartition(".")[2] not in _NOT_HERE:
                importlib.import_module(found.name)


def main() -> None:
    kind, *arguments = sys.argv[1:]
    for name in _LATE:
        importlib.import_module(name)
    if kind == "pln":
        _load()
        from pollen.cli.app import main as begin
    os.chdir("/")
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    if kind == "pln":
        sys.argv = ["pln", *arguments]
        begin()
    else:
        source, *rest = arguments
        sys.argv = ["-c", *rest]
        exec(source, {"__name__": "__main__"})


if __name__ == "__main__":
    main()
