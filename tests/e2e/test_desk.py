"""A node of another machine, over a real ssh: what goes through, what breaks, what is left."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import pollen
from pollen.errors import PollenError, Unreachable
from pollen.sdk import far
from pollen.sdk.control import Control
from pollen.sdk.stdio import PING, SILENT
from pollen.testing import Cluster, until
from tests.e2e.conftest import example, running, with_seeds
from tests.e2e.desks import SOON, Desk, desk_of, soon
from tests.style.documents import blocks_of
from tests.style.tree import ROOT

pytestmark = pytest.mark.timeout(120)

RATE = 2_000
SMOKE_RATE = 300


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    """One node with the examples, and a desk that reaches it."""
    with running(Cluster(1)) as cluster, tempfile.TemporaryDirectory(prefix="pln-") as folder:
        asyncio.run(with_seeds(cluster))
        asyncio.run(cluster.seed(example("ticker"), "ticker"))
        with desk_of(Path(folder), cluster[0]) as made:
            yield made


@pytest.fixture(autouse=True)
def nothing_left(desk: Desk) -> Iterator[None]:
    """After each test no process of a client is left, at either end."""
    yield
    for channel in far._channels.values():
        channel.close()
    far._channels.clear()
    soon(lambda: desk.everything() == [], "a tunnel, an ssh or a far end is left behind")


def in_flight(desk: Desk, seed: str) -> int:
    """Calls of a seed that run there."""
    page = Control(desk.node.paths).text("/v1/metrics")
    start = "pollen_executions_in_flight{"
    rows = [row for row in page.splitlines() if row.startswith(start) and f'"{seed}"' in row]
    return sum(int(float(row.split()[-1])) for row in rows)


def test_the_machine_that_answered_is_named_on_stderr_and_not_in_data(desk: Desk) -> None:
    done = desk("status")
    assert done.stderr.decode().startswith(f"on {desk.server.user}@127.0.0.1:{desk.server.port}")
    assert done.stderr.count(b"\n") == 1
    assert desk("status", "--json").stderr == b""


def test_the_examples_of_the_sdk_run_through_a_context(desk: Desk) -> None:
    """Each Python block of the guide's page on calls prints what it prints here."""
    hosts_file = desk.folder / ".config" / "pollen" / "contexts.toml"
    assert not hosts_file.exists()
    desk.ok("context", "add", "lab", desk.server.url, host="local")
    blocks = [b for b in blocks_of(ROOT / "docs/guide/call-it.md") if b.language == "python"]
    assert len(blocks) >= 3
    for block in blocks:
        near = desk.python(block.text, PLN_DIR=str(desk.node.home))
        away = desk.python(block.text, PLN_HOST="lab")
        assert near.returncode == away.returncode == 0, (near.stderr, away.stderr)
        assert away.stdout == near.stdout != b"" and away.stderr == b""
    named = 'import pollen\nwith pollen.connect_sync("lab") as mesh: print(mesh.status()["name"])'
    assert desk.python(named).stdout.decode().strip() == desk.node.name
    desk.ok("context", "remove", "lab", host="local")


def test_the_folder_there_is_that_of_dir_or_of_the_url(desk: Desk) -> None:
    """In both forms it is one word for the shell there."""
    odd = desk.folder / "a b; touch x"
    odd.symlink_to(desk.node.home)
    name = desk.node.name
    assert json.loads(desk.ok("--dir", str(odd), "status", "--json"))["name"] == name
    url = f"{desk.server.url}{desk.node.home}"
    assert json.loads(desk("status", "--json", host=url).stdout)["name"] == name
    assert desk.ok("id", "--dir", str(odd)) == desk.ok("id")
    assert not (Path.home() / "x").exists()


