"""What a source is, which files belong to it, and what is said of a source that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pollen.errors import PollenError
from pollen.sdk.python.kinds import find_source, header_of, kind_of


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"pyproject.toml": ""}, "python"),
        ({"__main__.py": ""}, "python"),
        ({"__init__.py": ""}, "python"),
        ({"index.html": ""}, "site"),
    ],
)
def test_a_folder_is_what_it_holds(tmp_path: Path, files: dict[str, str], kind: str) -> None:
    assert kind_of(str(lay(tmp_path, files))) == kind


@pytest.mark.parametrize("files", [{"index.html": "", "__init__.py": ""}, {"a.txt": ""}])
def test_both_or_neither_is_ambiguous_and_lists_kind(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(PollenError) as caught:
        kind_of(str(lay(tmp_path, files)))
    assert caught.value.slug == "ambiguous"
    assert "--kind python, or --kind site" in caught.value.remedy
    assert kind_of(str(tmp_path), "python") == "python"


@pytest.mark.parametrize(
    ("name", "kind"), [("a.wasm", "module"), ("a.wat", "module"), ("a.py", "python")]
)
def test_a_file_is_what_its_name_says(name: str, kind: str) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize("name", ["a.txt", "absent", "a.pyc", "-"])
def test_another_file_is_a_blob(name: str) -> None:
    assert kind_of(name) == "blob"


def test_a_file_that_begins_as_a_module_is_one(tmp_path: Path) -> None:
    for name, begin, kind in [("a.out", b"\0asm\1\0", "module"), ("b.out", b"\0as", "blob")]:
        (tmp_path / name).write_bytes(begin)
        assert kind_of(str(tmp_path / name)) == kind
    assert kind_of(str(tmp_path / "a.out"), "blob") == "blob"


def test_a_file_is_its_own_main_and_wants_what_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "hello.py"
    path.write_text('# /// script\n# dependencies = [\n#   "attrs",\n# ]\n# ///\nx = 1\n')
    found = find_source(str(path))
    assert (found.name, found.main, found.requirements) == ("hello", "hello", ["attrs"])
    assert found.files == {"hello.py": path}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# /// script\n# dependencies = 3\n# ///\n", "is not a list of texts"),
        ("# /// script\n# dependencies = [\n# ///\n", "is not TOML"),
        ("# /// script\n# a = 1\n# ///\n\n# /// script\n# a = 1\n# ///\n", "has 2 headers"),
    ],
)
def test_a_header_that_cannot_be_read_is_said(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "a.py"
    path.write_text(text)
    with pytest.raises(PollenError, match=told):
        header_of(path)


@pytest.mark.parametrize(
    ("name", "told"), [("my-seed.py", "rename it: my_seed.py"), ("absent.py", "name a file")]
)
def test_a_file_that_cannot_be_a_module_is_said(tmp_path: Path, name: str, told: str) -> None:
    if not name.startswith("absent"):
        (tmp_path / name).write_text("")
    with pytest.raises(PollenError) as caught:
        find_source(str(tmp_path / name))
    assert told in caught.value.remedy


def test_a_package_folder_keeps_its_name_and_leaves_tools_out(tmp_path: Path) -> None:
    root = lay(
        tmp_path / "pack",
        {
            "__init__.py": "",
            "inner/a.py": "",
            "data.txt": "",
            "__pycache__/a.pyc": "",
            ".git/x": "",
            "build/x": "",
            "native.so": "",
        },
    )
    found = find_source(str(root))
    assert found.main == "pack"
    assert sorted(found.files) == ["pack/__init__.py", "pack/data.txt", "pack/inner/a.py"]


def test_a_folder_with_a_main_is_a_set_of_modules(tmp_path: Path) -> None:
    found = find_source(str(lay(tmp_path, {"__main__.py": "", "help.py": ""})))
    assert (found.main, sorted(found.files)) == ("__main__", ["__main__.py", "help.py"])


@pytest.mark.parametrize("place", ["src/my_app/__init__.py", "my_app/__init__.py", "my_app.py"])
def test_a_project_is_found_by_its_name(tmp_path: Path, place: str) -> None:
    text = '[project]\nname = "my-app"\ndependencies = ["rich>=13"]\n'
    found = find_source(str(lay(tmp_path, {"pyproject.toml": text, place: "", "tests/t.py": ""})))
    assert (found.name, found.main) == ("my-app", "my_app")
    assert found.requirements == ["rich>=13"]
    assert list(found.files) == [place.removeprefix("src/")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[project]\n", "has no project.name"),
        ('[project]\nname = "x"\n', "has no package x"),
        ("[", "is not TOML"),
        ('[project]\nname = "x"\ndependencies = "y"\n', "is not a list of texts"),
    ],
)
def test_a_project_that_cannot_be_read_is_said(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(PollenError, match=told):
        find_source(str(lay(tmp_path, {"pyproject.toml": text})))


def test_a_link_out_of_the_folder_is_an_error(tmp_path: Path) -> None:
    root = lay(tmp_path / "pack", {"__init__.py": ""})
    (root / "secret").symlink_to("/etc/hostname")
    with pytest.raises(PollenError, match="leads out of the folder"):
        find_source(str(root))


def test_a_folder_of_several_modules_is_asked_which(tmp_path: Path) -> None:
    assert find_source(str(lay(tmp_path, {"one.py": ""}))).main == "one"
    with pytest.raises(PollenError, match="which of its 2 modules"):
        find_source(str(lay(tmp_path, {"two.py": ""})))


def test_a_package_is_found_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, {"pack/__init__.py": "", "pack/inner.py": "", "src/flat.py": ""})
    monkeypatch.chdir(tmp_path)
    found = find_source("pack.inner", is_package=True)
    assert (found.name, found.main) == ("inner", "pack.inner")
    assert sorted(found.files) == ["pack/__init__.py", "pack/inner.py"]
    assert find_source("flat", is_package=True).main == "flat"
    for name, told in (("absent_here", "no package"), ("pack.x", "no module"), ("a-b", "not the")):
        with pytest.raises(PollenError, match=told):
            find_source(name, is_package=True)
