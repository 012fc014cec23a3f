"""The real muscles are needed here; without them these tests are skipped, or refused by CI."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

try:
    from pollen import _native
except ImportError as error:
    if os.environ.get("POLLEN_REQUIRE_NATIVE") == "1":
        raise
    pytest.skip(f"the native module is not installed: {error}", allow_module_level=True)

assert _native is not None

Scenario = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def scenario() -> Scenario:
    """Runs one function of ``tests.native.scenarios``, or of the module named before it, in a
    process of its own.

    Muscles are one a process, and what is tested here may end the process it happens in.
    """

    def run(
        name: str, *options: str, timeout: float = 50, expect: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        module, _, function = name.rpartition(".")
        module = module or "scenarios"
        code = f"from tests.native import {module}; {module}.{function}()"
        done = subprocess.run(
            [sys.executable, "-W", "error", *options, "-c", code],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        said = f"{name} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert expect is None or done.returncode == expect, said
        return done

    return run
