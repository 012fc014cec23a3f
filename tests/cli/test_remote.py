"""A verb that is run on another machine, with a program in the place of ssh that misbehaves."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest

from pollen.cli import remote
from pollen.errors import PollenError
from pollen.sdk import hosts, tunnel

# Well over what an answer takes, well under what each of these would have waited.
SOON = 10.0
PI = hosts.parse("me@pi")


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program in the place of ssh, to be written."""
    path = tmp_path / "ssh"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PLN_SSH", str(path))
    return path


def test_what_it_prints_and_its_code_are_ours(
    say: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    say.write_text("#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x; echo no >&2; exit 3\n")
    assert remote.run_there(PI, ["id"]) == 3
    said = capsysbinary.readouterr()
    assert said.out == b"x" * 300_000 and said.err == b"no\n"


def test_a_master_that_keeps_its_stderr_is_waited_for_by_nobody(
    say: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """OpenSSH before 8.5 leaves stderr open to the master of ``ControlPersist``."""
    say.write_text("#!/bin/sh\nsleep 20 >/dev/null &\necho $!; echo last >&2\n")
    began = time.monotonic()
    assert remote.run_there(PI, ["id"]) == 0
    assert time.monotonic() - began < SOON
    said = capsysbinary.readouterr()
    assert said.out.strip().isdigit() and said.err == b"last\n"


@pytest.mark.parametrize("stream", [1, 2])
def test_a_machine_that_prints_without_end_is_an_error(
    say: Path, stream: int, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """It is not kept in memory, and not shown. What was asked may have been done."""
    say.write_text(f"#!/bin/sh\nyes | head -c 50000000 >&{stream}\nexec sleep 9\n")
    with pytest.raises(PollenError, match="more than") as error:
        remote.run_there(PI, ["down"])
    assert error.value.slug == "unreachable" and "may have been done" in error.value.remedy
    assert capsysbinary.readouterr().out == b""


@pytest.mark.skipif(shutil.which("ssh") is None, reason="it needs openssh-client")
def test_a_machine_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLN_SSH", "ssh -F none")
    monkeypatch.setattr(tunnel, "CONNECT", 1)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        began = time.monotonic()
        with pytest.raises(PollenError, match="cannot be reached") as error:
            remote.run_there(hosts.parse(f"ssh://127.0.0.1:{held.getsockname()[1]}"), ["id"])
        assert error.value.slug == "unreachable" and time.monotonic() - began < SOON


def test_an_ssh_whose_path_is_cut_ends_by_itself() -> None:
    """A verb that is run there has no other sign of life."""
    line = tunnel.ssh_line(PI, "id")
    assert "ServerAliveInterval=10" in line and "ServerAliveCountMax=4" in line
