"""What every kind of test shares: the skip policy, async tests without a plugin, real clusters.

``POLLEN_NO_SKIP=1`` (CI) makes a skip a failure, so that nothing passes by being left out; only a
reason that begins with ``by design:`` stands (one parameter of a pair proves nothing). Tests
marked ``slow`` run only when they are asked for with ``-m slow`` (``make accept``).
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Generator

import pytest

NO_SKIP = os.environ.get("POLLEN_NO_SKIP") == "1"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: long or strict; only make accept runs it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``-m`` the slow ones are deselected: they are not skipped, they are not asked for."""
    if config.getoption("-m"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run ``async def`` tests, each on a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # xfail reports itself as skipped, too; strict xfail is no way to leave a test out.
    by_design = "Skipped: by design:" in str(report.longrepr)
    if NO_SKIP and report.skipped and not by_design and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and POLLEN_NO_SKIP forbids it: {report.longrepr}"
    return report
