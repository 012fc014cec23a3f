"""The machine's own folder: settings, purge, and completion."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pollen import lock
from pollen.paths import Paths
from pollen.runtime.folder.ports import next_free
from tests.cli.conftest import EXAMPLES, Pln
from tests.cli.test_doctor import found
from tests.cli.test_output import on_a_terminal


def test_a_setting_is_set_shown_and_taken_back(pln: Pln) -> None:
    assert pln.ok("set", "memory_bytes", "512MiB") == "memory_bytes = 512 MiB\n"
    assert json.loads(pln.ok("set", "--json"))["memory_bytes"] == 512 << 20
    assert "memory_bytes = 512 MiB" in pln.ok("set")
    assert pln.ok("unset", "memory_bytes") == "memory_bytes = 0 B\n"
    assert (pln.home / "config.toml").read_text() == ""


def test_comments_and_order_survive(pln: Pln) -> None:
    """The file is the user's."""
    (pln.home / "config.toml").write_text('# mine\nname = "attic"  # top floor\ngrace_ms = 1\n')
    pln.ok("set", "grace_ms", "2s")
    text = (pln.home / "config.toml").read_text()
    assert text == '# mine\nname = "attic"  # top floor\ngrace_ms = 2000\n'


def flags_of(pln: Pln) -> tuple[str, str]:
    """The port and the name of the node that runs."""
    (node,) = json.loads(pln.ok("status", "nodes", "--json"))
    return node["addresses"][0].rpartition(":")[2], node["name"]


def test_a_restart_keeps_the_flags_of_up_and_goes_on_after_a_crash(pln: Pln) -> None:
    """And ``set`` says that a flag goes before the file."""
    port = str(next_free(["127.0.0.1:20000"])[0].rpartition(":")[2])
    try:
        pln.ok("up", "-d", "--ips", "127.0.0.1", "--port", port, "--name", "attic")
        pln.ok("restart")
        assert flags_of(pln) == (port, "attic")
        pid = lock.read_pid(Paths(pln.home))
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        pln.ok("restart")
        assert flags_of(pln) == (port, "attic")
        assert "from a flag: pln down" in pln.ok("set", "listen", "127.0.0.1:0")
        assert "reads it at: pln restart" in pln.ok("set", "grace_ms", "1s")
    finally:
        pln("down", "--force")


def test_an_up_with_a_taken_port_leaves_nothing_behind(pln: Pln) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        for detach in ((), ("-d",)):
            done = pln("up", *detach, "--ips", "127.0.0.1", "--port", port)
            assert done.returncode == 1 and b"[port-in-use]" in done.stderr
            assert b"NEW cluster" not in done.stderr
    assert not (pln.home / "state.db").exists() and not (pln.home / "root.key").exists()


def test_a_list_has_commas(pln: Pln) -> None:
    pln.ok("set", "listen", "127.0.0.1:0,[::1]:0")
    assert json.loads(pln.ok("set", "--json"))["listen"] == ["127.0.0.1:0", "[::1]:0"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["listne", "x"], b"did you mean: listen"),
        (["memory_bytes", "512"], b"write a unit"),
        (["listen", "everywhere"], b"ip:port"),
        (["log_level", "loud"], b"debug, info, warning"),
        (["idle_ms", "10ms"], b"1000 or more"),
        (["grace_ms"], b"pln set grace_ms VALUE"),
        (["discovery", "foo"], b"known schemes: multicast, static"),
        (["discovery", "static:nowhere"], b"is not an address with a port"),
        (["discovery", "multicast:192.0.2.1:5"], b"is not a multicast group"),
        (["listen", ","], b"listen is empty"),
        (["http", "8080"], b"ip:port"),
        (["http_paths", "yes"], b"one of: on, off"),
        (["http_hosts", "a b=shop"], b"neither a host nor *.SUFFIX"),
        (["http_hosts", "*=home,example.org"], b"names no site"),
        (["metrics", "here"], b"ip:port"),
        (["name", "Attic!"], b"name cannot be so"),
        (["otlp_endpoint", "collector"], b"write a URL"),
        (["otlp_sample_percent", "101"], b"0<=x<=100"),
    ],
)
def test_a_bad_setting_changes_nothing(pln: Pln, line: list[str], said: bytes) -> None:
    """The reason names the key, the remedy what would do."""
    done = pln("set", *line)
    assert (done.returncode, done.stdout) == (2, b"")
    assert said in done.stderr
    assert not (pln.home / "config.toml").exists()


