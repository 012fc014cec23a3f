"""A small internet of namespaces: public members, members behind routers with NAT, nothing beyond.

Kinds of a member's router: ``none`` routes and filters nothing; ``cone`` keeps the port and lets
anybody use a mapping; ``home`` keeps the port and lets in whom the member spoke to; ``sym`` draws a
port for each destination. Each drops what is new at its outer side. ``public`` has no router.

The default route of that internet leads to a tripwire, which counts every packet for an address
that is not the laboratory's, questions to resolvers included. ``can_be_direct`` asks plain UDP
whether two members can reach each other; no word of the product is in it. Needs root, iproute2,
nftables and conntrack (``.ci/setup``).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from pollen.testing.namespaces import Spaces

KINDS = ("none", "cone", "home", "sym")
PUBLIC = "public"
_WORLD = "203.0.113"
_ROUTED = "198.51.100"
_TRIPWIRE = f"{_WORLD}.254"
# No address of the laboratory; whoever resolves a name is seen.
_RESOLVER = "198.18.0.53"
_NEWNET = 0x40000000
# Numbers of Linux that Python does not name.
_ETH_P_ALL = 0x0003
_SO_RCVBUFFORCE = 33
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_PORTS = iter(range(41_000, 60_000, 7))
_WORDS_WITHIN = 0.03
_ROUNDS = 12

_FILTER = """
table ip filter {
  chain input {
    type filter hook input priority 0; policy accept;
    iif "wan" ct state established,related accept
    iif "wan" drop
  }
  chain forward {
    type filter hook forward priority 0; policy accept;
    iif "wan" ct state established,related accept
    iif "wan" ct status dnat accept
    iif "wan" drop
  }
}
"""
_SOURCE = """
table ip nat {
  chain post {
    type nat hook postrouting priority srcnat; policy accept;
    oif "wan" RULE
  }
}
"""
_CONE = """
table ip nat {
  map mapped {
    type inet_service : ipv4_addr . inet_service
    flags dynamic,timeout; timeout 300s; size 65536;
  }
  chain pre {
    type nat hook prerouting priority dstnat; policy accept;
    iif "wan" meta l4proto udp dnat to udp dport map @mapped
  }
  chain post {
    type nat hook postrouting priority srcnat; policy accept;
    oif "wan" meta l4proto udp update @mapped { udp sport timeout 300s : ip saddr . udp sport }
    oif "wan" snat to WAN
  }
}
"""
_WIRE = f"""
table inet tripwire {{
  set strangers {{ type ipv4_addr; size 4096; flags dynamic; }}
  counter strays {{ }}
  chain pre {{
    type filter hook prerouting priority -300; policy accept;
    meta pkttype != host accept
    ip daddr {{ {_WORLD}.0/24, {_ROUTED}.0/24, 10.0.0.0/8 }} drop
    meta nfproto ipv4 counter name strays update @strangers {{ ip daddr }} drop
  }}
}}
"""
_COUNT = "pollen_count"


def need() -> None:
    """Skip where there can be none (``.ci/setup`` installs what it needs)."""
    tools = ("ip", "nft", "conntrack")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing or not Spaces.is_possible():
        pytest.skip(f"these need root, namespaces, conntrack; missing: {missing}")


class Site(msgspec.Struct):
    """Where a member is: the number gives its addresses, the moves how often they changed."""

    kind: str
    number: int
    moves: int = 0
    renewals: int = 0

    @property
    def wan(self) -> str:
        """At what it is seen from the internet, its router's outer address."""
        if self.kind == PUBLIC:
            return f"{_WORLD}.{1 + self.number + 16 * self.moves}"
        return f"{_WORLD}.{64 + 16 * self.number + self.renewals}"

    @property
    def inner(self) -> str:
        """The network behind its router, up to the last number."""
        return f"{_ROUTED}." if self.kind == "none" else f"10.0.{1 + self.number}."

    @property
    def base(self) -> int:
        """The first number of that network; a public one is a quarter of it."""
        return 64 * self.number if self.kind == "none" else 0

    @property
    def own(self) -> str:
        """The member's own address."""
        if self.kind == PUBLIC:
            return self.wan
        return f"{self.inner}{self.base + 2 + self.moves}"

    def rules(self) -> str:
        """What its router does, for nft."""
        if self.kind == "cone":
            return _CONE.replace("WAN", self.wan) + _FILTER
        if self.kind == "home":
            return _SOURCE.replace("RULE", f"snat to {self.wan}") + _FILTER
        if self.kind == "sym":
            return _SOURCE.replace("RULE", "masquerade random,fully-random") + _FILTER
        return ""


