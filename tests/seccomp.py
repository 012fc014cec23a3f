"""The filter of system calls that a unit names, as the program that bubblewrap loads.

The groups come from ``systemd-analyze syscall-filter``; libseccomp, which systemd itself links,
compiles the list. So the filter is the one of the unit, but for what its other lines add to it.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import shutil
import subprocess
from pathlib import Path

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000


def lacks() -> str:
    """What is not installed that this needs; empty when all is there."""
    if shutil.which("systemd-analyze") is None:
        return "systemd-analyze is not installed"
    return "" if ctypes.util.find_library("seccomp") else "libseccomp is not installed"


def calls_of(group: str) -> set[str]:
    """The system calls of a group, those of the groups in it as well."""
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True
    )
    words = [line.strip() for line in done.stdout.splitlines()[1:]]
    found = {word for word in words if word and word[0] not in "#@"}
    return found.union(*(calls_of(word) for word in words if word.startswith("@")))


def write_program(unit: str, path: Path) -> int:
    """The program of a unit's text to a file; how many system calls it lets through."""
    told = dict(line.partition("=")[::2] for line in unit.splitlines())
    names = set[str]().union(*(calls_of(word) for word in told["SystemCallFilter"].split()))
    refused = _ERRNO | getattr(errno, told["SystemCallErrorNumber"])
    library = ctypes.CDLL(ctypes.util.find_library("seccomp"), use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    # The native machine alone, as SystemCallArchitectures=native says: others are killed.
    held = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(refused)))
    assert held.value
    count = 0
    try:
        for name in sorted(names):
            number = library.seccomp_syscall_resolve_name(name.encode())
            # Negative: a call of other machines, or one that this library does not know yet.
            if number >= 0:
                done = library.seccomp_rule_add(held, ctypes.c_uint32(_ALLOW), number, 0)
                assert done == 0, f"{name}: {done}"
                count += 1
        with path.open("wb") as file:
            assert library.seccomp_export_bpf(held, file.fileno()) == 0
    finally:
        library.seccomp_release(held)
    return count
