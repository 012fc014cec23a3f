"""Words become arguments by the signature that a function published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pollen.cli import arguments
from pollen.errors import PollenError

SIGNATURE: dict[str, Any] = {
    "takes": "json",
    "input": {
        "properties": {
            "name": {"type": "string"},
            "times": {"type": "integer"},
            "ratio": {"type": "number"},
            "loud": {"type": "boolean"},
            "tags": {"type": "array"},
            "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "label": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "data": {"type": "string", "contentEncoding": "base64"},
            "colour": {"enum": ["red", 3]},
            "any": {},
        }
    },
}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("name=world", "world"),
        ("name=3", "3"),
        ("name=", ""),
        ("name=a=b", "a=b"),
        ("name=@@home", "@home"),
        ("times=2", 2),
        ("times:=2", 2),
        ("ratio=0.5", 0.5),
        ("ratio=2", 2),
        ("loud=true", True),
        ('tags=["a"]', ["a"]),
        ("maybe=null", None),
        ("maybe=4", 4),
        ("label=null", "null"),
        ("label:=null", None),
        ("data=abc", "YWJj"),
        ("colour=red", "red"),
        ("colour=3", 3),
        ("any=3", "3"),
        ('any:={"a":1}', {"a": 1}),
        ("unknown=x", "x"),
    ],
)
def test_a_word_is_what_the_signature_says(word: str, value: Any) -> None:
    name = word.partition("=")[0].rstrip(":")
    assert json.loads(arguments.encode("f", SIGNATURE, [word])) == {name: value}


@pytest.mark.parametrize(
    ("words", "slug", "told"),
    [
        (["times=x"], "bad-argument", "argument times: expected a whole number, got 'x'"),
        (["times=1.5"], "bad-argument", "argument times: expected a whole number"),
        (["loud=1"], "bad-argument", "argument loud: expected true or false"),
        (["times:=x"], "bad-argument", "times:= is not JSON"),
        (["name=a", "name=b"], "usage", "the argument name is given twice"),
        (["name=a", "plain"], "usage", "'plain' is not an argument"),
    ],
)
def test_a_word_that_cannot_be_meant_is_said(words: list[str], slug: str, told: str) -> None:
    with pytest.raises(PollenError, match=told) as caught:
        arguments.encode("f", SIGNATURE, words)
    assert caught.value.slug == slug


def test_a_file_is_its_text_or_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"\xff\x00")
    assert json.loads(arguments.encode("f", SIGNATURE, [f"data=@{file}"])) == {"data": "/wA="}
    with pytest.raises(PollenError, match="not UTF-8"):
        arguments.encode("f", SIGNATURE, [f"name=@{file}"])
    raw = arguments.encode("f", {"takes": "bytes"}, [f"data=@{file}"])
    assert raw == b"\xff\x00"


@pytest.mark.parametrize(
    ("output", "shown"),
    [(b'"hello"', b"hello"), (b'{"a":1}', b'{"a":1}'), (b"raw", b"raw"), (b"", b"")],
)
def test_text_is_shown_without_its_quotes(output: bytes, shown: bytes) -> None:
    assert arguments.shown(output) == shown


@pytest.mark.parametrize("word", ["a=1", "a:=1", "_x=", "a=b=c", "max-size=3"])
def test_what_has_the_form_of_an_argument(word: str) -> None:
    assert arguments.is_argument(word)


@pytest.mark.parametrize("word", ["a", "=1", "-a=1", "1a=2", '{"a"="b"}', "a b=c", "@a=b"])
def test_what_has_not(word: str) -> None:
    assert not arguments.is_argument(word)
