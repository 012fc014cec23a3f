"""What runs before the runner's snapshot leaves nothing of itself."""

from __future__ import annotations

import sys

from tests.unit.runner.stage import bundles, calls, port, seeded, warm


def test_the_runner_is_warmed_by_calls_of_each_kind_and_forgets_them() -> None:
    """After it an instance finds its own seed, asks its own node and has no module more."""
    with seeded("def double(n: int) -> int: return n * 2") as node:
        modules = set(sys.modules)
        warm.run(times=2)
        assert bundles.bundle.main == "" and list(bundles.bundle.modules()) == []
        assert port.host is node and node.lines == []
        assert set(sys.modules) - modules == set()
        assert calls.handle("double", b"[3]") == b"6"


def test_a_kind_of_call_that_fails_fails_the_build() -> None:
    """A snapshot is never taken of a runner that does not run."""
    with seeded("x = 1"):
        kept, warm.CALLS = warm.CALLS, [("greet", {"name": 1})]
        try:
            raised = None
            warm.run(times=1)
        except calls.Failure as failure:
            raised = failure.kind
        finally:
            warm.CALLS = kept
        assert raised == "bad-argument"
