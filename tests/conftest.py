"""What every kind of test shares: the skip policy, async tests without a plugin, real clusters.

``POLLEN_NO_SKIP=1`` (CI) makes a skip a failure, so that nothing passes by being left out. Tests
marked ``slow`` run only when they are asked for with ``-m slow`` (``make accept``); a contract
marked ``only("real")`` is not collected for the fake, where it would say nothing, nor the reverse.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
from collections.abc import Generator

import pytest

NO_SKIP = os.environ.get("POLLEN_NO_SKIP") == "1"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: long or strict; only make accept runs it")
    config.addinivalue_line(
        "markers", "alone: fills the machine or judges times: nothing beside it"
    )
    config.addinivalue_line(
        "markers", "figure: holds a bar of the clock; make accept repeats it without the margin"
    )
    # A shell that starts us in the background makes us, and all that we start, deaf to Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Fixtures end as after Ctrl-C: what they started would live on, namespaces and daemons.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line("markers", "only(native): says something of one of the two muscles")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is not asked for is deselected, not skipped."""
    left_out = [item for item in items if is_left_out(item, is_marked=bool(config.getoption("-m")))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def is_left_out(item: pytest.Item, *, is_marked: bool) -> bool:
    """A slow one without ``-m``, or a contract of the other muscles."""
    only = item.get_closest_marker("only")
    if only is not None and isinstance(item, pytest.Function):
        return bool(item.callspec.params["native"] not in only.args)
    return not is_marked and item.get_closest_marker("slow") is not None


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
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and POLLEN_NO_SKIP forbids it: {report.longrepr}"
    return report
