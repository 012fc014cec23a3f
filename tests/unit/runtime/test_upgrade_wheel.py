"""A wheel is refused for the first thing that is wrong with it, before anything is changed."""

from __future__ import annotations

import platform
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pollen.errors import PollenError
from pollen.recorded import rows_of
from pollen.runtime.upgrade import wheel
from tests import recorder
from tests.wheels import write

INFO = "pollen_mesh-3.1.0.dist-info"
METADATA = "Metadata-Version: 2.1\nName: pollen-mesh\nVersion: 3.1.0\nRequires-Python: >=3.11\n"
GOOD = {
    "pollen/__init__.py": b"",
    f"{INFO}/METADATA": f"{METADATA}Requires-Dist: click>=8\n".encode(),
    f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
}


def made(folder: Path, **changes: bytes) -> Path:
    """The good wheel with some files instead; a key's ``__`` is the slash."""
    path = folder / "made.whl"
    write(path, GOOD | changes, INFO)
    return path


def refused(path: Path) -> str:
    """Why it is."""
    with pytest.raises(PollenError) as held:
        wheel.check(path)
    assert held.value.slug == "wheel-invalid" and held.value.remedy
    recorder.note(held.value.slug)
    return held.value.reason


def test_a_good_wheel_is_read(tmp_path: Path) -> None:
    found = wheel.check(made(tmp_path))
    assert (found.said, found.tags, found.info) == ("3.1.0", "py3-none-any", INFO)
    assert found.size == sum(map(len, GOOD.values()))


def test_the_content_is_the_same_whatever_the_file_is(tmp_path: Path) -> None:
    """What pip adds to RECORD does not count; another byte of the package does."""
    first = wheel.check(made(tmp_path)).content
    with zipfile.ZipFile(tmp_path / "made.whl") as archive:
        rows = rows_of(archive.read(f"{INFO}/RECORD").decode())
    more = {"../../../bin/pln": "sha256=x", f"{INFO}/INSTALLER": "sha256=y", "pollen/a.pyc": ""}
    assert wheel.content_of({**rows, **more}) == first
    assert wheel.check(made(tmp_path, **{"pollen/__init__.py": b"#"})).content != first


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        (f"{INFO}/METADATA", b"Name: other\nVersion: 1\n", "is a wheel of other"),
        (f"{INFO}/METADATA", b"Name: pollen-mesh\nVersion: new\n", "metadata that cannot be read"),
        (f"{INFO}/METADATA", b"\xff", "no readable"),
        (
            f"{INFO}/METADATA",
            METADATA.replace(">=3.11", ">=4").encode(),
            "needs Python >=4",
        ),
        (
            f"{INFO}/METADATA",
            f"{METADATA}Requires-Dist: click>=900\n".encode(),
            "needs click>=900, which is not in this environment",
        ),
        (
            f"{INFO}/METADATA",
            f"{METADATA}Requires-Dist: x; extra == 'y'\nRequires-Dist: nothing-there\n".encode(),
            "needs nothing-there",
        ),
        (f"{INFO}/METADATA", f"{METADATA}Requires-Dist: >>\n".encode(), "cannot be read"),
        (f"{INFO}/WHEEL", b"Tag: cp311-abi3-win_amd64\n", "for another machine"),
        (f"{INFO}/WHEEL", b"Tag: cp299-cp299-any\n", "for another Python"),
        (f"{INFO}/WHEEL", b"Tag: nothing\n", "for another machine"),
        ("other/__init__.py", b"", "also installs 'other'"),
        ("pollen_mesh-3.1.0.data/scripts/x", b"", "also installs 'pollen_mesh-3.1.0.data'"),
        ("pollen_mesh-3.2.0.dist-info/METADATA", b"", "2 folders of metadata"),
        ("pollen/../../evil.py", b"", "leads out of its folder"),
        ("/etc/evil", b"", "leads out of its folder"),
    ],
)
def test_a_wheel_that_is_not_for_this_node_is_refused(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    assert said in refused(made(tmp_path, **{name: data}))


def test_a_link_in_a_wheel_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("pollen/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert "leads out of its folder" in refused(path)


def test_an_encrypted_wheel_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path)
    raw = bytearray(path.read_bytes())
    # The flags of each entry, in its own header and in the directory.
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := raw.find(mark, at + 1)) >= 0:
            raw[at + offset] |= 1
    path.write_bytes(raw)
    assert "encrypted" in refused(path)


def test_a_python_that_was_built_from_a_checkout_has_a_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says 3.12.0+, which no rule of versions knows."""
    monkeypatch.setattr(platform, "python_version", lambda: "3.12.0+")
    assert wheel.check(made(tmp_path)).said == "3.1.0"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    at = raw.index(b"click>=8")
    raw[at] ^= 1
    path.write_bytes(raw)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut, "not a whole zip file"),
        (flip, "not a whole zip file"),
        (empty, "not a whole zip file"),
        (gone, "cannot be read: No such file"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, harm: Callable[[Path], None], said: str) -> None:
    path = made(tmp_path)
    harm(path)
    assert said in refused(path)


def rewritten(folder: Path, record: Callable[[str], str]) -> Path:
    """The good wheel with another RECORD."""
    path, other = made(folder), folder / "other.whl"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(other, "w") as out:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith("RECORD"):
                data = record(data.decode()).encode()
            out.writestr(name, data)
    return other


def test_a_file_that_differs_from_its_record_is_refused(tmp_path: Path) -> None:
    other = rewritten(tmp_path, lambda text: text.replace("sha256=4", "sha256=5", 1))
    assert "has another hash than its RECORD" in refused(other)


def test_a_file_that_its_record_lacks_is_refused(tmp_path: Path) -> None:
    other = rewritten(tmp_path, lambda text: "\n".join(text.splitlines()[1:]))
    assert "pollen/__init__.py is not named in its RECORD" in refused(other)


def test_a_record_that_names_what_is_not_there_is_refused(tmp_path: Path) -> None:
    other = rewritten(tmp_path, lambda text: f"{text}pollen/gone.py,sha256=x,1\n")
    assert "lacks pollen/gone.py" in refused(other)


def test_a_wheel_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel, "UNPACKED_MAX", 10)
    assert "unpacks to more than" in refused(made(tmp_path))
