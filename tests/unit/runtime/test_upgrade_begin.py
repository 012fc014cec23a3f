"""What forbids an upgrade although a node runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pollen.errors import PollenError
from pollen.paths import Paths
from pollen.runtime.folder import service
from pollen.runtime.upgrade import begin
from pollen.runtime.upgrade.site import Site


def test_a_node_that_is_a_container_s_first_process_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end would end this command as well, in the middle."""
    (tmp_path / "pollen").mkdir()
    monkeypatch.setattr(service, "running", lambda where: 1)
    with pytest.raises(PollenError, match="first process of a container") as held:
        begin.look(Paths(tmp_path), Site(tmp_path))
    assert held.value.slug == "usage" and "image" in held.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["pollen"]