class Lab(Spaces):
    """Members by name and kind, as in ``Lab({"p": "public", "a": "home"})``."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        super().__init__(list(kinds))
        self.sites: dict[str, Site] = {}
        for name, kind in kinds.items():
            alike = [s for s in self.sites.values() if (s.kind == PUBLIC) == (kind == PUBLIC)]
            self.sites[name] = Site(kind, len(alike))
        self._settings: list[Path] = []

    # -- building ------------------------------------------------------------------------------

    def make(self) -> None:
        """Build it; ``remove`` then, also when this fails."""
        self._bridge("hub")
        self._add("wire")
        self._wire("hub", f"{self._tag}w", "wire", "wan")
        self._ip("wire", "address", "add", f"{_TRIPWIRE}/24", "dev", "wan")
        self._nft("wire", _WIRE)
        for index, (name, site) in enumerate(self.sites.items()):
            self._add(name)
            self._resolve(name)
            outer, device = (name, "eth0") if site.kind == PUBLIC else (f"{name}-r", "wan")
            if site.kind != PUBLIC:
                self._add(outer)
                self._within(outer, "sysctl", "-qw", "net.ipv4.ip_forward=1")
                ends = ("type", "veth", "peer", "eth0", "netns", self.space(name))
                self._ip(outer, "link", "add", "lan", *ends)
                self._ip(outer, "link", "set", "lan", "up")
                self._ip(name, "link", "set", "eth0", "up")
            self._wire("hub", f"{self._tag}{index}", outer, device)
            self._place(name)
        self._announce()

    def _resolve(self, name: str) -> None:
        """Its resolver is beyond the tripwire: ``ip netns exec`` shows this file in its /etc."""
        folder = Path("/etc/netns") / self.space(name)
        self._settings.append(folder)
        folder.mkdir(parents=True)
        (folder / "resolv.conf").write_text(f"nameserver {_RESOLVER}\n")

    def _place(self, name: str) -> None:
        """Give a member, and its router, the addresses, routes and rules of its site."""
        site = self.sites[name]
        if site.kind == PUBLIC:
            self._give(name, "eth0", f"{site.own}/24", _TRIPWIRE)
        else:
            router, size = f"{name}-r", 26 if site.kind == "none" else 24
            gateway = f"{site.inner}{site.base + 1}"
            self._nft(router, "flush ruleset\n" + site.rules())
            self._give(router, "wan", f"{site.wan}/24", _TRIPWIRE)
            self._give(router, "lan", f"{gateway}/{size}")
            self._give(name, "eth0", f"{site.own}/{size}", gateway)

    def _give(self, space: str, device: str, address: str, gateway: str = "") -> None:
        self._ip(space, "address", "flush", "dev", device)
        self._ip(space, "address", "add", address, "dev", device)
        if gateway:
            self._ip(space, "route", "add", "default", "via", gateway)

    def _announce(self) -> None:
        """The internet routes the networks of those without a NAT, and no others."""
        routed = [site for site in self.sites.values() if site.kind == "none"]
        for name, site in self.sites.items():
            space = name if site.kind == PUBLIC else f"{name}-r"
            for one in routed:
                if one is not site:
                    net = f"{one.inner}{one.base}/26"
                    self._ip(space, "route", "replace", net, "via", one.wan)

    def remove(self) -> None:
        """Take it all away; what is not there is no error."""
        super().remove()
        for folder in self._settings:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path("/etc/netns").rmdir()

    # -- what the cluster asks -----------------------------------------------------------------

    def addresses(self, name: str) -> list[str]:
        """Those from which its packets may come to others."""
        site = self.sites[name]
        return sorted({site.wan, site.own})

    def listens(self, name: str, port: int) -> str:
        """Every address of it, as without a setting."""
        return f"0.0.0.0:{port}"

    # -- what changes --------------------------------------------------------------------------

    def become(self, name: str, kind: str) -> None:
        """Put a member behind another kind of router; nothing of the one before is remembered."""
        site = self.sites[name]
        self.sites[name] = Site(kind, site.number)
        self._place(name)
        self._announce()
        self.forget(name)

    def move(self, name: str) -> None:
        """Give the member another address in its network."""
        self.sites[name].moves += 1
        self._place(name)
        self._announce()

    def renew(self, name: str) -> None:
        """Give its router another address, as a provider does over night."""
        self.sites[name].renewals += 1
        self._place(name)
        self._announce()
        self.forget(name)

    def forget(self, name: str) -> None:
        """Its router loses all that it knows of connections (``conntrack -F``)."""
        self._within(f"{name}-r", "conntrack", "-F")

    # -- what is seen --------------------------------------------------------------------------

    def strays(self) -> tuple[int, list[str]]:
        """How many packets went to addresses outside, and to which."""
        said = self._within("wire", "nft", "-j", "list", "table", "inet", "tripwire")
        held = {key: value for item in json.loads(said)["nftables"] for key, value in item.items()}
        strangers = held["set"].get("elem", [])
        return held["counter"]["packets"], [str(address) for address in strangers]

    def count(self, name: str, other: str) -> None:
        """Count from now on what a member sends to another and gets from it, by its addresses."""
        lines = [f"add table inet {_COUNT}"]
        for hook, side in (("prerouting", "saddr"), ("postrouting", "daddr")):
            kind = f"type filter hook {hook} priority -400; policy accept;"
            lines.append(f"add chain inet {_COUNT} {hook} {{ {kind} }}")
            there = ", ".join(self.addresses(other))
            lines.append(f"add rule inet {_COUNT} {hook} ip {side} {{ {there} }} counter")
        self._nft(name, "\n".join(lines) + "\n")

    def counted(self, name: str) -> int:
        """Bytes on the cable since ``count``, both directions, with all headers."""
        said = json.loads(self._within(name, "nft", "-j", "list", "table", "inet", _COUNT))
        rules = [item["rule"] for item in said["nftables"] if "rule" in item]
        counters = [part["counter"] for rule in rules for part in rule["expr"] if "counter" in part]
        ethernet = 14
        return sum(one["bytes"] + ethernet * one["packets"] for one in counters)

    def on_cable(self, name: str) -> int:
        """Bytes that a member has sent and received, with all headers."""
        line = ("ip", "-s", "-j", "link", "show", "eth0")
        held = json.loads(self._within(name, *line))[0]["stats64"]
        return int(held["rx"]["bytes"] + held["tx"]["bytes"])

    @contextlib.contextmanager
    def capture(self, name: str, device: str = "eth0") -> Iterator[list[bytes]]:
        """The frames of a member's cable, in and out, as long as the block lasts."""
        frames: list[bytes] = []
        held = self.within(name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        held.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
        held.bind((device, _ETH_P_ALL))
        held.settimeout(0.1)
        over = threading.Event()

        def read() -> None:
            while True:
                try:
                    frames.append(held.recv(1 << 17))
                except TimeoutError:
                    if over.is_set():
                        return

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield frames
        finally:
            over.set()
            reader.join()
            # Two 32-bit numbers since the last look: packets that came, and packets dropped here.
            said = held.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            dropped = struct.unpack("II", said)[1]
            held.close()
        assert dropped == 0, f"{dropped} frames of {name} were not captured"

    # -- sockets within ------------------------------------------------------------------------

    def within(self, name: str, make: Callable[[], socket.socket]) -> socket.socket:
        """What ``make`` returns, run in a member's network: a socket stays where it was made."""
        made: list[socket.socket] = []
        failed: list[Exception] = []

        def enter() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            with Path(f"/run/netns/{self.space(name)}").open() as there:
                if libc.setns(there.fileno(), _NEWNET):
                    failed.append(OSError(ctypes.get_errno(), "setns"))
                    return
            try:
                made.append(make())
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return made[0]

    def udp(self, name: str, port: int) -> socket.socket:
        """A UDP socket of a member at its own address."""

        def make() -> socket.socket:
            held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            held.bind((self.sites[name].own, port))
            held.settimeout(_WORDS_WITHIN)
            return held

        return self.within(name, make)

    def listening(self, name: str) -> socket.socket:
        """A TCP socket that listens on a member's loopback."""

        def make() -> socket.socket:
            return socket.create_server(("127.0.0.1", 0), backlog=64)

        return self.within(name, make)

    def dialled(self, name: str, bound: str) -> socket.socket:
        """A TCP connection of a member to ``ip:port``."""
        host, _, port = bound.rpartition(":")
        return self.within(name, lambda: socket.create_connection((host, int(port)), 20))


# -- the oracle ------------------------------------------------------------------------------------


def can_be_direct(lab: Lab, one: str, other: str, witness: str) -> bool:
    """Whether two members reach each other by plain UDP, told by a witness where they are seen.

    Both send to where the witness saw the other, and to wherever something came from.
    """
    port = next(_PORTS)
    with contextlib.ExitStack() as stack:
        seen = stack.enter_context(lab.udp(witness, port))
        sockets = [stack.enter_context(lab.udp(name, port + 1)) for name in (one, other)]
        places = [_seen_at(held, seen) for held in sockets]
        targets = [{places[1]}, {places[0]}]
        heard = [False, False]
        for _ in range(_ROUNDS):
            for held, there in zip(sockets, targets, strict=True):
                for place in there:
                    held.sendto(b"punch", place)
            for index, held in enumerate(sockets):
                for place in _senders(held):
                    targets[index].add(place)
                    heard[index] = True
                    held.sendto(b"punch", place)
            if all(heard):
                return True
    return False


def _seen_at(held: socket.socket, witness: socket.socket) -> tuple[str, int]:
    """Where a witness sees a socket. A lost word is said again."""
    word = f"I am {held.getsockname()}".encode()
    for _ in range(100):
        held.sendto(word, witness.getsockname())
        with contextlib.suppress(TimeoutError):
            said, place = witness.recvfrom(100)
            if said == word:
                return str(place[0]), int(place[1])
    raise AssertionError("the witness hears nothing")


def _senders(held: socket.socket) -> list[tuple[str, int]]:
    """From where punches come within some milliseconds."""
    found = []
    end = time.monotonic() + _WORDS_WITHIN
    while time.monotonic() < end:
        try:
            data, place = held.recvfrom(100)
        except TimeoutError:
            break
        if data == b"punch":
            found.append(place)
    return found


def left_over(lab: Lab) -> list[str]:
    """Namespaces of a laboratory that are still there."""
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    own = lab.space("")
    return [line.split()[0] for line in done.stdout.splitlines() if line.startswith(own)]