UNSTARTABLE = {
    "discovery": ('discovery = "foo"\n', "known schemes: multicast, static"),
    "log_level": ('log_level = "debu"\n', "one of: debug, info, warning"),
    "listen": ('listen = ["192.0.2.1:0"]\n', "pln set listen IP:PORT"),
    "http": ('http = "192.0.2.1:1"\n', "pln set http IP:PORT"),
    "memory_bytes": ("memory_bytes = -1\n", "pln set memory_bytes 1GiB"),
}


@pytest.mark.parametrize("key", UNSTARTABLE)
def test_a_restart_that_cannot_start_does_not_stop(pln: Pln, key: str) -> None:
    """The node runs on; what is wrong with the file is said by ``doctor`` and ``up``, too."""
    text, said = UNSTARTABLE[key]
    flags = [] if key == "listen" else ["--ips", "127.0.0.1", "--port", "0"]
    (pln.home / "config.toml").write_text('listen = ["127.0.0.1:0"]\n')
    pln.ok("up", "-d", *flags)
    try:
        pid = lock.read_pid(Paths(pln.home))
        (pln.home / "config.toml").write_text(text)
        done = pln("restart")
        assert done.returncode == 2 and b"[config-invalid]" in done.stderr
        assert said in done.stderr.decode() and key in done.stderr.decode()
        assert lock.read_pid(Paths(pln.home)) == pid
        assert pln("status").returncode == 0
        if key not in ("listen", "http"):
            assert said in found(pln, "settings", "failure")
    finally:
        pln("down", "--force")
    done = pln("up", "-d", *flags)
    assert done.returncode == 2 and b"[config-invalid]" in done.stderr


