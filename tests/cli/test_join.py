"""``pln join`` that fails: what became of the token, and what to do next."""

from __future__ import annotations

import json
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from pollen.errors import error_from
from pollen.runtime.folder.enrol import in_words
from tests.cli.conftest import Pln
from tests.cli.test_machine import until


def test_a_taken_port_is_seen_before_the_token_is_used(up: Pln, pln: Pln) -> None:
    """The remedy is a command, and with the same token the machine joins after it."""
    token = up.ok("invite").strip()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        pln.ok("set", "listen", f"127.0.0.1:{taken.getsockname()[1]}")
        done = pln("join", token)
        said = done.stderr.decode()
        assert (done.returncode, done.stdout) == (1, b"")
        assert "[port-in-use]" in said and "the token is not used up" in said
        pln.ok("set", "listen", said.partition("pln set listen ")[2].split()[0])
        assert pln.ok("join", token, "--no-up").startswith("joined cluster ")


def test_who_joined_and_could_not_start_is_told_to_start_only(up: Pln, pln: Pln) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        pln.ok("set", "listen", "127.0.0.1:0")
        pln.ok("set", "http", f"127.0.0.1:{taken.getsockname()[1]}")
        done = pln("join", up.ok("invite").strip())
        assert done.returncode == 1 and done.stdout.startswith(b"joined cluster ")
        assert b"this machine is a member now; " in done.stderr


def test_a_join_that_fails_leaves_no_socket(up: Pln, pln: Pln) -> None:
    token = up.ok("invite").strip()
    pln.ok("join", token, "--no-up")
    pln.ok("purge", "--include-keys", "--yes")
    assert pln("join", token, "--no-up").returncode != 0
    assert not (pln.home / "call.sock").exists()


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        ("ConnectionError: timed out", "no answer from 127.0.0.1:1 within 20 s"),
        ("ConnectionError: reset by peer", "no link to 127.0.0.1:1: reset by peer"),
    ],
)
def test_a_connection_that_does_not_come_about_is_told_in_words(inner: str, said: str) -> None:
    names = ("ConnectError::Connecting: ConnectingError::", "ConnectingError::")
    for named in (*(before + inner for before in names), inner.partition(": ")[2]):
        raw = f"no link to the peer: {named}"
        told = in_words(error_from("unreachable", raw, "see"), ["127.0.0.1:1"], 20.04)
        assert (told.reason, told.slug) == (said, "unreachable")
    other = error_from("unreachable", "the issuer did not answer", "")
    assert in_words(other, [], 0.0) is other
    told = in_words(other, ["127.0.0.1:1"], 0.0)
    assert told.reason == "the issuer did not answer; tried: 127.0.0.1:1"


def test_an_issuer_that_is_gone_is_told_with_the_addresses_that_were_tried(pln: Pln) -> None:
    """Also where another member answers in its stead that it does not reach it either."""
    with ExitStack() as stack:
        made = tempfile.TemporaryDirectory
        barn, late = (Pln(Path(stack.enter_context(made(dir="/tmp")))) for _ in range(2))
        for each, name in ((pln, "attic"), (barn, "barn"), (late, "late")):
            stack.callback(each, "down", "--force")
            each.ok("set", "listen", "127.0.0.1:0")
            each.ok("set", "name", name)
        pln.ok("up", "-d")
        alone = pln.ok("invite").strip()
        barn.ok("join", pln.ok("invite", "--publisher").strip())
        until(lambda: '"online"' in pln.ok("status", "--json"))
        carried = pln.ok("invite").strip()
        (address,) = json.loads(pln.ok("status", "--json"))["nodes"][0]["addresses"]
        pln.ok("down")
        for token in (alone, carried):
            done = late("join", token)
            said = done.stderr.decode()
            assert done.returncode == 6 and "[unreachable]" in said
            words = "came from" if token is carried else "from"
            assert f"no answer {words} {address}" in said and "Error" not in said, said
