"""What forbids an upgrade although a node runs."""

from __future__ import annotations

import os
import sys
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


def test_a_sender_that_falls_silent_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"PK")
    monkeypatch.setattr(begin, "_SILENT", 0.05)
    with pytest.raises(PollenError, match="sent nothing for") as held:
        begin._copied(reader, tmp_path / "stdin.whl")
    assert held.value.slug == "wheel-invalid"
    os.close(writer)
    os.close(reader)


def test_a_wheel_is_copied_before_it_is_checked(tmp_path: Path) -> None:
    """So what is unpacked is what was checked, whoever writes to the file meanwhile."""
    given, ours = tmp_path / "given", tmp_path / "ours"
    ours.mkdir()
    given.write_bytes(b"first")
    copy = begin.receive(str(given), ours)
    given.write_bytes(b"other")
    assert copy.parent == ours and copy.read_bytes() == b"first"


@pytest.mark.parametrize("safe", [[], ["-P"]], ids=["as before", "with -P"])
def test_a_node_is_known_by_its_command_line(safe: list[str]) -> None:
    line = [sys.executable, *safe, "-m", "pollen.runtime", "--dir", "/x"]
    assert service.node_of(line) == ["--dir", "/x"]
    assert service.node_of(line[:-3]) is None
