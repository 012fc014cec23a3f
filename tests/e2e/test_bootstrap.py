"""``pln bootstrap ssh`` against real machines: made members from nothing, resumed, refused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines import Park, park

pytestmark = pytest.mark.timeout(300)

# Seconds within which a run with nothing to do ends.
IDLE_WITHIN = 15.0


@pytest.fixture(scope="module")
def three() -> Iterator[Park]:
    """A desk and three machines."""
    with tempfile.TemporaryDirectory(prefix="pln-") as folder, park(Path(folder), 3) as made:
        yield made


def test_a_root_machine_becomes_a_member(three: Park) -> None:
    """From nothing: the desk sees it, and a second run has nothing to do."""
    host = f"root@{three.machines[0].address}"
    code, (told,), said = three.bootstrap(host)
    assert code == 0, (told["error"], said)
    assert told["ok"] and three.members() == {"desk": "self", "mb": "online"}
    code, (told,), said = three.bootstrap(host)
    assert code == 0 and told["steps"] == []
    assert float(str(told["seconds"])) < IDLE_WITHIN