@pytest.mark.parametrize(
    "verb", ["init", "up", "join token", "purge", "root status", "service install"]
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_what_goes_by_hand_says_the_line_to_type(desk: Desk, verb: str, place: str) -> None:
    """Wherever ``-H`` stands: nothing of it happens here."""
    line = [*verb.split(), "--dir", "/srv/pln"]
    done = desk(*line) if place == "before" else desk(*line, "-H", desk.server.url, host="local")
    assert done.returncode == 2, done.stdout
    words = f"{desk.server.port} {desk.server.user}@127.0.0.1 pln --dir /srv/pln {verb}"
    assert f"there: ssh -p {words}".encode() in done.stderr and b"[usage]" in done.stderr


@pytest.mark.parametrize("verb", ["demo", "sim", "version", "completion", "context"])
def test_what_is_about_no_node_has_no_host(desk: Desk, verb: str) -> None:
    argument = {"completion": ["bash"], "context": ["list"]}.get(verb, [])
    done = desk(verb, *argument)
    assert done.returncode == 2 and b"[usage]" in done.stderr
    assert desk("version", PLN_HOST=desk.server.url, host="local").returncode == 0


def test_a_setting_is_set_there(desk: Desk) -> None:
    assert "log_level = debug" in desk.ok("set", "log_level", "debug")
    assert 'log_level = "debug"' in (desk.node.home / "config.toml").read_text()
    done = desk("set", "log_level", "nonsense")
    assert done.returncode == 2 and b"[config-invalid]" in done.stderr
    desk.ok("unset", "log_level")


def check(done: subprocess.CompletedProcess[bytes], code: int, slug: str, *words: str) -> None:
    said = done.stderr.decode()
    assert done.returncode == code and f"[{slug}]" in said, said
    assert all(word in said for word in words), said


def test_no_daemon_is_told_from_no_folder(desk: Desk) -> None:
    empty = desk.folder / "empty"
    empty.mkdir(exist_ok=True)
    done = desk("--dir", str(empty), "status")
    check(done, 6, "daemon-not-running", "no daemon answers", f"pln --dir {empty} up -d")
    done = desk("--dir", "/nonexistent/x", "call", "echo")
    check(done, 6, "daemon-not-running", "there is no folder /nonexistent/x on", "up -d")
    with (
        pytest.raises(Unreachable, match="there is no folder"),
        pollen.connect_sync(f"{desk.server.url}/nonexistent/x"),
    ):
        pass


def test_an_unknown_host_key_is_an_error(desk: Desk) -> None:
    unknown = desk.server.client("unknown", more=" UserKnownHostsFile /dev/null")
    done = desk("status", PLN_SSH=f"ssh -F {unknown}")
    check(done, 6, "unreachable", "host key of", "is not known here", "ssh -p")
    check(desk("set", PLN_SSH=f"ssh -F {unknown}"), 6, "unreachable", "is not known here")


def test_a_changed_host_key_is_another_error(desk: Desk) -> None:
    stranger = (desk.server.folder / "stranger_key.pub").read_text()
    other = desk.server.folder / "other_hosts"
    other.write_text(f"[127.0.0.1]:{desk.server.port} {stranger}")
    changed = desk.server.client("changed", more=f" UserKnownHostsFile {other}")
    done = desk("status", PLN_SSH=f"ssh -F {changed}")
    check(done, 6, "unreachable", "has changed", f"ssh-keygen -R '[127.0.0.1]:{desk.server.port}'")


def test_a_key_that_is_not_let_in_is_denied(desk: Desk) -> None:
    stranger = desk.server.client("stranger", key="stranger_key")
    done = desk("status", PLN_SSH=f"ssh -F {stranger}")
    check(done, 4, "denied", "does not let you in", "(publickey)")


def test_a_host_that_does_not_answer_is_unreachable(desk: Desk) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        done = desk("status", host=f"ssh://127.0.0.1:{held.getsockname()[1]}")
    check(done, 6, "unreachable", "cannot be reached", "Connection refused", "ssh -v")
    done = desk("status", PLN_SSH="/nonexistent/ssh")
    check(done, 6, "unreachable", "ssh cannot be started", "PLN_SSH")


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "me@-x", "a b", "a;b", "$(id)", ""])
def test_what_is_no_host_starts_no_ssh(desk: Desk, host: str) -> None:
    done = subprocess.run(
        [*desk.line("status", host="local")[:3], "--host", host, "status"],
        env={**desk.environment, "PLN_SSH": f"touch {desk.folder / 'started'}"},
        capture_output=True,
        check=False,
    )
    check(done, 2, "usage", "is not a host")
    assert not (desk.folder / "started").exists()


