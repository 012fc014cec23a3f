"""What is overdue is found in order, whatever was replaced meanwhile."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollen.core.ids import Hash
from pollen.core.placement.overdue import Overdue
from tests.unit.names.test_named import A, B, C

PAIRS = [(Hash(bytes([n]) * 32), node) for n in range(3) for node in (A, B, C)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(PAIRS), st.none() | st.integers(0, 50)),
            st.integers(0, 60),
        )
    )
)
def test_it_is_the_least_of_what_is_kept(steps: list[object]) -> None:
    """As a scan of everything would say."""
    overdue, held = Overdue(), dict[object, int]()
    for step in steps:
        if isinstance(step, int):
            order = sorted((at, pair) for pair, at in held.items() if at <= step)
            assert overdue.take_due(step) == [pair for _, pair in order]
            held = {pair: at for pair, at in held.items() if at > step}
        elif isinstance(step, tuple):
            pair, until = step
            overdue.set(pair, until)
            held.pop(pair, None)
            if until is not None:
                held[pair] = until
        assert overdue.first == min(held.values(), default=None)


def test_what_was_replaced_takes_no_room() -> None:
    """A peer may say another deadline as often as it likes."""
    overdue = Overdue()
    for turn in range(10_000):
        overdue.set(PAIRS[0], 10**18 - turn)
    assert len(overdue._order) < 100
    assert overdue.first == 10**18 - 9_999
