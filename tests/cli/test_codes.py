"""How commands end: one exit code a kind of failure, and the same error as text or as JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pollen.core.ids import Hash, PeerId
from pollen.core.seeds.specs import make_spec, seed_hash
from pollen.errors import SLUGS
from pollen.options import SeedOptions
from tests import others
from tests.cli.conftest import EXAMPLES, Pln


def problem(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    """The JSON error on stderr, which is the only thing there."""
    held = json.loads(done.stderr)
    assert isinstance(held, dict)
    return held


def test_0_a_command_that_did_it(pln: Pln) -> None:
    assert pln("version", "--short").returncode == 0


def test_1_a_failure(up: Pln) -> None:
    done = up("call", "trap", "error")
    assert done.returncode == 1
    assert b"this function always fails" in done.stderr and b"[guest-failed]" in done.stderr


def test_1_a_folder_whose_socket_path_is_too_long(pln: Pln) -> None:
    done = pln("status", "--dir", f"/tmp/{'d' * 100}")
    assert done.returncode == 1
    assert b"[path-too-long]" in done.stderr and b"PLN_DIR=" in done.stderr


def test_1_an_error_of_a_call_names_the_node_that_said_it(up: Pln) -> None:
    node = up.ok("id").strip()
    assert f"  said by node {node[:8]}\n".encode() in up("call", "trap", "error").stderr


def test_init_on_a_running_node_of_its_own_cluster_changes_nothing(up: Pln) -> None:
    assert up.ok("init").startswith("already in cluster ")


def test_a_remedy_that_is_a_command_is_proposed(pln: Pln) -> None:
    assert b"\n  try: pln up -d\n" in pln("down").stderr


def test_a_locale_without_these_letters_shows_their_numbers(up: Pln) -> None:
    """LANG=C alone is taken for UTF-8; this one is not."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = up("call", "nö", **plain)
    assert done.returncode == 3
    assert b'no seed named "n\\xf6"' in done.stderr
    assert up("logs", **plain).returncode == 0


def test_2_an_argument_that_is_no_text(up: Pln) -> None:
    """But the input of a call may be any bytes."""
    torn = os.fsdecode(b"\xff")
    assert up("call", "trap", "error", torn).returncode == 1
    done = up("call", torn)
    assert done.returncode == 2
    assert b"[usage]" in done.stderr


def test_2_usage(pln: Pln) -> None:
    assert pln("call").returncode == 2


@pytest.mark.parametrize("word", ["remove", "revoke", "kick", "ban"])
def test_2_another_word_for_deny_leads_to_it(pln: Pln, word: str) -> None:
    done = pln(word, "attic")
    assert done.returncode == 2
    assert b"did you mean: pln deny" in done.stderr


def test_2_why_of_a_seed_shows_the_questions(pln: Pln) -> None:
    done = pln("why", "wc")
    assert done.returncode == 2
    for question in ("place", "call", "path", "service"):
        assert f"  pln why {question} wc\n".encode() in done.stderr
    assert b"  [usage]" in done.stderr
    assert pln("why").returncode == 0 and pln("why", "--help").returncode == 0


def test_3_not_found_with_the_nearest_name(up: Pln) -> None:
    done = up("call", "ehco", "echo", "hi")
    assert done.returncode == 3
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith('error: no seed named "ehco" in cluster ')
    assert lines[1:] == ["  did you mean: echo", "  try: pln status seeds", "  [seed-not-found]"]


def test_3_a_function_that_is_not_there_lists_those_that_are(up: Pln) -> None:
    done = up("call", "trap", "tarp")
    assert done.returncode == 3
    assert b"[function-not-found]" in done.stderr
    assert all(name in done.stderr for name in (b"trap", b"error", b"status"))
    assert b"if that is the input: pln call trap FUNCTION" in done.stderr


def test_joining_with_a_running_node_says_all_that_is_to_do(up: Pln) -> None:
    """Stopping it is half of it: what it is in already may stand in the way."""
    token = up.ok("invite").strip()
    done = up("join", token)
    assert done.returncode == 1
    assert b"[already-running]" in done.stderr
    assert b"pln down" in done.stderr and b"join again" in done.stderr


def test_4_permission(pln: Pln) -> None:
    done = pln("join", "--no-up", "pln1notatoken")
    assert done.returncode == 4
    assert b"[token-invalid]" in done.stderr


def _alike(owner: PeerId, content: Hash, size: int) -> tuple[str, str, str]:
    """Two names whose specs' hashes begin alike, and the digits; by trying names in order."""
    seen: dict[str, str] = {}
    for number in range(5_000):
        spec = make_spec(
            name=f"n{number}",
            name_epoch=1,
            content=content,
            size=size,
            functions=["echo"],
            options=SeedOptions(),
        )
        digits = seed_hash(owner, msgspec.msgpack.encode(spec)).hex()[:4]
        if digits in seen:
            return seen[digits], spec.name, digits
        seen[digits] = spec.name
    raise AssertionError("16 bits never met in 5,000 tries")


def test_5_ambiguous_lists_commands_to_paste(up: Pln) -> None:
    module = EXAMPLES / "echo.wasm"
    held = next(s for s in json.loads(up.ok("status", "seeds", "--json")) if s["name"] == "echo")
    owner, content = PeerId(bytes.fromhex(held["publisher"])), Hash(bytes.fromhex(held["content"]))
    one, other, digits = _alike(owner, content, module.stat().st_size)
    for name in (one, other):
        up.ok("seed", str(module), name)
    done = up("unseed", digits)
    assert done.returncode == 5
    assert b"[ambiguous]" in done.stderr and done.stderr.count(b"pln unseed ") == 2
    pasted = [line.split() for line in done.stderr.decode().splitlines() if "pln unseed" in line]
    for words in pasted:
        up.ok(*words[1:3])
    assert {one, other}.isdisjoint(
        s["name"] for s in json.loads(up.ok("status", "seeds", "--json"))
    )


