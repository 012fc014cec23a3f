"""The daemon and its machine: ports, folders, peers of another kind, bugs, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pollen import _native
from pollen.errors import PollenError
from pollen.lock import start_time
from pollen.runtime.loop.store import Store
from pollen.testing import Cluster, Node, until
from tests import others, recorder
from tests.e2e.conftest import example
from tests.e2e.talk import alive, check_error, logged, metric, settles
from tests.native.muscle import Muscle, wait_for

pytestmark = pytest.mark.timeout(60)
SLOW_PRIMES = b"6000000"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as home:
        yield Path(home)


async def run_daemon(home: Path, *options: str) -> tuple[int, str]:
    """A daemon that is expected to end at its start: exit code and words."""
    line = ["-m", "pollen.runtime", "--dir", str(home), *options]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *line,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, err = await asyncio.wait_for(process.communicate(), 30)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    recorder.note_words(err)
    return process.returncode or 0, err.decode()


def check_words(code: int, words: str, slug: str) -> None:
    """What a daemon in the foreground says when it cannot start."""
    lines = words.splitlines()
    assert code == 1 or slug == "config-invalid"
    assert lines[0].startswith("error: ")
    assert lines[-1] == f"  [{slug}]"
    assert len(lines) >= 3, words
    assert "Traceback" not in words


def is_up(node: subprocess.Popen[bytes], home: Path) -> bool:
    """Whether it has a socket, or ended; looked at each tenth of a second."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        node.wait(0.1)
    return (home / "control.sock").exists() or node.poll() is not None


@pytest.mark.parametrize("way", [["up", "-d"], ["up"]])
def test_a_node_is_not_made_of_what_lies_in_the_users_folder(folder: Path, way: list[str]) -> None:
    """``python -m`` looks there first; a folder that is called pollen is no node."""
    (folder / "here" / "pollen").mkdir(parents=True)
    (folder / "here" / "pollen" / "__init__.py").write_text("raise SystemExit('not pollen')\n")
    pln = [str(Path(sys.executable).with_name("pln")), "--dir", str(folder / "home")]
    subprocess.run([*pln, "init"], check=True, capture_output=True)
    line = [*pln, *way, "--ips", "127.0.0.1", "--port", "0"]
    said = (folder / "said").open("wb")
    with said, subprocess.Popen(line, cwd=folder / "here", stdout=said, stderr=said) as node:
        try:
            if way == ["up"]:
                wait_for(lambda: is_up(node, folder / "home"), "the node answers")
                assert node.poll() is None, (folder / "said").read_text()
            else:
                assert node.wait(30) == 0, (folder / "said").read_text()
        finally:
            subprocess.run([*pln, "down", "--force"], check=False, capture_output=True)
            node.kill()
    assert "not pollen" not in (folder / "said").read_text()


# -- ports ------------------------------------------------------------------------------------


async def test_a_port_in_use(pair: Cluster, folder: Path) -> None:
    code, words = await run_daemon(folder, "--listen", pair[0].address)
    check_words(code, words, "port-in-use")
    port = pair[0].address.rpartition(":")[2]
    line = ["up", "-d", "--ips", "127.0.0.1", "--port", port]
    done = await Node("x", folder, "", None).pln(*line)
    assert done.returncode == 1 and b"[port-in-use]" in done.stderr
    assert port.encode() in done.stderr
    await alive(*pair)


