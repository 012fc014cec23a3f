"""The two muscles that every contract is run against: the fake, and the real module.

The real one is left out only when it cannot be imported; POLLEN_REQUIRE_NATIVE=1 makes that an
error, so that CI cannot pass by leaving it out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen.errors import PollenError
from pollen.runtime.loop.native import RealNative
from tests.contract.fake_native import FakeNative

try:
    _real: Any = RealNative()
    _why = ""
except PollenError as error:
    _real, _why = None, error.reason

if _real is None and os.environ.get("POLLEN_REQUIRE_NATIVE") == "1":
    raise RuntimeError(f"POLLEN_REQUIRE_NATIVE is set, but {_why}")


@pytest.fixture(params=["fake", "real"])
def native(request: pytest.FixtureRequest) -> Any:
    """A ``Native``: a fresh fake network, or the real module."""
    if request.param == "fake":
        return FakeNative()
    if _real is None:
        pytest.skip(_why)
    return _real


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a unix socket must fit into it."""
    with tempfile.TemporaryDirectory(prefix="pln-", ignore_cleanup_errors=True) as path:
        yield Path(path)
