"""One daemon from its start to its end: the order in which its parts come and go.

Up: folder, lock, log, keys, store, muscles, node, driver, control API, pid file. Down: the control
API says so, the node drains, calls in flight end, the muscles stop, the store is flushed, the pid
file goes. With no credentials a new cluster is founded, and the log says how to join another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import platform
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from pollen import lock, paths
from pollen.core import durability, limits, restoring
from pollen.core.commands import Command, DrainCommand, SeedCommand, Status
from pollen.core.config import NodeConfig
from pollen.core.ids import MILLISECOND, PeerId
from pollen.core.node import Node
from pollen.core.peers import PEER_TABLE
from pollen.core.peers.discovery.contract import Context
from pollen.core.peers.discovery.finder import Finder
from pollen.core.restoring import Identity
from pollen.core.rng import Rng
from pollen.core.rootwords import HoldRootCommand
from pollen.errors import BadRequest, InvariantError, PollenError
from pollen.paths import Paths
from pollen.runtime import starting
from pollen.runtime.control import loads, routes
from pollen.runtime.control.app import make_app
from pollen.runtime.control.scrape import serving
from pollen.runtime.control.server import ControlServer, bind_control
from pollen.runtime.elsewhere import Elsewhere, LogsWish
from pollen.runtime.figures import FiguresList
from pollen.runtime.folder import hosts, identity
from pollen.runtime.folder.config import Config
from pollen.runtime.folder.version import VERSION
from pollen.runtime.loop import entropy
from pollen.runtime.loop.discovery import Discovery, make_finder
from pollen.runtime.loop.driver import COMMAND_SECONDS, Driver
from pollen.runtime.loop.native import Keys, Muscles, Native, RealNative, as_error, make_verify
from pollen.runtime.loop.store import Store
from pollen.runtime.runner import Runner
from pollen.runtime.tried import with_tried
from pollen.runtime.upgrades import UpgradeRequest, Upgrades, UpgradeState
from pollen.runtime.watch import logs, metrics, otlp, stderr
from pollen.runtime.workloads import Workloads

OPEN_FILES = 65_536
DRAIN_SECONDS = 5.0


class Daemon:
    """A running node. ``run`` ends with the exit code when it was stopped."""

    def __init__(
        self,
        where: Paths,
        config: Config,
        native: Native,
        log: Any,
        flags: Mapping[str, Any] | None = None,
    ) -> None:
        self._paths = where
        self._flags = flags
        self._config = config
        self._native = native
        self.log = log
        self._began = time.monotonic()
        self._state = "starting"
        self._stopping: asyncio.Future[tuple[int, bool]] | None = None
        self._driver: Driver | None = None
        self._workloads: Workloads | None = None
        self._elsewhere: Elsewhere | None = None
        self._upgrades: Upgrades | None = None
        self._muscles: Muscles | None = None
        self._identity: Identity | None = None
        self._node = b""
        self._keys: Keys | None = None
        self._engine = ""
        self._timings = metrics.Timings()
        self._finder: Finder | None = None
        self._exporter: otlp.Exporter | None = None
        self._bound: list[str] = []
        self._quiet = stderr.Quiet()
        self._runner = Runner(where)

    # -- the life -------------------------------------------------------------------------------

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> int:
        """Start, serve until stopped, end in order."""
        loop = asyncio.get_running_loop()
        self._stopping = loop.create_future()
        loop.set_exception_handler(stderr.loop_handler(self.log))
        store = Store(self._paths.store)
        try:
            muscles, node, addresses = self._assemble(store)
        except BaseException:
            store.close()
            raise
        self._muscles = muscles
        driver = self._driver = Driver(node, muscles, store, self.log, self._timings)
        self._workloads = Workloads(self._node.hex(), muscles, driver.command)
        driver.verbs |= {"load": self._workloads.serve, "end-load": self._workloads.serve_end}
        self._elsewhere = Elsewhere(self._node.hex(), driver.command, self._paths.log_file)
        driver.verbs |= self._elsewhere.verbs()
        own, ask = self._node.hex(), driver.command
        self._upgrades = Upgrades(self._paths, own, ask, self._elsewhere)
        driver.verbs |= self._upgrades.verbs()
        server: ControlServer | None = None
        discovery: Discovery | None = None
        pages = contextlib.AsyncExitStack()
        try:
            listener = bind_control(self._paths.control_socket)
            server = ControlServer(make_app(self), listener, self._warn)
            driver.start(addresses)
            await server.start()
            discovery = self._discovery(driver)
            discovery.start()
            lock.write_pid(self._paths, self._flags)
            self._exporter = self._export(muscles)
            page = serving(self._config.metrics, self.metrics_text, self._warn)
            await pages.enter_async_context(page)
            self._state = "running"
            self.log.info("up", node=self._node.hex(), addresses=addresses, pid=os.getpid())
            on_ready()
            return await self._serve(driver, self._stopping)
        finally:
            await pages.aclose()
            await self._end_export()
            if server is not None:
                await server.stop()
            if discovery is not None:
                await discovery.close()
            await driver.close(0)
            self._paths.call_socket.unlink(missing_ok=True)
            lock.remove_pid(self._paths)
            self.log.info("down", faults=driver.counters["faults"])

    def _warn(self, event: str, reason: str) -> None:
        """A line of what a client of ours or of the metrics page met, and not often."""
        left_out = self._quiet.speak(event)
        if left_out is not None:
            self.log.warning(event, reason=reason, left_out=left_out)

    def _export(self, muscles: Muscles) -> otlp.Exporter | None:
        """Spans begin to be kept when somebody named a collector."""
        if not otlp.is_wanted(self._config, os.environ):
            return None
        if not otlp.is_installed():
            # The settings were checked: the environment of this machine asks, perhaps not us.
            self.log.warning("otlp-off", reason="the extra is not installed", remedy=otlp.REMEDY)
            return None
        node, drain = self._node.hex(), muscles.drain_spans
        exporter = otlp.Exporter(self._config, node, drain, self.log)
        muscles.keep_spans(self._config.otlp_sample_percent * 10_000)
        exporter.start()
        return exporter

    async def _end_export(self) -> None:
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.close)

    def _discovery(self, driver: Driver) -> Discovery:
        finder, bound = self._finder, self._bound
        if finder is None:
            raise InvariantError("discovery begins after the node was assembled")
        node, log = PeerId(self._node), self.log
        return Discovery(finder, node, driver.feed, driver.linked, lambda: dialable(bound), log)

    async def _serve(self, driver: Driver, stopping: asyncio.Future[tuple[int, bool]]) -> int:
        """Wait for the end, then drain and let calls finish."""
        with _signals(self._on_signal):
            ends: list[asyncio.Future[Any]] = [stopping, driver.failed]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._state = "draining"
            code = driver.failed.result() if driver.failed.done() else 0
            grace_ms, drain = (
                stopping.result() if stopping.done() else (self._config.grace_ms, True)
            )
            self.log.info("stopping", grace_ms=grace_ms, drain=drain, code=code)
            if drain and code == 0:
                with contextlib.suppress(PollenError):
                    await driver.command(DrainCommand(), timeout=DRAIN_SECONDS)
            await self._end_export()
            await driver.close(grace_ms)
        return code

    def _assemble(self, store: Store) -> tuple[Muscles, Node, list[str]]:
        """Keys, state, muscles and node; the muscles are closed again if the rest fails."""
        restored = store.load()
        held = self._identity = restoring.read_identity(restored)
        if held is None:
            raise InvariantError("the folder was enrolled before the store was opened")
        # A folder of an older pollen, or one whose first start was cut off there.
        identity.mark(self._paths, held.cluster)
        name = self._config.name or held.name
        if name != held.name:
            store.write_now([(durability.META_TABLE, restoring.NAME_KEY, name.encode())])
        key = identity.node_key(self._paths, self._native)
        root = identity.key_of_root(self._paths, self._native)
        self._keys = Keys(key, root)
        boot = entropy.draw_boot()
        self._node = key.public
        self._engine = self._native.version()
        memory = self._config.guest_memory()
        muscles = self._native.open_muscles(
            key=key,
            boot=boot,
            directory=str(self._paths.home),
            memory_bytes=memory,
            code_cache_bytes=self._config.code_cache_bytes,
        )
        try:
            bound = self._start_muscles(muscles)
            config = NodeConfig(
                node=PeerId(key.public),
                cluster=held.cluster,
                root=held.root,
                chain=held.chain,
                boot=boot,
                name=name,
                version=VERSION,
                memory_bytes=memory,
                has_root=root is not None,
                successor=PeerId(root.public) if root is not None else None,
                slots=self._config.guest_slots(),
                idle_ns=self._config.idle_ms * MILLISECOND,
                relays=self._config.relay != "off",
                relay_bytes_per_s=self._config.relay_bytes,
                blob_bytes=self._config.blob_bytes,
            )
            rng, sign = Rng(entropy.draw_seed()), self._keys.sign
            verify = make_verify(self._native)
            self._bound = bound
            seal, unseal = self._native.sealer() or (None, None)
            context = Context(
                node=config.node,
                cluster=config.cluster,
                rng=Rng(entropy.draw_seed()),
                sign=sign,
                verify=verify,
                seal=seal,
                unseal=unseal,
            )
            known = len(restored.get(PEER_TABLE, ()))
            self._finder = make_finder(self._config.discovery, context, known)
            node = Node(config, rng, sign, verify, restored)
            muscles.set_hello(
                cluster=held.cluster,
                minor_min=limits.MINOR_MIN,
                minor_max=limits.MINOR_MAX,
                chain=held.chain,
            )
        except BaseException:
            muscles.close(0)
            raise
        return muscles, node, dialable(bound)

    def _start_muscles(self, muscles: Muscles) -> list[str]:
        paths.check_socket_path(self._paths.call_socket)
        mask = os.umask(0o077)
        try:
            return muscles.start(
                listen=self._config.listen,
                call_socket=str(self._paths.call_socket),
                http=self._config.http or None,
                hosts=hosts.of_door(self._config.http_hosts, self._config.http_paths),
            )
        except PollenError:
            raise
        except Exception as error:
            if (known := as_error(error)).slug == "bad-request":
                remedy = "listen on an address that this machine has; 0.0.0.0 is all of them"
                raise BadRequest("config-invalid", known.reason, remedy) from error
            raise known from error
        finally:
            os.umask(mask)

    def _on_signal(self) -> None:
        self.stop(self._config.grace_ms, drain=True)

    # -- what the control API asks --------------------------------------------------------------

    @property
    def log_path(self) -> Path:
        """The file that ``logs`` shows."""
        return self._paths.log_file

    def health(self) -> routes.Health:
        """Whether and how the daemon lives."""
        held = self._identity
        return routes.Health(
            state=self._state,
            pid=os.getpid(),
            node=self._node.hex(),
            cluster=held.cluster.hex() if held else "",
            name=(self._config.name or held.name) if held else "",
            uptime_ms=int((time.monotonic() - self._began) * 1000),
            version=VERSION,
        )

    def version(self) -> routes.Version:
        """What runs here."""
        return routes.Version(pollen=VERSION, python=platform.python_version(), native=self._engine)

    async def load(self, plan: loads.LoadRequest) -> loads.LoadReport:
        """Load a seed from here or from other nodes."""
        return await self._started_workloads().run(plan)

    async def end_load(self, name: str) -> loads.LoadEnded:
        """End a load of this name, wherever it loads from."""
        return await self._started_workloads().end(name)

    async def status_of(self, node: str) -> Status:
        """The status of another node, as it shows it itself."""
        return await self._started_elsewhere().status_of(node)

    async def figures(self) -> FiguresList:
        """What all nodes that are online do now."""
        return await self._started_elsewhere().figures()

    async def logs_of(self, node: str, wish: LogsWish) -> list[str]:
        """Lines of another node's log."""
        return await self._started_elsewhere().logs_of(node, wish)

    async def upgrade_state(self, node: str, tags: str) -> UpgradeState:
        """How it stands with an upgrade of a node over the mesh."""
        return await self._started_upgrades().look_at(node, tags)

    async def upgrade(self, node: str, request: UpgradeRequest) -> UpgradeState:
        """Have another node upgrade itself."""
        return await self._started_upgrades().begin_at(node, request)

    async def hold_root(self) -> msgspec.Struct:
        """The root key came into the folder, or left it: from now on it signs, or does not."""
        if self._driver is None or self._keys is None:
            raise PollenError("daemon-not-running", "the node is not up yet", "try again")
        key = identity.key_of_root(self._paths, self._native)
        if key is not None:
            self._keys.root = key
        try:
            root = "" if key is None else key.public.hex()
            return await self._driver.command(HoldRootCommand(root=root))
        except PollenError:
            key = None
            raise
        finally:
            # Only when the core knows that it is gone: it asks for no signature any more.
            if key is None:
                self._keys.root = None

    def _started_elsewhere(self) -> Elsewhere:
        if self._elsewhere is None:
            raise PollenError("daemon-not-running", "the node is not up yet", "try again")
        return self._elsewhere

    def _started_upgrades(self) -> Upgrades:
        if self._upgrades is None:
            raise PollenError("daemon-not-running", "the node is not up yet", "try again")
        return self._upgrades

    def _started_workloads(self) -> Workloads:
        if self._workloads is None:
            raise PollenError("daemon-not-running", "the node is not up yet", "try again")
        return self._workloads

    def metrics_text(self) -> str:
        """The Prometheus page."""
        if self._muscles is None or self._driver is None:
            raise PollenError("internal", "the daemon is starting", "ask again")
        numbers, rejections, mesh, checks = self._driver.figures()
        numbers["pollen_uptime_seconds"] = time.monotonic() - self._began
        numbers["pollen_guest_memory_limit_bytes"] = self._config.guest_memory()
        sent = self._exporter.counters if self._exporter else {"exported": 0, "failed": 0}
        numbers |= {f"pollen_spans_{name}_total": count for name, count in sent.items()}
        native = self._muscles.metrics()
        timings, engine = self._timings, self._engine
        return metrics.metrics_page(native, numbers, rejections, mesh, checks, timings, engine)

    def stop(self, grace_ms: int, *, drain: bool) -> routes.Stopping:
        """Begin the end; the answer leaves before the socket closes."""
        if self._stopping is not None and not self._stopping.done():
            grace = self._config.grace_ms if grace_ms < 0 else grace_ms
            self._stopping.set_result((grace, drain))
        return routes.Stopping(pid=os.getpid())

    async def publish(self, command: SeedCommand) -> msgspec.Struct:
        """Publish a seed; a Python one gets the runner of this node."""
        return await self._runner.publish(command, self.command)

    async def command(self, command: Command, timeout: float = COMMAND_SECONDS) -> msgspec.Struct:
        """Ask the node, and wait so many seconds for its answer."""
        if self._driver is None:
            raise PollenError("unreachable", "the daemon is starting", "ask again")
        return await with_tried(await self._driver.command(command, timeout), self._muscles)


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT stop in order while the context lasts; a second SIGINT ends at once."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        stop()

    try:
        loop.add_signal_handler(signal.SIGTERM, stop)
        loop.add_signal_handler(signal.SIGINT, interrupt)
    except (ValueError, RuntimeError):
        yield  # not the main thread: a test drives us
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)