async def test_a_port_in_use_for_http(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        door = f"127.0.0.1:{held.getsockname()[1]}"
        code, words = await run_daemon(folder, "--listen", "127.0.0.1:0", "--http", door)
    check_words(code, words, "port-in-use")


async def test_an_address_that_is_none(folder: Path) -> None:
    code, words = await run_daemon(folder, "--listen", "nonsense")
    assert code == 2 and "[config-invalid]" in words and "nonsense" in words


# -- folders ----------------------------------------------------------------------------------


async def test_a_folder_that_is_a_file(folder: Path) -> None:
    file = folder / "file"
    file.touch()
    check_words(*await run_daemon(file, "--listen", "127.0.0.1:0"), "state-unusable")


async def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    """Somebody else's; for root, which may write anywhere, one that belongs to another user."""
    if others.can_become():
        os.chown(folder, others.NOBODY, others.NOBODY)
    elif os.geteuid() == 0:
        folder = Path("/sys")
    else:
        folder.chmod(0o500)
    check_words(*await run_daemon(folder, "--listen", "127.0.0.1:0"), "state-unusable")


async def test_a_socket_path_over_107_bytes(folder: Path) -> None:
    code, words = await run_daemon(folder / ("d" * 100), "--listen", "127.0.0.1:0")
    check_words(code, words, "path-too-long")
    assert "PLN_DIR=" in words


DAMAGES = {
    "text": ("state.db", b"this is no database\n" * 100, "state-unusable"),
    "an empty key": ("node.key", b"", "state-unusable"),
    "a key of zeros": ("node.key", b"\0" * 77, "state-unusable"),
    "a content store of text": ("content/blobs.db", b"garbage", "state-unusable"),
    "no settings": ("config.toml", b"listen = ", "config-invalid"),
    "an unknown setting": ("config.toml", b'lisen = ["127.0.0.1:0"]\n', "config-invalid"),
}


@pytest.mark.parametrize("what", DAMAGES)
async def test_a_damaged_folder(folder: Path, what: str) -> None:
    name, content, slug = DAMAGES[what]
    node = Node("x", folder, "127.0.0.1:0", None)
    assert (await node.pln("init", "--name", "x")).returncode == 0
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    check_words(*await run_daemon(folder, "--listen", "127.0.0.1:0"), slug)
    assert (folder / name).read_bytes() == content


async def test_a_store_that_was_cut_off(folder: Path) -> None:
    node = Node("x", folder, "127.0.0.1:0", None)
    assert (await node.pln("init", "--name", "x")).returncode == 0
    held = node.paths.store.read_bytes()
    node.paths.store.write_bytes(held[: len(held) // 2 + 100])
    check_words(*await run_daemon(folder, "--listen", "127.0.0.1:0"), "state-unusable")


async def test_damaged_caches_are_made_again(folder: Path) -> None:
    """Compiled code and content are no state: what is spoiled there is not fatal."""
    async with Cluster(2) as cluster:
        await cluster.seed(example("echo"), "echo", on=["a", "b"])
        node = cluster[1]
        await node.stop()
        for code in (node.home / "code").glob("*"):
            code.write_bytes(b"spoiled")
        await node.start()
        await cluster.linked()
        await cluster.ready("echo", on=["a", "b"])
        await alive(*cluster)


async def test_content_that_was_deleted_comes_from_a_peer_or_is_asked_for() -> None:
    """Where nobody has it, a call says so at its end, and how to bring it back; seeding does."""
    async with Cluster(2, properties={"b": {"role": "spare"}}) as cluster:
        b = cluster[1]
        alone = (str(example("shout")), "alone", "--host-prop", "role=spare")
        await cluster.seed(example("echo"), "echo", on=["a", "b"])
        assert (await b.pln("seed", *alone)).returncode == 0
        await b.stop()
        for name in ("content", "code"):
            shutil.rmtree(b.home / name)
        await b.start()
        await cluster.linked()
        await cluster.ready("echo", on=["a", "b"])
        told = (await b.pln("call", "alone", "shout", "x", "--timeout", "3s")).stderr.decode()
        assert "no holder of the content sent it" in told
        assert "or seed it again: pln" in told
        again = await b.pln("seed", *alone)
        assert again.returncode == 0, again.stderr
        await cluster.ready("alone", on=["b"])
        await alive(*cluster)


async def test_a_second_daemon_on_the_same_folder(pair: Cluster) -> None:
    code, words = await run_daemon(pair[0].home, "--listen", "127.0.0.1:0")
    check_words(code, words, "already-running")
    assert str(pair[0].pid) in words
    await alive(*pair)


async def test_what_a_killed_daemon_left_is_no_obstacle(folder: Path) -> None:
    async with Cluster(1) as cluster:
        for _ in range(2):
            await cluster[0].kill()
            assert cluster[0].paths.pid_file.exists()
            await cluster[0].start()
        await cluster.seed(example("echo"), "echo")
        await alive(*cluster)


# -- peers of another kind --------------------------------------------------------------------


async def enrolled(cluster: Cluster, home: Path) -> tuple[_native.KeyPair, bytes, bytes]:
    """A member that was never started: its key, cluster and chain."""
    token = (await cluster[0].post("/v1/invites", {"tier": "leaf"}))["token"]
    node = Node("odd", home, "", None)
    assert (await node.pln("join", "--no-up", "--name", "odd", token)).returncode == 0
    from pollen.core.restoring import read_identity

    store = Store(node.paths.store)
    try:
        held = read_identity(store.load())
    finally:
        store.close()
    assert held is not None
    return _native.KeyPair.load(str(node.paths.node_key)), held.cluster, held.chain


@pytest.mark.parametrize("what", ["version", "cluster", "chain", "nobody"])
async def test_a_peer_that_does_not_belong_here(pair: Cluster, folder: Path, what: str) -> None:
    """It is told a code and no more; whoever it is, the nodes go on."""
    key, cluster, chain = await enrolled(pair, folder)
    minor, code = (99, 2) if what == "version" else (1, 1)
    cluster = b"x" * 32 if what == "cluster" else cluster
    chain = b"\x91\xc1garbage" if what == "chain" else chain
    key = _native.KeyPair.generate() if what == "nobody" else key
    peer = bytes.fromhex((await pair[0].status())["node"])
    odd = Muscle(key=key)
    try:
        odd.raw.set_hello(cluster=cluster, minor_min=minor, minor_max=minor, chain=chain)
        odd.raw.dial(peer, [pair[0].address])
        told: list[tuple[str, int, str]] = []

        def is_told() -> bool:
            odd.take(0.1)
            for event in odd.events:
                if event["t"] == "link_closed":
                    told.append((event["t"], event["code"], event["reason"]))
                if event["t"] == "dial_failed":
                    seen = 2 if event["slug"] == "version-mismatch" else 1
                    told.append((event["t"], seen, event["reason"]))
            return bool(told)

        await asyncio.to_thread(wait_for, is_told, "the link is closed")
    finally:
        await asyncio.to_thread(odd.raw.close, 0)
    assert told[0][1] == code, told
    assert sum((await pair[0].status())["rejections"].values()) > 0
    await alive(*pair)


# -- bugs -------------------------------------------------------------------------------------


async def start_broken(home: Path) -> Node:
    """A node with planted bugs, running."""
    node = Node("x", home, "127.0.0.1:0", None)
    assert (await node.pln("init", "--name", "x")).returncode == 0
    line = node.command("-m", "tests.e2e.broken_node", "--dir", str(home), "--listen", node.address)
    with (home / "stderr.txt").open("ab") as words:
        node.process = subprocess.Popen(line, stdout=words, stderr=words)

    async def answers() -> bool:
        try:
            return bool((await node.get("/v1/health"))["state"] == "running")
        except PollenError:
            return False

    await until(answers, 20, "the broken node answers")
    return node


async def test_an_exception_in_the_driver_is_told_and_survived(folder: Path) -> None:
    node = await start_broken(folder)
    try:
        problem = check_error(await node.pln("unseed", "--json", "boom"), "internal")
        assert "this is a bug in pollen: RuntimeError: a planted bug" in problem["title"]
        assert await metric(node, "brain_faults_total") == 1
        assert (await node.status())["healthy"]
        (line,) = logged(node, "a planted bug")[:1]
        assert line["event"] == "fault" and "boom" in line["input"]
    finally:
        await node.stop()
    assert node.process is not None and node.process.returncode == 0


async def test_a_driver_that_fails_again_and_again_gives_up_in_order(folder: Path) -> None:
    node = await start_broken(folder)
    assert node.process is not None
    for _ in range(10):
        await node.pln("unseed", "boom")
    assert await asyncio.to_thread(node.process.wait, 20) == 70
    assert logged(node, "giving-up")
    await node.start()
    assert (await node.status())["healthy"]
    await node.stop()


async def test_a_broken_invariant_ends_the_daemon_at_once(folder: Path) -> None:
    node = await start_broken(folder)
    assert node.process is not None
    await node.pln("unseed", "broken")
    assert await asyncio.to_thread(node.process.wait, 20) == 70
    assert not node.paths.pid_file.exists()


# -- the end ----------------------------------------------------------------------------------

# The grace of a shutdown: a busy machine takes its time.
PATIENT = {"grace_ms": "30s"}


@pytest.mark.parametrize("how", ["here", "nested", "there"])
async def test_a_call_in_flight_ends_before_the_node_does(how: str) -> None:
    """It runs on the node that stops, waits there for a nested call, or was sent to a peer."""
    places = {"a": {"at": "a"}, "b": {"at": "b"}}
    async with Cluster(2, properties=places, settings=PATIENT) as cluster:
        a, b = cluster
        away = "b" if how != "here" else "a"
        await cluster.seed(example("primes"), "primes", on=[away], host=[["at", away]])
        await cluster.seed(example("relay"), "relay", on=["a"], host=[["at", "a"]])
        async with a.connect() as mesh:
            if how == "nested":
                data = b"pln://seed/primes/primes\n" + SLOW_PRIMES
                call = asyncio.ensure_future(mesh.call("relay", "relay", data, retries=0))
            else:
                call = asyncio.ensure_future(mesh.call("primes", "primes", SLOW_PRIMES, retries=0))
            await settles(a if how == "here" else b, "calls_running", 1)
            assert a.process is not None
            a.process.send_signal(signal.SIGTERM)
            reply = await call
        assert reply.text == "412849"
        assert await asyncio.to_thread(a.process.wait, 40) == 0


async def test_a_node_that_stops_takes_no_more_calls() -> None:
    async with Cluster(1, settings=PATIENT) as cluster:
        (a,) = cluster
        for name in ("primes", "echo"):
            await cluster.seed(example(name), name)
        async with a.connect() as mesh, a.connect() as late:
            call = asyncio.ensure_future(mesh.call("primes", "primes", SLOW_PRIMES, retries=0))
            await settles(a, "calls_running", 1)
            assert a.process is not None
            a.process.send_signal(signal.SIGTERM)
            errors: list[PollenError] = []

            async def is_refused() -> bool:
                try:
                    await late.call("echo", "echo", b"late", retries=0)
                except PollenError as error:
                    errors.append(error)
                return bool(errors)

            await until(is_refused, 10, "a late call is refused")
            assert errors[0].slug in ("unreachable", "daemon-not-running")
            assert (await call).text == "412849"
        assert await asyncio.to_thread(a.process.wait, 40) == 0
        assert not a.paths.pid_file.exists()
        assert not a.paths.control_socket.exists()
        assert not a.paths.call_socket.exists()


async def test_a_call_that_does_not_end_is_cut_after_the_grace() -> None:
    async with Cluster(1) as cluster:
        (a,) = cluster
        await cluster.seed(example("loop"), "loop")
        async with a.connect() as mesh:
            call = asyncio.ensure_future(mesh.call("loop", "loop", timeout=30, retries=0))
            await settles(a, "calls_running", 1)
            await a.post("/v1/shutdown", {"grace_ms": 300, "drain": True})
            assert a.process is not None
            assert await asyncio.to_thread(a.process.wait, 10) == 0
            with pytest.raises(PollenError) as cut:
                await call
        assert cut.value.slug == "unreachable" and cut.value.may_have_executed


async def test_ctrl_c_ends_a_daemon_in_the_foreground(folder: Path) -> None:
    async with Cluster(1) as cluster:
        process = cluster[0].process
        assert process is not None
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 20) == 0


async def test_pln_up_and_down(folder: Path) -> None:
    """The detached node, with no init system: up, twice, logs, restart, down, twice."""
    node = Node("x", folder, "", None)
    line = ["up", "-d", "--ips", "127.0.0.1", "--port", "0", "--name", "solo"]
    done = await node.pln(*line)
    assert done.returncode == 0, done.stderr
    assert b"started a NEW cluster" in done.stderr and b"join TOKEN" in done.stderr
    assert b"up: node solo" in done.stdout
    pid = json.loads(node.paths.pid_file.read_text())["pid"]
    assert os.getsid(pid) != os.getsid(0)
    check = await node.pln(*line)
    assert check.returncode == 1 and b"[already-running]" in check.stderr
    assert b"up" in (await node.pln("logs")).stdout
    assert (await node.pln("down")).returncode == 0
    assert start_time(pid) == ""
    check_error(await node.pln("status", "--json"), "daemon-not-running")
    assert (await node.pln("down")).returncode == 6
    assert b"up" in (await node.pln("logs")).stdout
