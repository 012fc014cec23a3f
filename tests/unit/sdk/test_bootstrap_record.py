"""A wheel that is given to bootstrap is what its RECORD says, or is refused before any machine."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pollen.cli import rollout
from pollen.cli.verbs.bootstrap import readable
from pollen.errors import PollenError
from pollen.runtime.upgrade import wheel
from pollen.sdk.bootstrap import bundle, wheels
from tests.unit.sdk.test_bootstrap_wheels import OURS, make_wheel


def test_a_wheel_with_a_file_that_its_record_does_not_list_is_refused(tmp_path: Path) -> None:
    """No hash vouches for it, and it would be installed all the same."""
    for name in ("y.py", "x.dist-info/more"):
        make_wheel(tmp_path / OURS)
        with zipfile.ZipFile(tmp_path / OURS, "a") as archive:
            archive.writestr(name, "x = 1")
        with pytest.raises(PollenError, match=f"{name} is not named in its RECORD") as caught:
            wheels.check_file(tmp_path / OURS)
        assert caught.value.slug == "usage" and caught.value.remedy


def test_a_wheel_with_a_file_that_no_hash_vouches_for_is_refused(tmp_path: Path) -> None:
    """Only RECORD itself has none; and what RECORD names is there."""
    for row, said in (
        ("x.py,,\n", "x.py is not named"),
        ("x.py,sha256=a,1\ny.py,,\n", "lacks y.py"),
    ):
        with zipfile.ZipFile(tmp_path / OURS, "w") as archive:
            archive.writestr("x.py", "x = 1")
            archive.writestr("x.dist-info/RECORD", f"{row}x.dist-info/RECORD,,\n")
        with pytest.raises(PollenError, match=said):
            wheels.check_file(tmp_path / OURS)


def test_a_wheel_that_is_encrypted_is_refused(tmp_path: Path) -> None:
    make_wheel(tmp_path / OURS)
    raw = bytearray((tmp_path / OURS).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := raw.find(mark, at + 1)) >= 0:
            raw[at + offset] |= 1
    (tmp_path / OURS).write_bytes(raw)
    with pytest.raises(PollenError, match="is damaged") as caught:
        wheels.check_file(tmp_path / OURS)
    assert caught.value.slug == "usage"


def test_memory_does_not_follow_the_size_of_a_file_in_a_wheel(tmp_path: Path) -> None:
    """A file of 64 MiB of zeros is 64 kB in the wheel."""
    data = bytes(1 << 26)
    with zipfile.ZipFile(tmp_path / OURS, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.py", data)
        listed = f"x.py,{wheels.hash_of(data)},5\nx.dist-info/RECORD,,\n"
        archive.writestr("x.dist-info/RECORD", listed)
    del data
    tracemalloc.start()
    try:
        assert wheels.check_file(tmp_path / OURS) == "0.1.0"
        wheels.content_of((tmp_path / OURS).read_bytes())
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_a_wheel_that_cannot_be_read_is_named_in_the_same_words_by_each_verb(
    tmp_path: Path,
) -> None:
    """Each verb keeps its own slug; no machine is asked before."""
    gone = tmp_path / OURS

    def opened() -> None:
        with rollout.opened(str(gone)):
            pass

    ways: list[tuple[str, Callable[[], object]]] = [
        ("usage", lambda: readable(str(gone), is_folder=False)),
        ("usage", lambda: readable(str(gone), is_folder=True)),
        ("usage", bundle.Bundles(gone, None).prepare),
        ("wheel-invalid", lambda: wheel.check(gone)),
        ("wheel-invalid", opened),
    ]
    for slug, way in ways:
        with pytest.raises(PollenError) as caught:
            way()
        assert caught.value.reason == f"{gone} cannot be read: No such file or directory"
        assert caught.value.slug == slug and caught.value.remedy
    with pytest.raises(PollenError, match="cannot be read: Is a directory"):
        readable(str(tmp_path), is_folder=False)
    gone.write_bytes(b"")
    with pytest.raises(PollenError, match="cannot be read: Not a directory"):
        readable(str(gone), is_folder=True)
    assert readable(str(gone), is_folder=False) == gone
    assert readable(str(tmp_path), is_folder=True) == tmp_path
    assert readable(None, is_folder=True) is None