def dialable(bound: Sequence[str]) -> list[str]:
    """The addresses to publish: an unspecified one stands for the machine's own addresses.

    Loopback is published only when it was asked for, or when there is nothing else.
    """
    found: dict[str, None] = {}
    for address in bound:
        host, _, port = address.rpartition(":")
        if host in ("0.0.0.0", "[::]"):
            for own in _own_hosts(is_v6=host == "[::]"):
                found[f"{own}:{port}"] = None
        else:
            found[address] = None
    return list(found)


def _own_hosts(*, is_v6: bool) -> list[str]:
    family = "AF_INET6" if is_v6 else "AF_INET"
    hosts: list[str] = []
    loopback: list[str] = []
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family.name != family or address.address.startswith("fe80"):
                continue
            text = f"[{address.address}]" if is_v6 else address.address
            is_loopback = address.address == "::1" or address.address.startswith("127.")
            (loopback if is_loopback else hosts).append(text)
    return sorted(hosts) or ([] if is_v6 else sorted(loopback))


def run_daemon(
    where: Paths,
    config: Config,
    *,
    with_text: bool,
    on_ready: Callable[[], None] = lambda: None,
    native: Native | None = None,
    flags: Mapping[str, Any] | None = None,
) -> int:
    """Run in the foreground of this process until stopped. Returns the exit code.

    ``on_ready`` is called once, when the control API answers. ``flags`` are settings that the
    command line gave: a restart gives them again.
    """
    # Before any engine exists: enabled later, a guest's trap would end the process
    # (docs/design/sandbox.md#fault-handler).
    if not faulthandler.is_enabled():
        faulthandler.enable()
    starting.check(config)
    paths.make_home(where)
    with (
        lock.hold(where),
        stderr.kept(where.last_words),
        logs.opened(where.log_file, level=config.log_level, with_text=with_text) as log,
    ):
        native = native or RealNative()
        _raise_open_files()
        if identity.read(where) is None:
            founded = identity.found(where, config.name, "{}", native)
            log.info("new-cluster", cluster=founded.cluster.hex(), to_join="pln join TOKEN")
        return asyncio.run(Daemon(where, config, native, log, flags).run(on_ready))


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
