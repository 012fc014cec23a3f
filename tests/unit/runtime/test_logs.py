"""The log's files under trouble."""

from __future__ import annotations

from pathlib import Path

import pytest

from pollen.runtime.watch.files import RotatingFile


def test_a_rotation_that_fails_loses_lines_and_not_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it can be rotated again, the next line is written."""
    path = tmp_path / "p.log"
    file = RotatingFile(path, limit=100, kept=3)
    file.write_line("a" * 80)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        file.write_line("b" * 80)
    file.write_line("c" * 80)
    file.close()
    file.write_line("d" * 80)
    assert path.read_text() == "c" * 80 + "\n"
    assert path.with_name("p.log.1").read_text() == "a" * 80 + "\n"


def refuse(*paths: Path) -> None:
    raise OSError(28, "No space left on device")
