"""A seed's own files and its dependencies are imported from the bundle; what it says of itself."""

from __future__ import annotations

import json

import pytest

from tests.unit.runner.stage import bundles, calls, seeded


def test_packages_modules_and_bare_folders_are_imported() -> None:
    files = {
        "hello.py": "import pack.inner, bare.leaf, dep, sys\n"
        "def go(): return [pack.inner.X, bare.leaf.X, dep.X, pack.__file__]\n",
        "pack/__init__.py": "",
        "pack/inner.py": "from . import other\nX = other.X\n",
        "pack/other.py": "X = 1\n",
        "bare/leaf.py": "X = 2\n",
        ".deps/dep/__init__.py": "from .part import X\n",
        ".deps/dep/part.py": "X = 3\n",
    }
    with seeded(files):
        assert json.loads(calls.handle("go", b"")) == [1, 2, 3, "/seed/pack/__init__.py"]


def test_the_seeds_own_module_wins_over_a_dependency() -> None:
    files = {
        "hello.py": "import six\ndef go(): return six.X\n",
        "six.py": "X = 'own'\n",
        ".deps/six.py": "X = 'theirs'\n",
    }
    with seeded(files):
        assert calls.handle("go", b"") == b'"own"'


def test_compiled_code_is_taken_and_its_source_is_in_the_traceback() -> None:
    source = "def go():\n    return 1 / 0  # here\n"
    with seeded(source) as node:
        node.files["hello.pyc"] = calls.compile_source("hello.py", source.encode())
        with pytest.raises(calls.Failure) as caught:
            calls.handle("go", b"")
    assert 'File "hello.py", line 2, in go\n    return 1 / 0  # here' in caught.value.text


def test_a_main_of_that_name_runs_no_program() -> None:
    source = "def go(): return __name__\nif __name__ == '__main__':\n    raise SystemExit\n"
    with seeded({"__main__.py": source}, "__main__"):
        assert calls.handle("go", b"") == b'"__seed__"'


def test_data_files_and_versions_of_dependencies_are_found() -> None:
    files = {
        "hello.py": "import importlib.resources, importlib.metadata, pkgutil\n"
        "def go():\n"
        "    place = importlib.resources.files('pack')\n"
        "    text = pkgutil.get_data('pack', 'a.txt').decode()\n"
        "    return [place.joinpath('a.txt').read_text(), text,"
        " importlib.metadata.version('Some.Dep'), sorted(p.name for p in place.iterdir())]\n",
        "pack/__init__.py": "",
        "pack/a.txt": "data",
        ".deps/some_dep-1.2.dist-info/METADATA": "Name: some-dep\nVersion: 1.2\n",
    }
    with seeded(files):
        assert json.loads(calls.handle("go", b"")) == [
            "data",
            "data",
            "1.2",
            ["__init__.py", "a.txt"],
        ]


def test_a_syntax_error_is_told_with_its_line() -> None:
    with pytest.raises(calls.Failure) as caught:
        calls.compile_source("pkg/bad.py", b"x = 1\ndef f(:\n    pass\n")
    assert 'File "pkg/bad.py", line 2' in caught.value.text
    assert "SyntaxError" in caught.value.text
    assert calls.compile_source(".deps/old.py", b"print 'python 2'") == b""


def test_an_import_that_fails_is_told_with_its_line() -> None:
    with seeded("import os\nimport nothing_like_this\n"), pytest.raises(calls.Failure) as caught:
        calls.describe()
    assert 'File "hello.py", line 2' in caught.value.text
    assert "No module named 'nothing_like_this'" in caught.value.text


def test_a_module_without_functions_says_so() -> None:
    with seeded("x = 1\n"), pytest.raises(calls.Failure) as caught:
        calls.describe()
    assert "hello.py has no public function" in caught.value.text


def test_the_description_has_signature_schema_and_docs() -> None:
    source = '''"""Greets."""
import typing
def greet(name: str, times: int = 1, *, loud: bool | None = None) -> str:
    """Say hello."""
    return name * times
def count(n: int) -> typing.Iterator[int]:
    yield from range(n)
def raw(data: bytes) -> bytes: return data
'''
    with seeded(source):
        held = json.loads(calls.describe())
    assert held["doc"] == "Greets."
    greet = held["functions"]["greet"]
    assert greet["signature"] == "(name: str, times: int = 1, *, loud: bool | None = None) -> str"
    assert greet["doc"] == "Say hello."
    assert greet["order"] == ["name", "times"]
    assert greet["input"] == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "times": {"type": "integer", "default": 1},
            "loud": {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": None},
        },
        "required": ["name"],
        "additionalProperties": False,
    }
    assert (greet["takes"], greet["gives"], greet["returns"]) == (
        "json",
        "json",
        {"type": "string"},
    )
    assert held["functions"]["count"]["gives"] == "stream"
    assert held["functions"]["count"]["returns"] == {"type": "integer"}
    raw = held["functions"]["raw"]
    assert (raw["takes"], raw["gives"]) == ("bytes", "bytes")


def test_an_annotation_that_names_nothing_is_told() -> None:
    source = "from __future__ import annotations\ndef f(a: Absent): pass\n"
    with seeded(source), pytest.raises(calls.Failure) as caught:
        calls.describe()
    assert "an annotation of f names what is not there: name 'Absent' is not defined" in (
        caught.value.text
    )


def test_a_path_out_of_the_bundle_is_nowhere() -> None:
    with seeded("def f(): pass\n"):
        bundles.bundle.open()
        with pytest.raises(FileNotFoundError):
            bundles.bundle.get_data("/etc/passwd")
