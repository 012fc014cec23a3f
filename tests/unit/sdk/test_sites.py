"""A folder becomes an archive, and the archive the same folder."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollen.errors import PollenError
from pollen.sdk import sites

PAGE = b"<h1>hello</h1>" * 200
FILES = {
    "index.html": PAGE,
    "404.html": b"gone",
    "docs/a long name.txt": b"",
    "docs/" + "n" * 200 + ".js": b"let x = 1;" * 300,
    "pictures/ü.png": bytes(range(256)) * 9,
}


def written(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    """A folder with these files."""
    for name, body in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(body)
    return folder


def archive_of(folder: Path, **how: Any) -> bytes:
    """Its archive."""
    with sites.packed(folder, sites.Manner(**how)) as file:
        return file.read()


def table_of(archive: bytes) -> tuple[dict[str, Any], int]:
    """The table as a node reads it, and where the files begin to count."""
    assert archive.startswith(b".pollen/site.json\0")
    size = int(archive[124:135], 8)
    return json.loads(archive[512 : 512 + size]), 512 + -(-size // 512) * 512


def refusal(folder: Path, **how: Any) -> str:
    """Why a folder is no site, with the remedy."""
    with pytest.raises(PollenError) as raised, sites.packed(folder, sites.Manner(**how)):
        pass
    assert raised.value.remedy
    return f"{raised.value.reason}: {raised.value.remedy}"


def test_each_file_is_where_the_table_says(tmp_path: Path) -> None:
    archive = archive_of(written(tmp_path), spa=True)
    table, base = table_of(archive)
    assert table["format"] == 1 and table["spa"] is True
    assert table["files"].keys() == FILES.keys()
    for name, entry in table["files"].items():
        start = base + entry["offset"]
        assert archive[start : start + entry["size"]] == FILES[name]
        for how, unpack in (("gzip", gzip.decompress), ("br", brotli.decompress)):
            if how in entry:
                start, size = base + entry[how][0], entry[how][1]
                assert unpack(archive[start : start + size]) == FILES[name]
    for how in ("gzip", "br"):
        packed = [name for name, entry in table["files"].items() if how in entry]
        assert packed == ["docs/" + "n" * 200 + ".js", "index.html"]
    assert table["files"]["index.html"]["type"] == "text/html; charset=utf-8"
    assert table["files"]["pictures/ü.png"]["type"] == "image/png"


def test_the_archive_is_a_tar_file_that_any_program_reads(tmp_path: Path) -> None:
    archive = archive_of(written(tmp_path))
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        names = [name for name in members.getnames() if not name.startswith(".pollen/")]
        assert names == sorted(FILES)


def test_what_gains_little_is_not_packed(tmp_path: Path) -> None:
    """Text that is small, or like noise; brotli goes only where it is smaller than gzip."""
    noise = random.Random(1).randbytes(9_000)
    packs = {
        "small.txt": (b"a" * 1_023, set()),
        "large.txt": (b"a" * 1_024, {"gzip", "br"}),
        "noise.txt": (noise, set()),
        "picture.png": (b"a" * 9_000, set()),
        "logo.svg": (b"<svg></svg>" * 900, {"gzip", "br"}),
    }
    folder = written(tmp_path, {name: body for name, (body, _) in packs.items()})
    table, _ = table_of(archive_of(folder))
    for name, (_, forms) in packs.items():
        entry = table["files"][name]
        assert entry.keys() & {"gzip", "br"} == forms, name
        assert not forms or entry["br"][1] < entry["gzip"][1] < entry["size"]


def test_a_large_folder_is_packed_in_less_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text is packed a little less well, and alike each time."""
    rows = "".join(f"row {n * n % 977} of {n}\n" for n in range(9_000)).encode()
    folder = written(tmp_path, {"a.txt": rows})
    best = table_of(archive_of(folder))[0]["files"]["a.txt"]["br"][1]
    monkeypatch.setattr(sites, "_BEST_MOST", len(rows) - 1)
    quick = archive_of(folder)
    assert table_of(quick)[0]["files"]["a.txt"]["br"][1] > best
    assert archive_of(folder) == quick


def test_the_same_folder_is_the_same_archive(tmp_path: Path) -> None:
    one = archive_of(written(tmp_path / "one"))
    other = written(tmp_path / "other", dict(reversed(FILES.items())))
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
    assert archive_of(other) == one
    (other / "404.html").write_bytes(b"gome")
    assert archive_of(other) != one