def test_a_machine_without_pln_says_so(desk: Desk) -> None:
    away = desk.server.tools / "gone"
    command = desk.server.tools / "pln"
    command.rename(away)
    try:
        # The name is looked up on the PATH of the tests as well: an installed one would be found.
        desk.server.stop()
        desk.server.start(PATH=f"{desk.server.tools}:/usr/bin:/bin")
        done = desk("status")
        check(done, 6, "unreachable", "has no pln", "command -v pln")
        check(desk("set"), 6, "unreachable", "has no pln")
    finally:
        away.rename(command)
        desk.server.stop()
        desk.server.start()


def test_what_a_login_shell_prints_first_is_skipped(desk: Desk) -> None:
    keys = desk.server.folder / "authorized_keys"
    before = keys.read_text()
    command = 'echo welcome; echo to all; eval \\"$SSH_ORIGINAL_COMMAND\\"'
    keys.write_text(f'command="{command}" {before}')
    try:
        assert desk.ok("call", "echo", "echo", "hi") == "hi"
        keys.write_text(f'command="echo not today; exit 3" {before}')
        check(desk("status"), 6, "unreachable", "not today")
    finally:
        keys.write_text(before)


def test_a_master_that_ssh_keeps_is_shared_and_waited_for_by_nobody(desk: Desk) -> None:
    """``ControlPersist`` leaves an ssh in the background, which is the user's wish and not ours."""
    control = desk.server.folder / "master"
    kept = f" ControlMaster auto\n ControlPath {control}\n ControlPersist 60"
    shared = f"ssh -F {desk.server.client('shared', more=kept)}"
    try:
        assert desk.ok("call", "echo", "echo", "hi", PLN_SSH=shared) == "hi"
        assert control.exists()
        assert len(desk.ok("id", PLN_SSH=shared).strip()) == 64
        assert desk.ok("call", "echo", "echo", "hi", PLN_SSH=shared) == "hi"
    finally:
        line = [*shared.split(), "-O", "exit", "-p", str(desk.server.port), "127.0.0.1"]
        subprocess.run(line, capture_output=True, check=False)


