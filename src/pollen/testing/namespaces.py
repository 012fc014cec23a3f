"""A network of its own for each node of a test cluster: namespaces on one bridge, cut by nftables.

Needs Linux, iproute2 and nftables, and root. Names carry this process's number, so that clusters do
not meet; ``remove`` takes everything away again, and may be called at any moment. Whoever makes one
takes away what processes left that were killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from pollen.errors import PollenError

_TABLE = "pollen_cut"
_SEQUENCE = iter(range(1 << 16))
# Interface names have 15 characters at most, so that of a process's number five digits stand there.
_NUMBERS = 100_000


class Spaces:
    """Namespaces for the nodes ``names``, however they are wired: a subclass makes that.

    ``cut`` and ``heal`` are silent, as a pulled cable is.
    """

    def __init__(self, names: Sequence[str], *, ipv6: bool = False) -> None:
        self._tag = f"p{os.getpid() % _NUMBERS}x{next(_SEQUENCE)}"
        self._ipv6 = ipv6
        self._made: list[str] = []
        self.names = list(names)

    @staticmethod
    def is_possible() -> bool:
        """Whether this process may make namespaces here: root of a container may not."""
        if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("nft"):
            return False
        probe = f"p{os.getpid()}-probe"
        done = [_try("ip", "netns", verb, probe) for verb in ("add", "delete")]
        return all(held.returncode == 0 for held in done)

    def make(self) -> None:
        """Build it. Raises ``PollenError`` naming the command that failed; ``remove`` then too."""
        raise NotImplementedError

    def addresses(self, name: str) -> list[str]:
        """Those from which packets of a node may come."""
        raise NotImplementedError

    def listens(self, name: str, port: int) -> str:
        """What a node binds, as it is written in settings."""
        raise NotImplementedError

    def inside(self, name: str, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` in a node's network."""
        return ["ip", "netns", "exec", self.space(name), *command]

    def space(self, name: str) -> str:
        """The name of a namespace, as iproute2 knows it."""
        return f"{self._tag}-{name}"

    def cut(self, some: Iterable[str], others: Iterable[str]) -> None:
        """Drop every packet between two groups, without telling either; other cuts are healed."""
        self.heal()
        self.part(some, others)

    def part(self, some: Iterable[str], others: Iterable[str]) -> None:
        """As ``cut``, beside the cuts that there are."""
        away = list(others)
        for name in some:
            for other in away:
                self._drop(name, other)
                self._drop(other, name)

    def _drop(self, at: str, source: str) -> None:
        family = "ip6" if self._ipv6 else "ip"
        lines = [
            f"add table inet {_TABLE}",
            f"add chain inet {_TABLE} input {{ type filter hook input priority 0; }}",
        ]
        for address in self.addresses(source):
            lines.append(f"add rule inet {_TABLE} input {family} saddr {address} drop")
        self._nft(at, "\n".join(lines) + "\n")

    def heal(self) -> None:
        """Let everything through again."""
        for name in self.names:
            with contextlib.suppress(PollenError):
                self._within(name, "nft", "delete", "table", "inet", _TABLE)

    def remove(self) -> None:
        """Take it all away; what is not there is no error."""
        for name in self._made:
            with contextlib.suppress(PollenError):
                _run("ip", "netns", "delete", self.space(name))

    def _add(self, name: str) -> str:
        """Make a namespace; its name."""
        self._made.append(name)
        _run("ip", "netns", "add", self.space(name))
        self._ip(name, "link", "set", "lo", "up")
        return self.space(name)

    def _ip(self, name: str, *words: str) -> None:
        _run("ip", "-n", self.space(name), *words)

    def _within(self, name: str, *command: str, stdin: str = "") -> str:
        """What a command prints in a namespace."""
        return _run("ip", "netns", "exec", self.space(name), *command, stdin=stdin)

    def _nft(self, name: str, rules: str) -> None:
        self._within(name, "nft", "-f", "-", stdin=rules)

    def _bridge(self, hub: str) -> None:
        """The namespace in which the cables end."""
        sweep()
        self._add(hub)
        self._ip(hub, "link", "add", "br0", "type", "bridge")
        self._ip(hub, "link", "set", "br0", "up")

    def _wire(self, hub: str, cable: str, name: str, device: str) -> None:
        """A cable from the bridge to a namespace, where it is called ``device``."""
        ends = ("type", "veth", "peer", device, "netns", self.space(name))
        _run("ip", "link", "add", cable, "netns", self.space(hub), *ends)
        self._ip(hub, "link", "set", cable, "master", "br0", "up")
        self._ip(name, "link", "set", device, "up")


def sweep() -> list[str]:
    """Take away the namespaces of processes that are no more, and end what runs in them; which."""
    # The numbers of processes as they stand in names.
    alive = {int(at.name) % _NUMBERS for at in Path("/proc").iterdir() if at.name.isdigit()}
    gone = []
    for line in _try("ip", "netns", "list").stdout.splitlines():
        name = line.split()[0]
        owner = re.match(r"p(\d+)x\d+-", name)
        if owner is None or int(owner[1]) in alive:
            continue
        for pid in _try("ip", "netns", "pids", name).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _try("ip", "netns", "delete", name)
        shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)
        gone.append(name)
    return gone


class Network(Spaces):
    """``size`` namespaces on one bridge.

    With ``ipv6`` they have addresses of that family only, on the loopback as well.
    """

    def __init__(self, size: int, *, ipv6: bool = False) -> None:
        super().__init__([chr(ord("a") + index) for index in range(size)], ipv6=ipv6)
        self._moves = 0

    def make(self) -> None:
        """Build it. Raises ``PollenError`` naming the command that failed; ``remove`` then too."""
        self._bridge("hub")
        for name in self.names:
            self._add(name)
            self._wire("hub", f"{self._tag}{name}", name, "eth0")
            if self._ipv6:
                self._ip(name, "address", "del", "127.0.0.1/8", "dev", "lo")
            self._change(name, "add", self.address(name))

    def address(self, name: str) -> str:
        """The address of a node."""
        host = 1 + self.names.index(name) + self._moves * len(self.names)
        return f"fd00:231::{host:x}" if self._ipv6 else f"10.231.7.{host}"

    def addresses(self, name: str) -> list[str]:
        """The one that it has."""
        return [self.address(name)]

    def listens(self, name: str, port: int) -> str:
        """Where a node is reached, as it is written in settings."""
        address = self.address(name)
        return f"[{address}]:{port}" if self._ipv6 else f"{address}:{port}"

    def _change(self, name: str, verb: str, address: str) -> None:
        # Without nodad an IPv6 address cannot be bound for its first second.
        tail = ("/64", "nodad") if self._ipv6 else ("/24",)
        self._ip(name, "address", verb, address + tail[0], "dev", "eth0", *tail[1:])

    def renumber(self) -> None:
        """Give every node another address, as a new network does; those before are gone."""
        held = {name: self.address(name) for name in self.names}
        self._moves += 1
        for name, old in held.items():
            self._change(name, "del", old)
            self._change(name, "add", self.address(name))


def _try(*command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def _run(*command: str, stdin: str = "") -> str:
    done = _try(*command, stdin=stdin)
    if done.returncode:
        reason = f"{' '.join(command)} failed: {done.stderr.strip()}"
        raise PollenError("internal", reason, "namespaces need root, iproute2 and nftables")
    return done.stdout
