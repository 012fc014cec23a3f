"""Packages come as wheels of pure Python from a folder that stands for an index."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from pollen.errors import PollenError
from pollen.sdk.python import requirements

PURE, NATIVE = "py3-none-any", "cp314-cp314-manylinux_2_17_x86_64"


def wheel(
    folder: Path,
    name: str,
    version: str,
    tag: str = PURE,
    files: dict[str, str] | None = None,
    needs: str = "",
) -> Path:
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    requires = f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(path, "w") as archive:
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
        for place, text in (files or {f"{name}/__init__.py": "X = 1\n"}).items():
            archive.writestr(place, text)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return folder


def test_wheels_become_files_with_versions_and_hashes(index: Path) -> None:
    pure = wheel(index, "outer", "1.2", needs="inner>=2")
    wheel(index, "inner", "2.0")
    wheel(index, "inner", "1.0")
    said: list[str] = []
    files, locked = requirements.resolve(["outer"], None, said.append)
    assert {name for name in files if name.endswith(".py")} == {
        ".deps/outer/__init__.py",
        ".deps/inner/__init__.py",
    }
    assert ".deps/outer-1.2.dist-info/METADATA" in files
    assert ".deps/outer-1.2.dist-info/RECORD" not in files
    assert [(one.name, one.version) for one in locked] == [("inner", "2.0"), ("outer", "1.2")]
    assert locked[1].sha256 == hashlib.sha256(pure.read_bytes()).hexdigest()
    assert said[1:] == ["  inner 2.0", "  outer 1.2"]


def test_a_requirements_file_is_taken(index: Path, tmp_path: Path) -> None:
    wheel(index, "outer", "1.2")
    file = tmp_path / "requirements.txt"
    file.write_text("outer==1.2\n")
    files, _ = requirements.resolve([], file)
    assert ".deps/outer/__init__.py" in files


def test_nothing_is_asked_for_nothing() -> None:
    assert requirements.resolve([], None) == ({}, [])


def test_a_package_with_native_code_alone_is_named_with_a_remedy(index: Path) -> None:
    wheel(index, "fast", "1.0", NATIVE)
    with pytest.raises(PollenError) as caught:
        requirements.resolve(["fast"], None)
    assert caught.value.slug == "usage"
    assert "fast has no wheel of pure Python" in caught.value.reason
    assert "pure Python in its place" in caught.value.remedy


def test_a_dependency_with_native_code_alone_is_named(index: Path) -> None:
    wheel(index, "page", "1.0", needs="speed>=1")
    wheel(index, "page", "1.1", needs="speed>=1")
    wheel(index, "speed", "1.0", NATIVE)
    with pytest.raises(PollenError, match=r"speed") as caught:
        requirements.resolve(["page"], None)
    assert "native code" in caught.value.reason + caught.value.remedy


def test_a_package_that_does_without_its_native_part_is_taken_so(index: Path) -> None:
    """With the hash of the wheel as its author made it, also as somebody's dependency."""
    tag = "cp314-cp314-manylinux_2_17_x86_64"
    files = {"markupsafe/__init__.py": "X = 1\n", "markupsafe/_speedups.so": "ELF"}
    made = wheel(index, "markupsafe", "3.0", tag, files)
    wheel(index, "markupsafe", "2.0", tag, files)
    wheel(index, "page", "1.0", needs="MarkupSafe>=2")
    for wants in (["page"], ["MarkupSafe"], ["page", "markupsafe==3.0"]):
        held, locked = requirements.resolve(wants, None)
        assert ".deps/markupsafe/__init__.py" in held
        assert not any(name.endswith(".so") for name in held)
        (one,) = [one for one in locked if one.name == "markupsafe"]
        assert (one.version, one.sha256) == ("3.0", hashlib.sha256(made.read_bytes()).hexdigest())
    _, locked = requirements.resolve(["markupsafe<3"], None)
    assert locked[0].version == "2.0"


def test_a_fallback_without_any_wheel_is_named(index: Path) -> None:
    wheel(index, "page", "1.0", needs="markupsafe>=2")
    with pytest.raises(PollenError, match="markupsafe"):
        requirements.resolve(["page"], None)


def test_what_the_runner_has_is_not_in_the_bundle(index: Path) -> None:
    wheel(index, "outer", "1.2", needs="tzdata")
    wheel(index, "tzdata", "2026.6")
    files, locked = requirements.resolve(["outer"], None)
    assert [one.name for one in locked] == ["outer"]
    assert not any("tzdata/" in name for name in files)


def test_a_wheel_that_says_pure_and_is_not_is_named(index: Path) -> None:
    wheel(index, "liar", "1.0", files={"liar/_speed.so": "ELF"})
    with pytest.raises(PollenError, match=r"liar 1\.0 has no wheel of pure Python"):
        requirements.resolve(["liar"], None)


def test_an_old_version_is_not_taken_for_a_new_one(index: Path) -> None:
    wheel(index, "model", "1.10")
    wheel(index, "model", "2.1", NATIVE)
    with pytest.raises(PollenError, match=r"model 2\.1 needs native code; 1\.10 is the newest"):
        requirements.resolve(["model"], None)
    _, locked = requirements.resolve(["model<2"], None)
    assert [one.version for one in locked] == ["1.10"]


@pytest.mark.parametrize("want", ["--index-url=https://me:secret@host/", "x @ https://a:b@c/x"])
def test_options_and_addresses_are_no_packages_and_are_not_repeated(want: str) -> None:
    with pytest.raises(PollenError) as caught:
        requirements.resolve([want], None)
    assert "secret" not in str(caught.value) and "a:b" not in str(caught.value)
    assert caught.value.slug == "usage"


def test_what_pip_says_of_an_index_keeps_no_address() -> None:
    error = requirements._unresolved("ERROR: Could not reach https://me:secret@host/simple/\n")
    assert "secret" not in error.reason
    assert "ADDRESS" in error.reason


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a/b.py", "a/b.py"),
        ("a-1.data/purelib/b.py", "b.py"),
        ("a-1.data/scripts/b", None),
        ("../x.py", None),
        ("/x.py", None),
        ("a/b.pyc", None),
        ("a-1.dist-info/entry_points.txt", "a-1.dist-info/entry_points.txt"),
    ],
)
def test_a_wheels_files_go_where_an_installation_has_them(name: str, place: str | None) -> None:
    assert requirements._place_of(name) == place
