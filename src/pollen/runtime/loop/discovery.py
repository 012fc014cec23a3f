"""The sockets of discovery: datagrams in and out for the strategies of the core.

A socket a family and interface, so that a survey leaves on each network that this machine is in.
An interface that cannot be joined is logged once and left out: discovery helps, it is never needed.
Interfaces and addresses change under a running node: they are looked at when the kernel says so,
and every ten seconds for kernels that do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import ipaddress
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from pollen.core import events as ev
from pollen.core.ids import PeerId
from pollen.core.peers.discovery import contract
from pollen.core.peers.discovery.contract import Action, Context, Factory, Send, Strategy
from pollen.core.peers.discovery.finder import Finder, Running, found_in
from pollen.core.peers.discovery.multicast import Multicast
from pollen.core.peers.discovery.static import Static
from pollen.errors import BadRequest
from pollen.runtime.loop import clock
from pollen.runtime.loop.interfaces import Interfaces

ENTRY_POINTS = "pollen.discovery"
BUILT_IN: dict[str, Factory] = {"static": Static, "multicast": Multicast}
TICK_SECONDS = 1.0
LOOK_SECONDS = 10.0
# Linux: a socket hears only the groups that it joined itself. Python does not name the option.
IP_MULTICAST_ALL = 49


def known_schemes() -> dict[str, Factory]:
    """The built-in schemes, and those that installed packages register."""
    found = dict(BUILT_IN)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            found.setdefault(entry.name, entry.load())
        except Exception as error:
            raise BadRequest(
                "config-invalid",
                f"discovery: the scheme {entry.name!r} of {entry.value} cannot be loaded: {error}",
                "mend or uninstall the package that registers it",
            ) from error
    return found


def make_finder(setting: str | Sequence[str], context: Context, expected: int) -> Finder:
    """The strategies of a setting. Raises ``BadRequest`` (``config-invalid``) for a bad one.

    Multicast begins by itself when the node is alone, where datagrams can be sealed.
    """
    named = contract.parse_setting(setting, known_schemes(), context)

    def multicast() -> Strategy:
        held = Multicast("", context)
        held.expected = expected
        return held

    for _, strategy in named:
        if isinstance(strategy, Multicast):
            strategy.expected = expected
    automatic = [("multicast", multicast)] if context.seal is not None else []
    return Finder(context.cluster, named, automatic)


class Discovery:
    """Runs one finder on the running loop and feeds what it finds to the node."""

    def __init__(
        self,
        finder: Finder,
        node: PeerId,
        feed: Callable[[ev.Event], None],
        linked: Callable[[], int],
        addresses: Callable[[], list[str]],
        log: Any,
    ) -> None:
        self._finder = finder
        self._node = node
        self._feed = feed
        self._linked = linked
        self._look_up = addresses
        self._addresses = addresses()
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._open: dict[tuple[int, str, int], asyncio.DatagramTransport] = {}
        self._refused: set[tuple[int, str, int]] = set()
        self._looked_at = 0.0
        self._interfaces = Interfaces(self._look)

    def start(self) -> None:
        """Begin to advertise and, while there is no link, to search."""
        self._interfaces.start()
        self._tasks.append(self._loop.create_task(self._run()))

    async def close(self) -> None:
        """Stop, and close every socket. Idempotent."""
        self._interfaces.close()
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        for transport in self._open.values():
            transport.close()
        self._open = {}

    async def _run(self) -> None:
        while True:
            try:
                await self._turn()
            except OSError as error:
                self._log.warning("discovery-failed", reason=str(error))
            due = self._finder.due
            wait = TICK_SECONDS if due is None else (due - clock.now().mono) / 1e9
            await asyncio.sleep(min(max(wait, 0.05), TICK_SECONDS))

    async def _turn(self) -> None:
        if self._loop.time() >= self._looked_at + LOOK_SECONDS:
            self._looked_at = self._loop.time()
            self._look()
        await self._open_sockets()
        actions = self._finder.tick(self._linked(), self._addresses, clock.now())
        self._carry_out(actions)

    def _look(self) -> None:
        """Other addresses than before: the node publishes them, the strategies advertise them."""
        addresses = self._look_up()
        if addresses != self._addresses:
            self._log.info("addresses-changed", addresses=addresses)
            self._addresses = addresses
            self._feed(ev.PeerFound(peer=self._node, addresses=addresses, source="interfaces"))
        self._refused.clear()
        names = set(psutil.net_if_addrs())
        for key in [key for key in self._open if key[1] not in names]:
            self._open.pop(key).close()

    # -- sockets --------------------------------------------------------------------------------

    async def _open_sockets(self) -> None:
        for number, held in enumerate(self._finder.running):
            wanted = held.strategy.socket
            if wanted is None:
                continue
            for group in wanted.groups:
                version = ipaddress.ip_address(group).version
                for name in _interfaces(version, wanted.interface, self._is_inner()):
                    key = (number, name, version)
                    if key not in self._open and key not in self._refused:
                        await self._open_one(key, held, group, wanted.port)

    def _is_inner(self) -> bool:
        """Whether this node can be reached from its own machine only: then it looks no further."""
        hosts = [address.rpartition(":")[0].strip("[]") for address in self._addresses]
        return all(ipaddress.ip_address(host).is_loopback for host in hosts)

    async def _open_one(
        self, key: tuple[int, str, int], held: Running, group: str, port: int
    ) -> None:
        try:
            made = make_socket(group, port, key[1])
            transport, _ = await self._loop.create_datagram_endpoint(
                lambda: _Receiver(lambda data, sender: self._on_datagram(held, data, sender)),
                sock=made,
            )
        except OSError as error:
            self._refused.add(key)
            self._log.debug("discovery-socket", interface=key[1], group=group, reason=str(error))
            return
        self._open[key] = transport
        self._log.info("discovery-listens", scheme=held.scheme, interface=key[1], group=group)

    def _on_datagram(self, held: Running, data: bytes, sender: str) -> None:
        self._carry_out(self._finder.on_datagram(held, data, sender, clock.now()))

    def _carry_out(self, actions: Sequence[tuple[Running, Action]]) -> None:
        for scheme, found in found_in(actions):
            peer = PeerId(b"") if found.peer is None else found.peer
            self._feed(ev.PeerFound(peer=peer, addresses=found.addresses, source=scheme))
        for held, action in actions:
            if isinstance(action, Send):
                self._send(held, action)

    def _send(self, held: Running, send: Send) -> None:
        """To the group on every interface. A send that fails is one interface less, no more."""
        wanted = held.strategy.socket
        number = self._finder.running.index(held)
        for key, transport in list(self._open.items()):
            if wanted is None or key[0] != number:
                continue
            if send.to:
                host, _, port = send.to.rpartition(":")
                transport.sendto(send.data, (host.strip("[]"), int(port)))
                return
            for group in wanted.groups:
                if ipaddress.ip_address(group).version == key[2]:
                    transport.sendto(send.data, _target(group, wanted.port, key[1]))


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, take: Callable[[bytes, str], None]) -> None:
        self._take = take

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._take(data, f"{addr[0]}:{addr[1]}")

    def error_received(self, exc: Exception) -> None:
        """Nobody listens, or the network is gone: the next survey tries again."""


def _interfaces(version: int, only: str, is_inner: bool) -> list[str]:
    """Interfaces that are up and have an address of the family; loopback when there is no other,
    or when nothing else is to be used."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    stats = psutil.net_if_stats()
    names = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if name in stats and stats[name].isup and any(a.family == family for a in addresses)
    ]
    if only:
        return [name for name in names if name == only]
    inner = [name for name in names if name.startswith("lo")]
    outer = [name for name in names if name not in inner]
    return sorted(inner if is_inner or not outer else outer)


def make_socket(group: str, port: int, interface: str) -> socket.socket:
    """A socket that hears and speaks to one group on one interface. Raises ``OSError``."""
    version = ipaddress.ip_address(group).version
    index = socket.if_nametoindex(interface)
    made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if version == 4:
            _join_v4(made, group, port, index)
        else:
            _join_v6(made, group, port, index)
    except OSError:
        made.close()
        raise
    return made


def _join_v4(made: socket.socket, group: str, port: int, index: int) -> None:
    with contextlib.suppress(OSError):
        made.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
    made.bind(("", port))
    # struct ip_mreqn: group, address, index.
    request = struct.pack("4s4si", socket.inet_aton(group), b"\0\0\0\0", index)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)


def _join_v6(made: socket.socket, group: str, port: int, index: int) -> None:
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("::", port))
    request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)


def _target(group: str, port: int, interface: str) -> tuple[Any, ...]:
    if ipaddress.ip_address(group).version == 4:
        return (group, port)
    return (group, port, 0, socket.if_nametoindex(interface))