def test_a_restart_keeps_its_own_ports(pln: Pln) -> None:
    """They are taken, and by itself; one that another program has is refused before it stops."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = next_free(["127.0.0.1:21000"])[0].rpartition(":")[2]
        pln.ok("set", "listen", f"127.0.0.1:{port}")
        pln.ok("up", "-d", "--http", f"127.0.0.1:{port}")
        try:
            pln.ok("restart")
            pid = lock.read_pid(Paths(pln.home))
            pln.ok("set", "metrics", f"127.0.0.1:{taken.getsockname()[1]}")
            done = pln("restart")
            assert done.returncode == 1 and b"[port-in-use]" in done.stderr
            assert lock.read_pid(Paths(pln.home)) == pid
        finally:
            pln("down", "--force")


def test_an_address_of_another_network_may_be_set(pln: Pln) -> None:
    """The machine may move there; it is told that it is not there now."""
    said = pln.ok("set", "listen", "192.0.2.7:60611")
    assert "does not have the address of 192.0.2.7:60611 now" in said


def test_a_file_that_is_broken_is_not_overwritten(pln: Pln) -> None:
    (pln.home / "config.toml").write_text("listen = [")
    done = pln("set", "name", "attic")
    assert done.returncode == 2 and b"[config-invalid]" in done.stderr
    assert (pln.home / "config.toml").read_text() == "listen = ["


def test_purge_keeps_keys_and_settings(pln: Pln) -> None:
    """And what is not ours."""
    pln.ok("init")
    node = pln.ok("id")
    pln.ok("set", "name", "attic")
    pln.ok("up", "-d", "--ips", "127.0.0.1", "--port", "0")
    pln.ok("seed", str(EXAMPLES / "echo.wasm"))
    refused = pln("purge", "--yes")
    assert refused.returncode == 1 and b"try: pln down" in refused.stderr
    pln.ok("down")
    (pln.home / "notes.txt").write_text("mine")
    assert pln.ok("purge", "--yes").endswith(f"purged {pln.home}\n")
    kept = {path.name for path in pln.home.iterdir()}
    assert kept == {"node.key", "root.key", "config.toml", "notes.txt"}
    assert pln.ok("id") == node


def test_purge_of_keys_makes_another_node(pln: Pln) -> None:
    pln.ok("init")
    node = pln.ok("id")
    text = pln.ok("purge", "--include-keys", "--yes")
    assert "nobody can make admins" in text
    assert not pln.home.exists() and "settings" not in text
    assert pln.ok("id") != node
    pln.ok("set", "name", "attic")
    told = pln.ok("purge", "--include-keys", "--yes")
    assert f"the settings stay; without them: rm {pln.home}/config.toml\n" in told


def test_purge_asks_first(pln: Pln) -> None:
    """On a terminal; elsewhere it wants --yes."""
    pln.ok("init")
    done = pln("purge")
    assert done.returncode == 2 and b"pln purge --yes" in done.stderr
    assert b"remove all this? [y/N]" in on_a_terminal(pln, "purge", typed=b"n\n")
    assert (pln.home / "state.db").exists()


@pytest.mark.timeout(120)
def test_a_purge_of_the_only_admin_says_whom_it_leaves(pln: Pln) -> None:
    """Before it asks, and with what to do first; another admin makes it an ordinary purge."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as home:
        other = Pln(Path(home))
        for each, name in ((pln, "attic"), (other, "barn")):
            each.ok("set", "listen", "127.0.0.1:0")
            each.ok("set", "name", name)
        try:
            pln.ok("up", "-d")
            other.ok("join", pln.ok("invite").strip())
            deadline = time.monotonic() + 20
            while "barn" not in pln.ok("status"):
                assert time.monotonic() < deadline
            pln.ok("down")
            said = pln("purge").stdout.decode()
            assert "the only admin: for barn nobody could invite, grant, deny or renew" in said
            assert "pln grant barn --admin" in said
            pln.ok("up", "-d")
            pln.ok("grant", "barn", "--admin")
            pln.ok("down")
            assert "only admin" not in pln.ok("purge", "--yes")
        finally:
            pln("down", "--force")
            other("down", "--force")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(pln: Pln, shell: str) -> None:
    script = pln.ok("completion", shell)
    assert f"_PLN_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script.encode(), check=True)


def completed(pln: Pln, *words: str) -> list[str]:
    """What bash would offer for the last word."""
    asked = {"_PLN_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["pln", *words])}
    done = pln(COMP_CWORD=str(len(words)), **asked)
    return [line.partition(",")[2] for line in done.stdout.decode().split()]


def test_completion_knows_verbs_and_live_names(up: Pln, tmp_path: Path) -> None:
    assert completed(up, "sta") == ["status"]
    assert completed(up, "call", "e") == ["echo"]
    up_down = Pln(tmp_path)
    assert completed(up_down, "call", "e") == []


def test_a_second_ctrl_c_ends_a_node_at_once_and_says_so_in_one_line(pln: Pln) -> None:
    """The first one waits for the call that is under way."""
    line = ["up", "--ips", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(pln.line(*line), env=pln.environment, stderr=subprocess.PIPE) as node:
        try:
            until(lambda: lock.read_pid(Paths(pln.home)) == node.pid)
            pln.ok("seed", str(EXAMPLES / "loop.wasm"))
            call = pln.line("call", "loop", "loop")
            with subprocess.Popen(call, env=pln.environment, stderr=subprocess.DEVNULL) as caller:
                until(lambda: '"in_flight":1' in pln.ok("status", "--json").replace(" ", ""))
                node.send_signal(signal.SIGINT)
                until(lambda: '"stopping"' in Paths(pln.home).log_file.read_text())
                began = time.monotonic()
                node.send_signal(signal.SIGINT)
                said = node.communicate(timeout=20)[1].decode()
                caller.kill()
        finally:
            node.kill()
    assert said.splitlines()[-1] == "stopped at once; calls under way were cut off"
    assert "Traceback" not in said
    assert node.returncode == 130 and time.monotonic() - began < 4
    assert lock.read_pid(Paths(pln.home)) is None


def until(is_so: Callable[[], bool]) -> None:
    """Wait for a condition, for 20 s at the most."""
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