def test_an_archive_becomes_the_folder_again(tmp_path: Path) -> None:
    folder = written(tmp_path / "from")
    (folder / "run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "run.sh").chmod(0o700)
    (tmp_path / "to").mkdir()
    assert sites.unpack(io.BytesIO(archive_of(folder)), tmp_path / "to") == len(FILES) + 1
    back = {
        str(path.relative_to(tmp_path / "to")): path.read_bytes()
        for path in (tmp_path / "to").rglob("*")
        if path.is_file()
    }
    assert back == FILES | {"run.sh": b"#!/bin/sh\n"}
    assert os.access(tmp_path / "to" / "run.sh", os.X_OK)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (".env", "is a hidden file"),
        ("docs/.git/config", "is a hidden file"),
        ("a\nb.html", "has a control character"),
        ("a\\b.html", "has a backslash"),
        ("nul.txt", "has the name of a device"),
        ("docs/COM1", "has the name of a device"),
        (".pollen/site.json", "is a hidden file"),
    ],
)
def test_a_file_that_cannot_be_everywhere_is_refused(tmp_path: Path, name: str, told: str) -> None:
    assert told in refusal(written(tmp_path, {"index.html": b"", name: b""}))


def test_a_hidden_file_belongs_to_it_when_asked_for(tmp_path: Path) -> None:
    files = {"index.html": b"", ".well-known/security.txt": b"me"}
    table, _ = table_of(archive_of(written(tmp_path, files), dot_files=True))
    assert table["files"].keys() == files.keys()
    written(tmp_path, {".pollen/site.json": b"{}"})
    assert "where the table is" in refusal(tmp_path, dot_files=True)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no file" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "nowhere")


def test_links_and_pipes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link.html").symlink_to("/etc/passwd")
    assert "is a link" in refusal(tmp_path)
    (tmp_path / "link.html").unlink()
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refusal(tmp_path)


def test_a_link_is_what_it_names_when_asked_for(tmp_path: Path) -> None:
    """A file or a folder of the site, by both of its names."""
    folder = written(tmp_path / "public", {"index.html": PAGE, "v2/app.js": b"app()"})
    (folder / "home.html").symlink_to("index.html")
    (folder / "latest").symlink_to("v2")
    (folder / "again").symlink_to(folder / "latest")
    table, _ = table_of(archive_of(folder, links=True))
    files = {name: entry["tag"] for name, entry in table["files"].items()}
    assert files.keys() == {
        "index.html",
        "home.html",
        "v2/app.js",
        "latest/app.js",
        "again/app.js",
    }
    assert files["home.html"] == files["index.html"]
    assert files["latest/app.js"] == files["again/app.js"] == files["v2/app.js"]


@pytest.mark.parametrize(
    ("name", "target", "told"),
    [
        ("out.html", "/etc/passwd", "leads out of the folder"),
        ("up.html", "../secret.txt", "leads out of the folder"),
        ("beside", "../public2", "leads out of the folder"),
        ("none.html", "nothing.html", "names nothing"),
        ("itself.html", "itself.html", "names nothing"),
        ("docs/all", "..", "a folder that it is in"),
        ("docs/here", ".", "a folder that it is in"),
        # Read before what it names.
        ("!env.txt", ".hidden/env", "names a hidden file"),
    ],
)
def test_a_link_to_what_is_no_part_of_it_is_refused(
    tmp_path: Path, name: str, target: str, told: str
) -> None:
    folder = written(tmp_path / "public", {"index.html": PAGE, "docs/a.html": b"a"})
    written(tmp_path, {"secret.txt": b"secret", "public2/a.html": b"a"})
    if target.startswith(".hidden"):
        written(folder, {target: b"key"})
    (folder / name).symlink_to(target)
    assert told in refusal(folder, links=True)


def test_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    folder = written(tmp_path, {"a/index.html": PAGE, "b/index.html": PAGE})
    (folder / "a" / "other").symlink_to("../b")
    (folder / "b" / "other").symlink_to("../a")
    assert "a folder that it is in" in refusal(folder, links=True)


def test_names_that_differ_in_case_or_form_alone_are_refused(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "ü.html") for form in ("NFC", "NFD")]
    for one, other in (("A.html", "a.html"), (forms[0], forms[1])):
        folder = tmp_path / str(len(one.encode())) / one[:1]
        assert "are one where case" in refusal(written(folder, {one: b"", other: b""}))


def test_a_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.html")).write_bytes(b"")
    assert "is not UTF-8" in refusal(tmp_path)


def test_a_file_that_changes_meanwhile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    copy = sites.shutil.copyfileobj

    def slow(source: Any, target: Any, size: int) -> None:
        with (tmp_path / "index.html").open("ab") as file:
            file.write(b"more")
        copy(source, target, size)

    monkeypatch.setattr(sites.shutil, "copyfileobj", slow)
    assert "changed while it was read" in refusal(tmp_path)


