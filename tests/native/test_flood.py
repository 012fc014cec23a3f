"""The same flood as in tests/unit, with the real signatures."""

from __future__ import annotations

import time

import pytest

from pollen import _native
from pollen.core.codec import RECORD_DOMAIN, signing_bytes
from pollen.core.ids import PeerId
from tests.unit.flood import EACH, Ring, Turns, make_flood, make_node, records_in


def make_ring() -> Ring:
    pairs: dict[int, _native.KeyPair] = {}

    def pair(number: int) -> _native.KeyPair:
        return pairs.setdefault(number, _native.KeyPair.generate())

    return Ring(
        lambda number: PeerId(pair(number).public),
        lambda number, data: pair(number).sign(data),
        _native.verify_signatures,
    )


def verify_and_merge(members: int) -> tuple[float, float, float]:
    """Seconds of one core for the signatures and for the node, and its longest turn."""
    ring = make_ring()
    frames = make_flood(ring, members)
    turns = Turns(make_node(ring))
    items = [
        (record.owner, signing_bytes(RECORD_DOMAIN, record.body), record.signature)
        for frame in frames
        for record in frame
    ]
    began = time.thread_time()
    assert all(_native.verify_signatures(items))
    verifying = time.thread_time() - began
    turns.take(frames)
    assert records_in(turns.node) == members * EACH
    return verifying, sum(turns.seconds), max(turns.seconds)


def test_a_thousand_signed_records_verify_and_merge() -> None:
    """A tenth of it, loosely, for a busy host."""
    verifying, merging, _ = verify_and_merge(20)
    assert verifying + merging < 1


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_ten_thousand_signed_records_verify_and_merge_in_two_seconds() -> None:
    """On one core, in slices, no turn over 10 ms."""
    verifying, merging, longest = verify_and_merge(200)
    print(f"10,000 records: {verifying:.2f} s + {merging:.2f} s, longest {longest * 1e3:.1f} ms")
    assert verifying + merging < 2
    assert longest < 0.010
