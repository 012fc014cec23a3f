"""Ordinary programs reach each other through a service, as Debian packages them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen.testing import Cluster, until
from tests.e2e.serving import LOOPBACK, knows, listener, serve, server, until_end

# `.ci/programs` installs them; it belongs to `make accept`.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
NOBODY = 65_534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user may enter."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def program(name: str) -> str:
    """Where a program is; the test is skipped without it."""
    for place in (name, f"/usr/sbin/{name}", *Path("/usr/lib/postgresql").glob(f"*/bin/{name}")):
        if found := shutil.which(str(place)):
            return found
    pytest.skip(f"{name} is not installed: .ci/programs")


def free_port() -> int:
    """A port that is free for streams and for datagrams."""
    while True:
        with socket.socket() as held, socket.socket(type=socket.SOCK_DGRAM) as beside:
            held.bind((LOOPBACK, 0))
            with contextlib.suppress(OSError):
                beside.bind(held.getsockname())
                return int(held.getsockname()[1])


@contextlib.asynccontextmanager
async def begun(*line: str, port: int = 0, **more: Any) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A server that runs, and answers at its TCP port; it is ended behind the test."""
    held = subprocess.Popen(line, stdin=subprocess.DEVNULL, start_new_session=True, **more)

    async def answers() -> bool:
        assert held.poll() is None, f"{line[0]} ended with {held.returncode}"
        with socket.socket() as tried:
            return tried.connect_ex((LOOPBACK, port)) == 0

    try:
        if port:
            await until(answers, 20, f"{line[0]} answers")
        yield held
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(held.pid, signal.SIGTERM)
        await asyncio.to_thread(held.wait, 20)


async def ran(*line: str, stdin: bytes = b"", timeout: float = 120, **more: Any) -> bytes:
    """What a client prints when it ends well."""
    done = await asyncio.to_thread(
        subprocess.run,
        line,
        input=stdin,
        capture_output=True,
        timeout=timeout,
        check=False,
        **more,
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    return bytes(done.stdout)


async def through(two: Cluster, target: int | str, name: str) -> str:
    """A service of a, and the port of b's listener to it."""
    await serve(two[0], target, name)
    await knows(two[1], name, "a")
    return (await listener(two[1], name)).rpartition(":")[2]


async def test_curl_reads_from_nginx(two: Cluster, folder: Path) -> None:
    """A file of 64 MB, a range of it, many at once over kept connections, and by the proxy."""
    nginx, curl = program("nginx"), program("curl")
    (folder / "root").mkdir()
    data = os.urandom(64 << 20)
    (folder / "root" / "large").write_bytes(data)
    (folder / "root" / "small").write_bytes(data[:1_000])
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; worker_processes 1;\n"
        "events { worker_connections 512; }\n"
        f"http {{ access_log off; server {{ listen {LOOPBACK}:{port}; root {folder}/root; }} }}\n"
    )
    async with begun(nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), port=port):
        at = await through(two, port, "nginx")
        url = f"http://{LOOPBACK}:{at}"
        quiet = (curl, "-sSf", "--max-time", "60", "--noproxy", "*")
        assert await ran(*quiet, f"{url}/large") == data
        assert (
            await ran(*quiet, "-r", "1000000-1000999", f"{url}/large") == data[1_000_000:1_001_000]
        )
        got = folder / "got"
        many = ("--parallel", "--parallel-max", "50", "--create-dirs", "-o", f"{got}/#1")
        await ran(*quiet, *many, f"{url}/small?[1-1000]")
        assert [f.read_bytes() for f in got.iterdir()] == [data[:1_000]] * 1_000
        # No service: the proxy.
        bound = await listener(two[1], "")
        named = (curl, "-sSf", "--max-time", "60", "--noproxy", "", "-x", f"socks5h://{bound}")
        assert await ran(*named, "http://nginx.pln/large") == data


