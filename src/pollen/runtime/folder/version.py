"""The version of this distribution, as installed or as checked out."""

from __future__ import annotations

import importlib.metadata


def _read() -> str:
    try:
        return importlib.metadata.version("pollen-mesh")
    except importlib.metadata.PackageNotFoundError:
        return "0.1.0+source"


VERSION = _read()
