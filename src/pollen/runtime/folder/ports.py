"""Whether an address can be bound, before anything is made that would be left behind.

An address is ``ip:port`` with brackets around IPv6, as in ``config.listen``. What is free now may
be taken a moment later: the daemon says so once more.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence

from pollen.errors import PollenError
from pollen.runtime.loop.native import PORT_REMEDY

# How far to look for a port that is free. Guess.
PORTS_TRIED = 100


def bind(address: str) -> None:
    """Bind its UDP port and let go of it. Raises ``OSError``."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind((host.strip("[]"), int(port)))


def check_free(listen: Sequence[str]) -> None:
    """Raise ``port-in-use`` when another socket has a port; the rest is for the daemon to say."""
    for address in listen:
        try:
            bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = f"cannot bind {address} (udp): {error.strerror}"
                raise PollenError("port-in-use", reason, PORT_REMEDY) from None


def next_free(listen: Sequence[str]) -> list[str]:
    """The addresses with the next port that is free on all of them; 0, any, when none is near."""
    hosts = [address.rpartition(":")[0] for address in listen]
    first = int(listen[0].rpartition(":")[2])
    for port in range(first + 1, min(first + PORTS_TRIED, 65_535) + 1):
        proposed = [f"{host}:{port}" for host in hosts]
        with contextlib.suppress(OSError):
            for address in proposed:
                bind(address)
            return proposed
    return [f"{host}:0" for host in hosts]
