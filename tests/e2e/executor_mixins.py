"""CPython's own tests of executors against ``pollen.Executor``: ``python -m … FILE`` prints JSON.

``FILE`` is test_concurrent_futures.py of Debian's libpython3.11-testsuite. The node is PLN_DIR's.
Its mixins are those that CPython runs against each kind of executor; what it has for threads or for
processes alone is left out.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import unittest
from pathlib import Path
from typing import Any

import pollen

MIXINS = (
    "InitializerMixin",
    "FailingInitializerMixin",
    "ExecutorShutdownTest",
    "WaitTests",
    "AsCompletedTests",
    "ExecutorTest",
)
# As a module of the program's own: the functions in it are shipped from it.
NAME = "cpython_futures"


def loaded(file: Path) -> Any:
    """The module of that file."""
    spec = importlib.util.spec_from_file_location(NAME, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


def suite_of(module: Any) -> unittest.TestSuite:
    """One class of tests for each mixin."""
    own = type("PollenMixin", (module.ExecutorMixin,), {"executor_type": pollen.Executor})
    suite = unittest.TestSuite()
    for name in MIXINS:
        bases = (getattr(module, name), own, module.BaseTestCase)
        kind = type(f"Pollen{name}", bases, {"__module__": NAME})
        suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(kind))
    return suite


class Result(unittest.TextTestResult):
    """Keeps which tests passed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.passed: list[str] = []

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        super().addSuccess(test)
        self.passed.append(short(test))


def short(test: unittest.TestCase) -> str:
    """``Mixin.test_name``."""
    return f"{type(test).__name__.removeprefix('Pollen')}.{test._testMethodName}"


def main() -> None:
    suite = suite_of(loaded(Path(sys.argv[1])))
    runner = unittest.TextTestRunner(stream=sys.stderr, verbosity=2, resultclass=Result)
    result = runner.run(suite)
    assert isinstance(result, Result)
    bad = {short(test): text for test, text in [*result.failures, *result.errors]}
    # The tests print their times without an end of line.
    print("\n" + json.dumps({"passed": sorted(result.passed), "failed": bad}))


if __name__ == "__main__":
    main()