def test_ctrl_c_while_ssh_connects_ends_the_command(desk: Desk) -> None:
    """A listener that says nothing: no ssh comes further than that."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        for verb in ("status", "id"):
            process = subprocess.Popen(
                desk.line(verb, host=f"ssh://127.0.0.1:{held.getsockname()[1]}"),
                env=desk.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            one, _ = held.accept()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=SOON)
            assert process.returncode == 130 and b"Traceback" not in said, said
            one.close()


def test_several_commands_at_once(desk: Desk) -> None:
    lines = [desk.line("call", "echo", "echo", f"number {n}") for n in range(6)]
    started = [
        subprocess.Popen(line, env=desk.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for line in lines
    ]
    said = [process.communicate(timeout=60)[0] for process in started]
    assert said == [f"number {n}".encode() for n in range(6)]


def test_one_ssh_serves_all_connections_of_a_program(desk: Desk) -> None:
    """Two meshes, a stream and the control API."""
    one, other = pollen.connect_sync(desk.server.url), pollen.connect_sync(desk.server.url)
    with one, other:
        assert one.call("echo", "echo", "1").text + other.call("echo", "echo", "2").text == "12"
        stream = iter(one.stream("ticker", "count", "3"))
        assert next(stream) and one.status()["healthy"] and list(stream)
        kinds = ("tunnel", "ssh", "_stdio")
        assert [len(desk.processes(kind)) for kind in kinds] == [1, 1, 1]


def test_ssh_killed_while_idle_the_next_call_reconnects(desk: Desk) -> None:
    with pollen.connect_sync(desk.server.url) as mesh:
        for _ in range(3):
            assert mesh.call("echo", "echo", "hi").text == "hi"
            (ssh,) = desk.processes("ssh")
            ssh.kill()
            soon(lambda pid=ssh.pid: not psutil.pid_exists(pid), "the tunnel sees its ssh end")


def test_ssh_killed_while_idle_the_next_call_reconnects_in_asyncio(desk: Desk) -> None:
    async def talk() -> None:
        async with pollen.connect(desk.server.url) as mesh:
            for _ in range(3):
                assert (await mesh.call("echo", "echo", "hi")).text == "hi"
                (ssh,) = desk.processes("ssh")
                ssh.kill()

                async def is_lost() -> bool:
                    return mesh._at_hand() is None

                await until(is_lost, 20, "the mesh hears of it")

    asyncio.run(talk())


def test_ssh_killed_under_a_call_is_unreachable_and_the_next_one_reconnects(desk: Desk) -> None:
    async def talk() -> None:
        async with pollen.connect(desk.server.url) as mesh:
            call = asyncio.ensure_future(mesh.call("loop", "loop", timeout=30))
            pieces = mesh.stream("ticker", "forever", timeout=30)
            async with pieces:
                assert await anext(pieces)
                desk.processes("ssh")[0].kill()
                with pytest.raises(Unreachable) as error:
                    await asyncio.wait_for(call, 10)
                assert error.value.slug == "unreachable" and error.value.may_have_executed
                with pytest.raises(Unreachable):
                    while True:
                        await asyncio.wait_for(anext(pieces), 10)
            assert (await mesh.call("echo", "echo", "hi")).text == "hi"

    asyncio.run(talk())
    soon(lambda: in_flight(desk, "loop") == in_flight(desk, "ticker") == 0, "guests of nobody run")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_path_that_falls_silent_is_given_up_at_both_ends(desk: Desk) -> None:
    """A call under way ends, the next one has a new ssh, and the far end goes by itself."""
    with pollen.connect_sync(desk.server.url) as mesh:
        assert mesh.call("echo", "echo", "hi").text == "hi"
        (ssh,) = desk.processes("ssh")
        ssh.suspend()
        began = time.monotonic()
        with pytest.raises(Unreachable):
            mesh.call("echo", "echo", "hi", timeout=100)
        assert time.monotonic() - began < SILENT + 2 * PING
        assert mesh.call("echo", "echo", "hi").text == "hi"
        (tunnel,), (ssh,) = desk.processes("tunnel"), desk.processes("ssh")
        tunnel.suspend()

        async def is_gone() -> bool:
            return not desk.processes("_stdio")

        what = "the far end waits for a desk that is gone"
        try:
            asyncio.run(until(is_gone, SILENT + 2 * PING, what))
        finally:
            tunnel.resume()
        soon(lambda: not psutil.pid_exists(ssh.pid), "the tunnel sees its ssh end")
        assert mesh.call("echo", "echo", "hi").text == "hi"


def test_a_tunnel_that_is_killed_is_started_again(desk: Desk) -> None:
    with pollen.connect_sync(desk.server.url) as mesh:
        assert mesh.call("echo", "echo", "hi").text == "hi"
        (tunnel,) = desk.processes("tunnel")
        tunnel.kill()
        soon(lambda: desk.everything() == [], "its ssh and the far end go with it")
        assert mesh.call("echo", "echo", "hi").text == "hi"


def test_a_killed_command_leaves_nothing_and_its_call_ends(desk: Desk) -> None:
    """The command, then both it and its tunnel at once."""
    made = desk.folder / "tmp"
    made.mkdir()
    for is_both in (False, True):
        process = subprocess.Popen(
            desk.line("call", "--stream", "ticker", "forever"),
            env={**desk.environment, "TMPDIR": str(made)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None and process.stdout.readline()
        if is_both:
            desk.processes("tunnel")[0].kill()
        process.kill()
        process.wait()
        process.stdout.close()
        soon(lambda: desk.everything() == [], "what the command started is left behind")
        soon(lambda: in_flight(desk, "ticker") == 0, "the call of a killed command goes on")
    assert list(made.iterdir()) == []


def test_ctrl_c_ends_a_stream_and_its_guest(desk: Desk) -> None:
    process = subprocess.Popen(
        desk.line("call", "--stream", "ticker", "forever"),
        env=desk.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    soon(lambda: in_flight(desk, "ticker") == 0, "the guest goes on after Ctrl-C")


def test_a_load_whose_client_is_killed_ends(desk: Desk) -> None:
    process = subprocess.Popen(
        desk.line("load", "loop", "--duration", "60s", "--concurrency", "2"),
        env=desk.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    soon(lambda: in_flight(desk, "loop") > 0, "the load begins")
    process.kill()
    process.wait()
    soon(lambda: in_flight(desk, "loop") == 0, "the load goes on for nobody")


def test_a_reader_that_rests_stops_no_other_call(desk: Desk) -> None:
    """Each stream has its own credit on the one ssh."""
    with pollen.connect_sync(desk.server.url) as mesh:
        resting = iter(mesh.stream("ticker", "flood", str(64 << 20), timeout=60))
        assert next(resting)
        for number in range(20):
            assert mesh.call("echo", "echo", f"{number}", timeout=10).text == f"{number}"
        resting.close()  # type: ignore[attr-defined]
    soon(lambda: in_flight(desk, "ticker") == 0, "the flood goes on")


def test_large_inputs_and_outputs_pass_whole(desk: Desk) -> None:
    data = os.urandom(3 << 20)
    with pollen.connect_sync(desk.server.url) as mesh:
        assert mesh.call("echo", "echo", data).data == data


def _called(url: str, answers: multiprocessing.Queue[str]) -> None:
    answers.put(_mesh.call("echo", "echo", "from a child").text)


_mesh: pollen.SyncMesh


def test_a_forked_child_has_connections_of_its_own(desk: Desk) -> None:
    global _mesh  # noqa: PLW0603 - what a fork inherits
    _mesh = pollen.connect_sync(desk.server.url)
    with _mesh:
        assert _mesh.call("echo", "echo", "hi").text == "hi"
        fork = multiprocessing.get_context("fork")
        answers: multiprocessing.Queue[str] = fork.Queue()
        child = fork.Process(target=_called, args=(desk.server.url, answers))
        child.start()
        assert answers.get(timeout=30) == "from a child"
        child.join()
        assert _mesh.call("echo", "echo", "hi").text == "hi"
        assert len(desk.processes("ssh")) == 1


def test_a_node_that_stops_is_told_from_a_machine_that_does(desk: Desk) -> None:
    """A frozen daemon there is ``daemon-not-answering``, as it is here."""
    desk.node.pause()
    try:
        check(desk("status"), 6, "daemon-not-answering", "pln", "doctor")
    finally:
        desk.node.resume()


def rate(desk: Desk, calls: int) -> float:
    """Calls a second through one ssh, 64 under way."""

    async def measure() -> float:
        async with pollen.connect(desk.server.url) as mesh:
            echo = mesh.function("echo", "echo")
            await echo(b"warm")
            began = time.perf_counter()
            count = 0
            async for reply in echo.map([b"x" * 100] * calls):
                count += len(reply.data) == 100
            assert count == calls
            return calls / (time.perf_counter() - began)

    found = asyncio.run(measure())
    print(f"{found:.0f} calls a second over ssh, {os.cpu_count()} cores")
    return found


def test_many_calls_a_second_go_through_one_ssh(desk: Desk) -> None:
    """A smoke: the strict number is below, for an idle machine."""
    assert rate(desk, 2_000) > SMOKE_RATE


@pytest.mark.slow
def test_two_thousand_calls_a_second_go_through_one_ssh(desk: Desk) -> None:
    """Twenty thousand calls at the rate that a desk is promised."""
    assert rate(desk, 10 * RATE) >= RATE


def test_a_wrong_context_is_usage(desk: Desk) -> None:
    check(desk("status", host="nowhere"), 2, "usage", "no context named", "pln context list")
    with pytest.raises(PollenError, match="is not a host"):
        pollen.connect("ssh://-x")
