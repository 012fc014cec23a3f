"""A folder whose path is short enough for sockets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """Gone after the test."""
    with tempfile.TemporaryDirectory(prefix="pln-") as path:
        yield Path(path)
