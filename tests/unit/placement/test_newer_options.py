"""What a node does with a seed whose options a newer version wrote.

Source: docs/internals/placement.md#formats.
"""

from __future__ import annotations

import msgspec

from tests.unit.names.test_named import A
from tests.unit.placement.bench import ECHO, Bench


def test_a_seed_with_an_option_that_the_host_does_not_know_is_refused() -> None:
    """It was written by a newer version; the claim names the option."""
    spec = msgspec.structs.replace(ECHO.spec, options={"warm": True})
    bench = Bench()
    bench.hold(msgspec.structs.replace(ECHO, spec=spec))
    bench.plan(A)
    assert bench.turn() == []
    claim = bench.hosting.claim(ECHO.seed)
    assert claim is not None
    assert (claim.reason, claim.is_fault) == ("a newer Pollen knows its options: warm", False)