async def test_redis_is_measured_by_its_own_benchmark(two: Cluster, folder: Path) -> None:
    """Fifty connections, with and without pipelining; a subscriber hears what is published."""
    port = free_port()
    redis = (program("redis-server"), "--port", str(port), "--bind", LOOPBACK, "--save", "")
    async with begun(*redis, "--dir", str(folder), port=port, stdout=subprocess.DEVNULL):
        at = await through(two, port, "redis")
        measure = (program("redis-benchmark"), "-h", LOOPBACK, "-p", at, "-c", "50", "--csv")
        for more in (("-n", "20000"), ("-n", "100000", "-P", "16")):
            said = await ran(*measure, "-t", "set,get,lrange_100", *more)
            print(said.decode())
            assert said.count(b"\n") == 5, "a head, SET, GET, LPUSH and LRANGE"
        client = (program("redis-cli"), "-h", LOOPBACK, "-p", at)
        line = [*client, "subscribe", "news"]
        with subprocess.Popen(line, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as hears:
            out = hears.stdout
            assert out is not None

            async def is_heard() -> bool:
                return int(await ran(*client, "publish", "news", "pollen")) == 1

            try:
                await until(is_heard, 10, "the subscriber is there")
                said = await asyncio.to_thread(lambda: [out.readline() for _ in range(6)])
            finally:
                hears.kill()
        assert said[-1] == b"pollen\n", said


async def test_psql_copies_and_cancels(two: Cluster, folder: Path) -> None:
    """200,000 rows there and back; a cancel is a connection of its own to the same server."""
    initdb, postgres, psql = program("initdb"), program("postgres"), program("psql")
    user: dict[str, Any] = (
        {"user": NOBODY, "group": NOBODY, "cwd": "/tmp"} if os.getuid() == 0 else {}
    )
    data = folder / "data"
    data.mkdir(mode=0o700)
    if user:
        os.chown(data, NOBODY, NOBODY)
    await ran(initdb, "-D", str(data), "-U", "pollen", "-A", "trust", "-N", **user)
    port = free_port()
    line = (postgres, "-D", str(data), "-p", str(port), "-h", LOOPBACK, "-k", "", "-F")
    async with begun(*line, port=port, stderr=subprocess.DEVNULL, **user):
        at = await through(two, port, "postgres")
        client = (psql, "-h", LOOPBACK, "-p", at, "-U", "pollen", "-d", "postgres", "-X", "-At")

        async def is_up() -> bool:
            tried = await asyncio.to_thread(
                subprocess.run, [*client, "-c", "SELECT 1"], capture_output=True, check=False
            )
            return tried.returncode == 0

        await until(is_up, 20, "the database takes connections")
        rows = "".join(f"{n}\t{n * n}\n" for n in range(200_000)).encode()
        await ran(*client, "-c", "CREATE TABLE held (n bigint, square bigint)")
        await ran(*client, "-c", r"\copy held FROM STDIN", stdin=rows)
        assert await ran(*client, "-c", r"\copy (SELECT * FROM held ORDER BY n) TO STDOUT") == rows
        slow = subprocess.Popen(
            [*client, "-c", "SELECT pg_sleep(60)"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

        async def sleeps() -> bool:
            query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
            return int(await ran(*client, "-c", query)) == 1

        await until(sleeps, 10, "the query runs")
        slow.send_signal(signal.SIGINT)
        _, said = await asyncio.to_thread(slow.communicate, timeout=10)
        assert b"canceling statement due to user request" in said


@contextlib.asynccontextmanager
async def shell(folder: Path) -> AsyncIterator[tuple[int, list[str]]]:
    """A server of OpenSSH for this user: its port, and what a client needs to enter."""
    for name in ("host", "key"):
        await ran(program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    folder.chmod(0o755)
    port = free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress {LOOPBACK}\nHostKey {folder}/host\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/key.pub\nPermitRootLogin yes\nPidFile none\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    options = ["-F", "none", "-i", str(folder / "key"), "-o", "BatchMode=yes"]
    options += ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={folder}/known"]
    async with begun(program("sshd"), "-D", "-f", str(folder / "sshd_config"), port=port):
        yield port, options


@pytest.mark.parametrize("way", ["connect", "stdio"])
async def test_ssh_runs_commands(two: Cluster, folder: Path, way: str) -> None:
    """By a listener and by ProxyCommand: what goes in and comes out, and how a command ends."""
    async with shell(folder) as (port, options):
        at = await through(two, port, f"ssh-{way}")
        if way == "stdio":
            command = " ".join(two[1].command("-m", "pollen.cli", "--dir", str(two[1].home)))
            options += ["-o", f"ProxyCommand={command} connect --stdio ssh-{way}"]
        line = [program("ssh"), *options, "-p", at, LOOPBACK]
        data = os.urandom(16 << 20)
        assert (await ran(*line, "sha256sum", stdin=data)).split()[0].decode() == (
            hashlib.sha256(data).hexdigest()
        )
        done = await asyncio.to_thread(subprocess.run, [*line, "exit 7"], check=False)
        assert done.returncode == 7


def tree(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


async def test_rsync_copies_ten_thousand_files(two: Cluster, folder: Path) -> None:
    """Over ssh; a second run sends nothing."""
    rsync = program("rsync")
    for number in range(10_000):
        place = folder / "from" / str(number % 100)
        place.mkdir(parents=True, exist_ok=True)
        (place / str(number)).write_bytes(os.urandom(number % 3_000))
    async with shell(folder) as (port, options):
        at = await through(two, port, "rsync")
        by = " ".join([program("ssh"), *options, "-p", at])
        line = (rsync, "-a", "--stats", "-e", by, f"{folder}/from/", f"{LOOPBACK}:{folder}/to")
        assert b"files transferred: 10,000" in await ran(*line)
        assert b"files transferred: 0" in await ran(*line)
    assert tree(folder / "to") == tree(folder / "from")


async def test_dig_asks_over_udp_and_tcp(two: Cluster, folder: Path) -> None:
    """A short answer, one of 3,000 bytes, and the same by TCP."""
    port = free_port()
    text = [f"{n}{'x' * 240}" for n in range(12)]
    line = [program("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv"]
    line += ["--no-hosts", f"--listen-address={LOOPBACK}", "--bind-interfaces", f"--port={port}"]
    line += ["--user=", "--pid-file", "--edns-packet-max=4096", "--address=/home.test/192.0.2.7"]
    line += [f"--txt-record=long.test,{','.join(text)}"]
    async with begun(*line, port=port):
        at = {
            "+notcp": await through(two, f"udp:{port}", "names"),
            "+tcp": await through(two, port, "names-tcp"),
        }
        for way, where in at.items():
            ask = (program("dig"), f"@{LOOPBACK}", "-p", where, way, "+short", "+bufsize=4096")
            assert await ran(*ask, "+ignore", "home.test") == b"192.0.2.7\n"
            long = (await ran(*ask, "+ignore", "long.test", "TXT")).decode()
            assert all(part in long for part in text)


async def test_netcat_ends_its_half(two: Cluster) -> None:
    """``nc -N`` sends an end of input and still reads the answer."""
    data = os.urandom(4 << 20)
    async with server(until_end) as port:
        at = await through(two, port, "netcat")
        said = await ran(program("nc"), "-N", LOOPBACK, at, stdin=data)
    assert said.decode().split() == [str(len(data)), hashlib.sha256(data).hexdigest()]


_CHAT = """
import asyncio, sys, websockets
async def serve():
    there = set()
    async def one(socket, *_):
        there.add(socket)
        async for said in socket:
            for other in list(there):
                await other.send(said)
    async with websockets.serve(one, "127.0.0.1", int(sys.argv[2]), max_size=None):
        await asyncio.Future()
async def talk():
    url = f"ws://127.0.0.1:{sys.argv[2]}/"
    held = [await websockets.connect(url, max_size=None) for _ in range(20)]
    for socket in held:
        await (await socket.ping())
    for number, socket in enumerate(held):
        said = "x" * 1_000_000 if number == 0 else f"hello from {number}"
        await socket.send(said)
        assert await asyncio.gather(*[other.recv() for other in held]) == [said] * 20
    for socket in held:
        await socket.close()
    print("done", held[0].close_code if hasattr(held[0], "close_code") else 1000)
asyncio.run(serve() if sys.argv[1] == "serve" else talk())
"""


async def test_a_chat_over_websockets(two: Cluster, folder: Path) -> None:
    """Twenty clients of Debian's library hear each other, pings and a message of 1 MB among it."""
    python = "/usr/bin/python3"
    script = folder / "chat.py"
    script.write_text(_CHAT)
    if subprocess.run(
        [python, "-c", "import websockets"], check=False, capture_output=True
    ).returncode:
        pytest.skip("python3-websockets is not installed: .ci/programs")
    port = free_port()
    async with begun(python, str(script), "serve", str(port), port=port):
        at = await through(two, port, "chat")
        assert (await ran(python, str(script), "talk", at)).startswith(b"done 1000")
