"""A network of its own for each node of a test cluster: namespaces on one bridge, cut by nftables.

Needs Linux, iproute2 and nftables, and root. Names carry this process's number, so that clusters do
not meet; ``remove`` takes everything away again, and may be called at any moment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence

from pollen.errors import PollenError

_TABLE = "pollen_cut"
_SEQUENCE = iter(range(1 << 16))


class Network:
    """``size`` namespaces on one bridge; ``cut`` and ``heal`` are silent, as a pulled cable is.

    With ``ipv6`` they have addresses of that family only, on the loopback as well.
    """

    def __init__(self, size: int, *, ipv6: bool = False) -> None:
        self._ipv6 = ipv6
        # Interface names have 15 characters at most.
        self._tag = f"p{os.getpid() % 100_000}x{next(_SEQUENCE)}"
        self._names = [chr(ord("a") + index) for index in range(size)]
        self._moves = 0

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
        hub = self._space("hub")
        _run("ip", "netns", "add", hub)
        _run("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", hub, "link", "set", "br0", "up")
        for name in self._names:
            space, link = self._space(name), f"{self._tag}{name}"
            _run("ip", "netns", "add", space)
            _run(
                "ip",
                "link",
                "add",
                link,
                "netns",
                hub,
                "type",
                "veth",
                "peer",
                "eth0",
                "netns",
                space,
            )
            _run("ip", "-n", hub, "link", "set", link, "master", "br0", "up")
            for device in ("lo", "eth0"):
                _run("ip", "-n", space, "link", "set", device, "up")
            if self._ipv6:
                _run("ip", "-n", space, "address", "del", "127.0.0.1/8", "dev", "lo")
            self._change(name, "add", self.address(name))

    def address(self, name: str) -> str:
        """The address of a node."""
        host = 1 + self._names.index(name) + self._moves * len(self._names)
        return f"fd00:231::{host:x}" if self._ipv6 else f"10.231.7.{host}"

    def listens(self, name: str, port: int) -> str:
        """Where a node is reached, as it is written in settings."""
        address = self.address(name)
        return f"[{address}]:{port}" if self._ipv6 else f"{address}:{port}"

    def _change(self, name: str, verb: str, address: str) -> None:
        # Without nodad an IPv6 address cannot be bound for its first second.
        tail = ("/64", "nodad") if self._ipv6 else ("/24",)
        line = ("address", verb, address + tail[0], "dev", "eth0", *tail[1:])
        _run("ip", "-n", self._space(name), *line)

    def renumber(self) -> None:
        """Give every node another address, as a new network does; those before are gone."""
        held = {name: self.address(name) for name in self._names}
        self._moves += 1
        for name, old in held.items():
            self._change(name, "del", old)
            self._change(name, "add", self.address(name))

    def inside(self, name: str, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` in a node's network."""
        return ["ip", "netns", "exec", self._space(name), *command]

    def cut(self, some: Iterable[str], others: Iterable[str]) -> None:
        """Drop every packet between two groups, without telling either."""
        self.heal()
        away = list(others)
        for name in some:
            for other in away:
                self._drop(name, other)
                self._drop(other, name)

    def _drop(self, at: str, source: str) -> None:
        family = "ip6" if self._ipv6 else "ip"
        rules = f"""
            add table inet {_TABLE}
            add chain inet {_TABLE} input {{ type filter hook input priority 0; }}
            add rule inet {_TABLE} input {family} saddr {self.address(source)} drop
        """
        _run("ip", "netns", "exec", self._space(at), "nft", "-f", "-", stdin=rules)

    def heal(self) -> None:
        """Let everything through again."""
        for name in self._names:
            with contextlib.suppress(PollenError):
                _run(
                    "ip",
                    "netns",
                    "exec",
                    self._space(name),
                    "nft",
                    "delete",
                    "table",
                    "inet",
                    _TABLE,
                )

    def remove(self) -> None:
        """Take it all away; what is not there is no error."""
        for name in ("hub", *self._names):
            with contextlib.suppress(PollenError):
                _run("ip", "netns", "delete", self._space(name))

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"


def _try(*command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def _run(*command: str, stdin: str = "") -> None:
    done = _try(*command, stdin=stdin)
    if done.returncode:
        reason = f"{' '.join(command)} failed: {done.stderr.strip()}"
        raise PollenError("internal", reason, "namespaces need root, iproute2 and nftables")