def tar_of(*members: tuple[str, bytes, bytes]) -> bytes:
    """A tar file of names, types and bodies."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, body in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(body), "/etc/passwd"
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


TABLE = (sites.TABLE, tarfile.REGTYPE, b"{}")


@pytest.mark.parametrize(
    ("archive", "told"),
    [
        (b"", "cannot be read"),
        (b"x" * 2048, "cannot be read"),
        (tar_of(("a", tarfile.REGTYPE, b"")), "does not begin with a table"),
        (tar_of(TABLE), "has no file"),
        (tar_of(TABLE, TABLE), "does not begin with a table"),
        (tar_of(TABLE, ("../a", tarfile.REGTYPE, b"")), "a part that is empty, . or .."),
        (tar_of(TABLE, ("/etc/a", tarfile.REGTYPE, b"")), "begins with a slash"),
        (tar_of(TABLE, ("a//b", tarfile.REGTYPE, b"")), "a part that is empty, . or .."),
        (tar_of(TABLE, ("a", tarfile.SYMTYPE, b"")), "is not a file"),
        (tar_of(TABLE, ("a", tarfile.LNKTYPE, b"")), "is not a file"),
        (tar_of(TABLE, ("a", tarfile.DIRTYPE, b"")), "is not a file"),
        (tar_of(TABLE, ("a", tarfile.REGTYPE, b""), ("A", tarfile.REGTYPE, b"")), "are one"),
        (tar_of(TABLE, ("con", tarfile.REGTYPE, b"")), "a device"),
        (tar_of(TABLE, ("a", tarfile.REGTYPE, b"x" * 4000))[:2600], "cannot be read"),
    ],
)
def test_an_archive_that_is_no_site_is_refused(tmp_path: Path, archive: bytes, told: str) -> None:
    with pytest.raises(PollenError) as raised:
        sites.unpack(io.BytesIO(archive), tmp_path)
    assert raised.value.slug == "bundle-invalid" and raised.value.remedy
    assert told in raised.value.reason
    assert not (tmp_path.parent / "a").exists()


@given(st.binary(max_size=3000))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    folder = tmp_path_factory.mktemp("noise")
    for archive in (noise, tar_of(TABLE, ("a", tarfile.REGTYPE, noise))[:-1536] + noise):
        try:
            sites.unpack(io.BytesIO(archive), folder)
        except PollenError as error:
            assert error.slug == "bundle-invalid"
        (folder / "a").unlink(missing_ok=True)


def test_headers_stand_in_the_table(tmp_path: Path) -> None:
    folder = written(tmp_path)
    headers = ("X-Frame-Options: DENY", "cache-control:no-store ", "X-Colon: a: b")
    table, _ = table_of(archive_of(folder, headers=headers))
    assert table["headers"] == [
        ["x-frame-options", "DENY"],
        ["cache-control", "no-store"],
        ["x-colon", "a: b"],
    ]
    assert table_of(archive_of(folder))[0]["headers"] == []


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        (("no colon",), "is not NAME: VALUE"),
        (("a b: c",), "is not NAME: VALUE"),
        ((": c",), "is not NAME: VALUE"),
        (("Content-Length: 3",), "not for a site"),
        (("SET-COOKIE: a=b",), "not for a site"),
        (("x: a\r\ny: b",), "printable ASCII"),
        (("x: ü",), "printable ASCII"),
        (("x: " + "a" * 4096,), "printable ASCII"),
        (("x: a", "X: b"), "twice"),
        (tuple(f"x-{n}: a" for n in range(33)), "33 headers"),
    ],
)
def test_a_header_that_a_site_may_not_say_is_refused(
    headers: tuple[str, ...], word: str, tmp_path: Path
) -> None:
    assert word in refusal(written(tmp_path), headers=headers)


VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "site_headers.json").read_text())


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: repr(case["header"]))
def test_a_header_is_for_a_site_to_say_or_not(case: dict[str, Any]) -> None:
    """As the node that reads the table judges it."""
    name, value = case["header"]
    try:
        assert sites.headers_of([f"{name}: {value}"]) == [(name, value)]
    except PollenError as error:
        assert error.slug == "usage" and not case["is_taken"]
    else:
        assert case["is_taken"]


def test_both_sides_list_the_same_headers() -> None:
    assert sorted(sites._NOT_FOR_SITES) == VECTORS["not_for_sites"]
    assert VECTORS["headers_max"] == sites.HEADERS_MAX
