"""Clusters of real daemons on this machine, for tests, demos and experiments.

::

    async with Cluster(3) as cluster:
        a, b, c = cluster
        await cluster.seed("echo.wasm", "echo")
        async with b.connect() as mesh:
            reply = await mesh.call("echo", data=b"hi")
        await a.kill()

Every node is a process of its own, in a folder of its own, on loopback, or in a network namespace
of its own (``namespaces=True``, which needs the right to make them) where it can be cut off from
others. Nothing is left behind: processes, folders and namespaces go when the block ends, also by
Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pollen.errors import PollenError
from pollen.paths import Paths, resolve
from pollen.sdk.client import Mesh, connect
from pollen.sdk.control import Control
from pollen.sdk.python.publish import publish_source
from pollen.testing.namespaces import Network, Spaces

START = 30.0
STOP = 20.0
SETTLE = 30.0
_POLL = 0.02
# Of the 107 bytes of a socket's path: the rest is for /pln-xxxxxxxx/a/control.sock.
_FOLDER_MAX = 75


class Node:
    """One daemon of a cluster. ``name`` is its node name, ``home`` its folder."""

    def __init__(self, name: str, home: Path, address: str, network: Spaces | None) -> None:
        self.name = name
        self.home = home
        self.address = address
        self.paths: Paths = resolve(str(home))
        self.process: subprocess.Popen[bytes] | None = None
        self._network = network

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.address} in {self.home}>"

    @property
    def pid(self) -> int:
        """The daemon's process; raises ``PollenError`` when it was never started."""
        if self.process is None:
            raise PollenError("daemon-not-running", f"{self.name} was not started")
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self.process is not None and self.process.poll() is None

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``python -m …`` in this node's network."""
        line = [sys.executable, *arguments]
        return line if self._network is None else self._network.inside(self.name, line)

    async def pln(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run ``pln --dir HOME …`` and return what it printed; the exit code is not checked.

        Cancelled, it kills the command and waits for its end, so that nothing writes to the folder.
        """
        line = self.command("-m", "pollen.cli", "--dir", str(self.home), *arguments)
        pipe = subprocess.PIPE
        process = subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe)
        # A thread, not asyncio's child watcher: the loop may be closed by Ctrl-C while it runs.
        talk = asyncio.ensure_future(asyncio.to_thread(process.communicate, stdin))
        try:
            out, err = await asyncio.shield(talk)
        except asyncio.CancelledError:
            process.kill()
            await talk
            raise
        return subprocess.CompletedProcess(line, process.returncode, out, err)

    async def start(self, *options: str) -> None:
        """Start the daemon and wait until it answers. Raises with its last words when it ends."""
        line = self.command("-m", "pollen.runtime", "--dir", str(self.home))
        line += ["--listen", self.address, "--name", self.name, *options]
        with (self.home / "stderr.txt").open("ab") as words:
            self.process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=words, stderr=words
            )
        await until(self._answers, START, f"{self.name} answers")

    async def _answers(self) -> bool:
        if not self.is_running:
            raise PollenError("internal", f"{self.name} ended at its start:\n{self.last_words()}")
        try:
            return bool((await self.get("/v1/health"))["state"] == "running")
        except PollenError:
            return False

    async def get(self, path: str) -> dict[str, Any]:
        """A GET of the control API."""
        return await asyncio.to_thread(Control(self.paths).get, path)

    async def status(self) -> dict[str, Any]:
        """What ``pln status --json`` prints there."""
        return await self.get("/v1/status")

    async def post(self, path: str, body: object) -> dict[str, Any]:
        """A POST of the control API."""
        return await asyncio.to_thread(Control(self.paths).request, "POST", path, body)

    def connect(self) -> Mesh:
        """The SDK's connection to this node: ``async with node.connect() as mesh``."""
        return connect(self.home)

    async def kill(self) -> None:
        """``kill -9`` and wait for the end."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Ask it to end in order, and wait."""
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        process = self.process
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        if number is not signal.SIGKILL:
            process.send_signal(signal.SIGCONT)
        try:
            await asyncio.to_thread(process.wait, STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
            reason = f"{self.name} did not end within {STOP:.0f} s"
            raise PollenError("internal", reason, "see its log") from None

    def pause(self) -> None:
        """SIGSTOP: alive and silent."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    async def restart(self) -> None:
        """Stop in order and start again on the same state and address."""
        await self.stop()
        await self.start()

    def last_words(self, lines: int = 30) -> str:
        """The end of its log and of what it wrote to stderr."""
        parts = []
        guests = sorted(self.home.glob("seed-logs/*.log"))
        for path in (*guests, self.home / "pollen.log", self.home / "stderr.txt"):
            if path.exists():
                text = path.read_text(errors="replace").splitlines()[-lines:]
                parts.append(f"--- {self.name} {path.name}\n" + "\n".join(text))
        return "\n".join(parts)


class Cluster:
    """``size`` daemons, enrolled by the first one and linked with each other.

    ``properties`` are those of nodes by name (``{"b": {"zone": "attic"}}``); the nodes are called
    a, b, c and so on. ``settings`` are those of ``pln set``, for every node. With ``ipv6``
    their ``namespaces`` have addresses of that family only. ``namespaces`` may be a network that is
    not made yet, too: the nodes have its names then, and ``size`` does not count.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        namespaces: bool | Spaces = False,
        ipv6: bool = False,
        properties: Mapping[str, Mapping[str, str]] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        if not 1 <= size <= 26:
            raise ValueError("a cluster here has 1 to 26 nodes")
        network = Network(size, ipv6=ipv6) if namespaces is True else namespaces or None
        letters = [chr(ord("a") + index) for index in range(size)]
        self._names = network.names if network else letters
        self._properties = dict(properties or {})
        self._settings = dict(settings or {})
        self._folder: Path | None = None
        self.network: Spaces | None = network
        self.nodes: list[Node] = []

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, index: int) -> Node:
        return self.nodes[index]

    def __len__(self) -> int:
        return len(self.nodes)

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="pln-", dir=_short_folder()))
        try:
            if self.network is not None:
                self.network.make()
            self.nodes += map(self._node, self._names)
            await self._found()
        except BaseException as error:
            self._print_logs(error)
            self._clean()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if error is not None:
            self._print_logs(error)
        self._clean()

    def _node(self, name: str) -> Node:
        assert self._folder is not None
        home = self._folder / name
        home.mkdir(mode=0o700)
        if self.network is None:
            return Node(name, home, f"127.0.0.1:{_free_port()}", None)
        return Node(name, home, self.network.listens(name, 60611), self.network)

    async def _found(self) -> None:
        """The first node makes the cluster; the others join it, one after another."""
        first, *others = self.nodes
        own = self._properties.get(first.name, {})
        pairs = [part for key, value in own.items() for part in ("--prop", f"{key}={value}")]
        for node in self.nodes:
            for key, value in self._settings.items():
                await _checked(node, "set", key, value)
        await _checked(first, "init", *pairs)
        await first.start()
        for node in others:
            held = json.dumps(dict(self._properties.get(node.name, {})))
            wish = {"tier": "publisher", "properties": held}
            invited = await first.post("/v1/invites", wish)
            await _checked(node, "join", "--no-up", "--name", node.name, invited["token"])
            await node.start()
        await self.linked()

    async def linked(self, timeout: float = SETTLE) -> None:
        """Wait until every running node sees every other running node online."""
        running = [node for node in self.nodes if node.is_running]
        names = {node.name for node in running}

        async def all_see_all() -> bool:
            for node in running:
                seen = (await node.status())["nodes"]
                if not names <= {n["name"] for n in seen if n["state"] in ("self", "online")}:
                    return False
            return True

        await until(all_see_all, timeout, f"{sorted(names)} see each other")

    async def seed(
        self,
        source: str | os.PathLike[str],
        name: str,
        *,
        at: int = 0,
        on: Iterable[str] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Publish a module or Python from node ``at`` and wait as ``ready`` does."""
        control = Control(self.nodes[at].paths)
        published = await asyncio.to_thread(publish_source, control, source, name, options)
        await self.ready(name, on=on)
        return published

    async def ready(
        self, name: str, timeout: float = SETTLE, *, on: Iterable[str] | None = None
    ) -> None:
        """Wait until every running node sees replicas ready on the nodes ``on``, else as many as
        are wanted."""
        running = [node for node in self.nodes if node.is_running]
        names = set() if on is None else set(on)

        async def is_ready() -> bool:
            for node in running:
                seeds = {seed["name"]: seed for seed in (await node.status())["seeds"]}
                seed = seeds.get(name, {"replicas": [], "wanted": 0})
                ready = {r["name"] for r in seed["replicas"] if r["state"] == "ready"}
                if not names <= ready or not 0 < seed["wanted"] <= len(ready):
                    return False
            return True

        where = "enough nodes" if on is None else str(sorted(names))
        await until(is_ready, timeout, f"{name} is ready on {where}")

    async def renumber(self) -> None:
        """Give every node another address, which those that run do not know: nodes are to be
        stopped before. Needs ``namespaces=True``."""
        if not isinstance(self.network, Network):
            raise PollenError("usage", "only nodes in namespaces can be moved", "namespaces=True")
        await asyncio.to_thread(self.network.renumber)
        for node in self.nodes:
            node.address = self.network.listens(node.name, 60611)

    def _print_logs(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            return  # Somebody ended it: nothing failed.
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        for node in self.nodes:
            print(node.last_words(), file=sys.stderr)

    def _clean(self) -> None:
        for node in self.nodes:
            if node.is_running:
                assert node.process is not None
                node.process.kill()
        for node in self.nodes:
            if node.process is not None:
                node.process.wait()
        if self.network is not None:
            self.network.remove()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


async def until(
    condition: Callable[[], Awaitable[bool]], timeout: float, what: str, poll: float = _POLL
) -> None:
    """Wait for a condition; raises ``TimeoutError`` that says which one did not come true."""
    deadline = time.monotonic() + timeout
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:.0f} s: {what}")
        await asyncio.sleep(poll)


async def _checked(node: Node, *arguments: str) -> None:
    done = await node.pln(*arguments)
    if done.returncode:
        command = " ".join(arguments[:1])
        reason = f"pln {command} on {node.name} ended with {done.returncode}"
        raise PollenError("internal", f"{reason}: {done.stderr.decode(errors='replace')}")


def _short_folder() -> str:
    """Where temporary folders go, unless that is too long a path for unix sockets in them."""
    chosen = tempfile.gettempdir()
    return chosen if len(chosen) <= _FOLDER_MAX else "/tmp"


def _free_port() -> int:
    """A UDP port that nobody holds now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port
