"""Wheels that nobody should install, each bad in its own way; ``store`` is where they are put."""

from __future__ import annotations

import os
from pathlib import Path

from tests.wheels import NEW, files_of_ours, repacked


def cut(store: Path) -> Path:
    whole = repacked(store, NEW)
    os.truncate(whole, whole.stat().st_size // 2)
    return whole


def of_another_machine(store: Path) -> Path:
    return repacked(store, NEW, tag="cp311-abi3-macosx_11_0_arm64")


def of_another_python(store: Path) -> Path:
    return repacked(store, NEW, tag="cp39-cp39-any")


def of_somebody_else(store: Path) -> Path:
    return repacked(store, NEW, metadata={"Name": "other"})


def with_another_file(store: Path) -> Path:
    path = repacked(store, NEW)
    raw = path.read_bytes()
    # The zip's own sum of it is left: RECORD is what differs.
    inside = b"pollen/__init__.py,sha256="
    at = raw.index(inside) + len(inside)
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    return path


def that_cannot_be_imported(store: Path) -> Path:
    native = {"pollen/_native.abi3.so": b"\x7fELF nothing"}
    return repacked(store, NEW, patch=native)


def that_lies(store: Path) -> Path:
    init = files_of_ours()["pollen/__init__.py"] + b"\nimport sys\nsys.exit(3)\n"
    return repacked(store, NEW, patch={"pollen/__init__.py": init})
