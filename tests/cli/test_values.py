"""What people type: quantities with units, inputs, module files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import EXAMPLES, Pln


@pytest.mark.parametrize("text", ["5", "0", "5x", "s", "-1s", "1e3s", ""])
def test_a_duration_needs_its_unit(pln: Pln, text: str) -> None:
    done = pln("invite", f"--ttl={text}")
    assert done.returncode == 2
    assert b"write a unit: ms, s, m, h, d" in done.stderr


@pytest.mark.parametrize("text", ["64", "0", "64M", "MiB", "1.5.5GB"])
def test_a_size_needs_its_unit(pln: Pln, text: str) -> None:
    done = pln("seed", "x.wasm", f"--memory={text}")
    assert done.returncode == 2
    assert b"write a unit: B, kB, MB" in done.stderr


def test_a_quantity_is_above_nothing(pln: Pln) -> None:
    assert b"'0s' is below 1 ms" in pln("invite", "--ttl=0s").stderr
    assert b"'0B' is below 1 byte" in pln("seed", "x.wasm", "--memory=0B").stderr


def test_a_pair_needs_its_equals_sign(pln: Pln) -> None:
    done = pln("seed", "x.wasm", "--config", "key")
    assert done.returncode == 2
    assert b"is not key=value" in done.stderr


def test_configuration_comes_in_pairs_or_from_a_file(up: Pln, tmp_path: Path) -> None:
    """What is given last wins."""
    file = tmp_path / "guest.toml"
    file.write_text('greeting = "hello"\nplace = "attic"\n')
    line = ["seed", str(EXAMPLES / "echo.wasm"), "configured"]
    up.ok(*line, "--config", f"@{file}", "--config", "place=cellar", "--config", "mark=!")
    try:
        options = json.loads(up.ok("inspect", "configured", "--json"))["options"]
        assert sorted(options["config"]) == ["greeting", "mark", "place"]
    finally:
        up.ok("unseed", "configured")


@pytest.mark.parametrize(
    ("text", "said"), [("key = 5", b"write it in quotes"), ("key", b"is not TOML")]
)
def test_a_configuration_file_holds_texts(pln: Pln, tmp_path: Path, text: str, said: bytes) -> None:
    file = tmp_path / "guest.toml"
    file.write_text(text)
    for given in (f"@{file}", "@/nonexistent"):
        done = pln("seed", "x.wasm", "--config", given)
        assert done.returncode == 2
        assert (said if given != "@/nonexistent" else b"cannot be read") in done.stderr


def test_properties_come_in_pairs_or_as_one_object(pln: Pln, tmp_path: Path) -> None:
    """At init as at invite and grant: pairs, a file, or standard input."""
    held = tmp_path / "props.json"
    held.write_text('{"zone": "garden",\n "team": ["red", "blue"]}')
    made = pln("init", "--name", "attic", "--prop", f"@{held}")
    assert made.returncode == 0, made.stderr
    assert pln("up", "-d").returncode == 0
    try:
        shown = json.loads(pln.ok("props", "--json"))
        assert shown == {"zone": "garden", "team": ["red", "blue"]}
        token = pln("invite", "--prop", "-", stdin=b'{"zone":"shed"}')
        assert token.returncode == 0, token.stderr
    finally:
        pln("down", "--force")


@pytest.mark.parametrize(
    ("text", "said"),
    [("zone: garden", b"is not JSON"), ("[1]", b"is not a JSON object"), ("", b"is not JSON")],
)
def test_properties_that_are_no_object_are_refused(
    pln: Pln, tmp_path: Path, text: str, said: bytes
) -> None:
    held = tmp_path / "props.json"
    held.write_text(text)
    for line in (["init"], ["invite"], ["grant", "pi"]):
        done = pln(*line, "--prop", f"@{held}")
        assert done.returncode == 2 and said in done.stderr, (line, done.stderr)
    both = pln("init", "--prop", f"@{held}", "--prop", "zone=garden")
    assert both.returncode == 2 and b"leave the others out" in both.stderr


def test_an_input_is_text_stdin_or_a_file(up: Pln, tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"\x00from a file\xff")
    assert up("call", "echo", "echo", "as it is").stdout == b"as it is"
    assert up("call", "echo", "echo", "-", stdin=b"from\xff stdin").stdout == b"from\xff stdin"
    assert up("call", "echo", "-", stdin=b"one export").stdout == b"one export"
    assert up("call", "echo", "echo", f"@{file}").stdout == file.read_bytes()
    assert up("call", "echo", "echo", "@@literal").stdout == b"@literal"
    assert up("call", "echo").stdout == b""


def test_stdin_is_read_only_when_it_is_asked_for(up: Pln) -> None:
    assert up("call", "echo", "echo", stdin=b"not asked for").stdout == b""


def test_an_input_file_that_is_not_there_is_a_usage_error(up: Pln) -> None:
    done = up("call", "echo", "echo", "@/nonexistent/input")
    assert done.returncode == 2
    assert b"/nonexistent/input cannot be read: No such file" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["-"], 2, b"what comes from stdin has no name"),
        (["-", "x", "--kind", "python"], 2, b"what is called is not read from stdin"),
        (["/nonexistent/hello.py"], 2, b"/nonexistent/hello.py cannot be read"),
        (["/nonexistent/my-hello.py"], 2, b"rename it: my_hello.py"),
        (["FOLDER"], 5, b"does not say what it is"),
        (["hello.wasm", "--spa"], 2, b"--spa is for sites, and this is a module"),
        (["a.txt", "--kind", "site"], 2, b"a.txt is not a folder, as a site is"),
        (["FOLDER", "--kind", "python"], 2, b"does not say which of its 0 modules"),
        (["-m", "not_a_package_here"], 2, b"there is no package not_a_package_here"),
        (["a.wasm", "--requirements", "x"], 2, b"--requirements names packages of a Python seed"),
        (["hello.py", "--watch"], 2, b"--watch looks at a module, a blob or a site"),
    ],
)
def test_a_source_that_is_none_is_refused_at_once(
    pln: Pln, words: list[str], code: int, told: bytes, tmp_path: Path
) -> None:
    done = pln("seed", *[str(tmp_path) if word == "FOLDER" else word for word in words])
    assert done.returncode == code
    assert told in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["echo", "echo", "a", "b"], b"2 inputs were given, and a function has one"),
        (["echo", "echo", "a", "--input", "b"], b"--input is the whole input"),
    ],
)
def test_a_function_without_signature_has_one_input(up: Pln, words: list[str], told: bytes) -> None:
    done = up("call", *words)
    assert done.returncode == 2
    assert told in done.stderr


def test_an_equals_sign_stays_input_where_no_signature_is_published(up: Pln) -> None:
    assert up("call", "echo", "echo", "name=world").stdout == b"name=world"
    assert up("call", "echo", "echo", "--input", "a:=1").stdout == b"a:=1"


def test_a_module_file_that_is_not_there_is_named(up: Pln) -> None:
    done = up("seed", "/nonexistent/module.wasm")
    assert done.returncode == 2
    assert b"/nonexistent/module.wasm cannot be read" in done.stderr


def test_a_text_file_named_wasm_is_no_module(up: Pln, tmp_path: Path) -> None:
    fake = tmp_path / "fake.wasm"
    fake.write_text("this is a text\n")
    done = up("seed", str(fake))
    assert done.returncode == 2
    assert b"[module-invalid]" in done.stderr


def test_a_module_in_text_is_refused_with_the_command_that_converts_it(
    up: Pln, tmp_path: Path
) -> None:
    text = tmp_path / "seven.wat"
    text.write_text('(module (func (export "run") (result i32) i32.const 7))')
    done = up("seed", str(text))
    assert done.returncode == 2
    assert b"wat2wasm" in done.stderr and b"[module-invalid]" in done.stderr


@pytest.mark.parametrize("line", [["call", "echo", "echo"], ["load", "echo", "--input"]])
def test_an_input_that_never_ends_is_read_up_to_the_limit(up: Pln, line: list[str]) -> None:
    """In 2 GB of address space: what would read on dies of it."""
    for text in ("-", "@/dev/zero"):
        small = ["sh", "-c", 'ulimit -v 2000000; exec "$@" < /dev/zero', "sh"]
        command = [*small, *up.line(*line, text)]
        done = subprocess.run(
            command, env=up.environment, capture_output=True, check=False, timeout=30
        )
        assert done.returncode == 1, done.stderr
        assert b"over 4 MiB" in done.stderr and b"[input-too-large]" in done.stderr


@pytest.mark.parametrize(
    ("raw", "shown"),
    [("ü".encode(), {"data": "ü"}), (b"\x00\xff\xfe", {"data": None, "data_base64": "AP/+"})],
)
def test_json_of_a_call_holds_any_output(up: Pln, raw: bytes, shown: dict[str, str | None]) -> None:
    """What is not text comes under another name: a replaced letter is lost data."""
    done = up("call", "echo", "echo", "-", "--json", stdin=raw)
    held = json.loads(done.stdout)
    assert {name: held[name] for name in held if name.startswith("data")} == shown