@pytest.mark.parametrize("line", [["status"], ["call", "echo"], ["down"], ["logs"], ["invite"]])
def test_6_unreachable_when_no_daemon_runs(pln: Pln, line: list[str]) -> None:
    done = pln(*line)
    assert done.returncode == 6
    assert b"[daemon-not-running]" in done.stderr and b"pln up -d" in done.stderr


@pytest.mark.parametrize("line", [["logs", "-f"], ["status", "--watch"]])
def test_130_after_ctrl_c(up: Pln, line: list[str]) -> None:
    process = subprocess.Popen(
        up.line(*line), env=up.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() != b""
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert b"Traceback" not in err


def test_an_error_as_json_is_the_object_of_the_http_doors(up: Pln) -> None:
    done = up("call", "ehco", "echo", "hi", "--json")
    assert done.stdout == b""
    held = problem(done)
    assert held.keys() == {
        "type",
        "title",
        "status",
        "slug",
        "remedy",
        "node",
        "attempts",
        "may_have_executed",
    }
    assert (held["slug"], held["status"], held["may_have_executed"]) == (
        "seed-not-found",
        404,
        False,
    )


@pytest.mark.parametrize(
    "line",
    [
        ["status", "--json", "--wibble"],
        ["status", "nonsense", "--json"],
        ["--dir", f"/tmp/{'d' * 100}", "status", "--json"],
        ["status", "--json"],
        ["init", "--json", "--name", "NO NAME"],
        ["join", "--json", "pln1notatoken"],
    ],
)
def test_every_error_is_json_when_json_is_asked_for(pln: Pln, line: list[str]) -> None:
    done = pln(*line)
    held = problem(done)
    assert held["slug"] in SLUGS
    assert done.returncode == SLUGS[held["slug"]].exit_code != 0


def test_a_guest_status_delivers_its_output(up: Pln) -> None:
    done = up("call", "trap", "status")
    assert (done.returncode, done.stdout) == (1, b"seven")
    assert b"[guest-status]" in done.stderr


def test_no_error_shows_a_traceback_unless_it_is_asked_for(pln: Pln) -> None:
    assert b"Traceback" not in pln("status").stderr
    assert b"Traceback" in pln("status", PLN_DEBUG="1").stderr


@pytest.mark.parametrize("line", [["status"], ["logs"], ["--help"]])
def test_a_reader_that_has_enough_is_no_error(up: Pln, line: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            up.line(*line), env=up.environment, stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 0


def test_two_ups_and_two_downs(up: Pln) -> None:
    done = up("up", "-d", "--ips", "127.0.0.1", "--port", "0")
    assert done.returncode == 1
    assert b"[already-running]" in done.stderr


def test_the_folder_of_somebody_else_is_not_used(pln: Pln) -> None:
    """Root could; the rule is about the folder's owner, not about what is possible."""
    if others.can_become():
        other = pln.home / "theirs"
        other.mkdir()
        os.chown(other, others.NOBODY, others.NOBODY)
        done = pln("id", "--dir", str(other))
    else:
        done = pln("id", "--dir", "/usr")
    assert done.returncode == 1
    assert b"[state-unusable]" in done.stderr


def test_an_update_that_leaves_options_out_asks_before_it_sends_anything(
    up: Pln, example: Callable[[str], str]
) -> None:
    """Without a terminal it is refused; --yes, or the options again, and it goes on."""
    line = ["seed", example("echo"), "kept", "--keep", "8", "--public"]
    up.ok(*line)
    done = up("seed", example("trap"), "kept")
    said = done.stderr.decode()
    assert done.returncode == 2 and "[usage]" in said
    assert "left out, and so back at their defaults: --public --keep 8" in said
    assert "give them again, or: pln seed --yes" in said
    assert "echo" in up.ok("inspect", "kept")
    assert "left out" not in up("seed", example("trap"), *line[2:]).stderr.decode()
    line = ["seed", example("trap"), "kept", "--public", "--keep", "2"]
    assert up.ok(*line).startswith("updated kept"), "its default, and typed"
    assert up.ok("seed", example("trap"), "kept", "--yes").startswith("updated kept")
    up.ok("unseed", "kept")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ips", "banana"], "--ips has 'banana', which is not an IP address"),
        (["--ips", "127.0.0.1,999.1.1.1"], "--ips has '999.1.1.1'"),
        (["--ips", "192.0.2.7:80"], "--ips has '192.0.2.7:80'"),
        (["--http", "banana"], "http has 'banana'"),
        (["--http", "127.0.0.1:banana"], "http has '127.0.0.1:banana'"),
        (["--name", "No Name"], "name cannot be so"),
    ],
)
def test_an_address_that_is_none_is_bad_input_and_leaves_nothing(
    pln: Pln, options: list[str], said: str
) -> None:
    """No port is in use, no cluster begins, and no traceback tells of it."""
    done = pln("up", "-d", *options)
    told = done.stderr.decode()
    assert done.returncode == 2 and said in told, told
    assert "Traceback" not in told and not (pln.home / "state.db").exists()
