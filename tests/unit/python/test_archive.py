"""A bundle is the same bytes for the same files, and never too large."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import pytest

from pollen.errors import PollenError
from pollen.sdk.python import archive


def test_the_same_files_are_the_same_bytes(tmp_path: Path) -> None:
    first = tmp_path / "a.py"
    first.write_text("x = 1\n")
    one = archive.pack("a", {"a.py": first, "b.txt": b"b"})
    os.utime(first, (1, 1))
    first.chmod(0o700)
    assert archive.pack("a", {"b.txt": b"b", "a.py": first}) == one


def test_the_manifest_is_first_and_lists_the_others() -> None:
    packed = archive.pack("a", {"b.py": b"", "a.py": b""}, [{"version": "1", "name": "x"}])
    with zipfile.ZipFile(io.BytesIO(packed)) as held:
        assert held.namelist() == ["pollen.json", "a.py", "b.py"]
        assert json.loads(held.read("pollen.json")) == {
            "pollen": 1,
            "main": "a",
            "files": ["a.py", "b.py"],
            "requirements": [{"name": "x", "version": "1"}],
        }


@pytest.mark.parametrize("cap", ["BUNDLE_MAX_BYTES", "UNPACKED_MAX_BYTES", "FILES_MAX"])
def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch, cap: str) -> None:
    monkeypatch.setattr(archive, cap, 1)
    with pytest.raises(PollenError) as caught:
        archive.pack("a", {"a.py": b"12", "b.py": b"34"})
    assert caught.value.slug == "bundle-invalid"


def test_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(PollenError, match="cannot be read"):
        archive.pack("a", {"a.py": tmp_path / "a.py"})
