"""Whether a node could start with these settings: one look for all who ask.

Decides: what of the settings is tried before a start: each key's form and what it needs.
Does not know: the store, keys, peers.
Invariants: ``pln up``, ``set``, ``unset``, ``restart``, ``doctor`` and the daemon itself ask here,
so that none of them takes what another one refuses; nothing is left bound or changed.
Source: docs/guide/run-a-cluster.md.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import psutil

from pollen.core.ids import ClusterId, KeyRole, PeerId
from pollen.core.peers.discovery import contract
from pollen.core.peers.discovery.contract import Context
from pollen.core.rng import Rng
from pollen.errors import BadRequest, PollenError
from pollen.paths import Paths
from pollen.runtime.folder.config import Config, check_values, read_config
from pollen.runtime.loop.discovery import known_schemes
from pollen.runtime.loop.native import PORT_REMEDY
from pollen.runtime.watch import otlp

_NO_ID = bytes(32)


def settings(where: Paths, flags: Mapping[str, Any]) -> Config:
    """The settings that a start with these flags has; a flag goes before the file."""
    return msgspec.structs.replace(read_config(where.config_file), **flags)


def check(config: Config) -> None:
    """Raise ``config-invalid`` for what no start on any machine like this one would take."""
    check_values(config)
    otlp.check_extra(config)
    contract.parse_setting(config.discovery, known_schemes(), _nobody())


def _nobody() -> Context:
    """A context in which words are read and nothing is done."""

    def sign(role: KeyRole, message: bytes) -> bytes:
        return b""

    def verify(held: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
        return [False for _ in held]

    return Context(
        node=PeerId(_NO_ID), cluster=ClusterId(_NO_ID), rng=Rng(0), sign=sign, verify=verify
    )


def check_addresses(config: Config, pid: int | None = None) -> None:
    """Raise ``config-invalid`` for an address that this machine has not, ``port-in-use`` for a port
    that another process than ``pid`` has."""
    for key, address, error in _refused(config):
        if error.errno == errno.EADDRINUSE and pid is not None and _port(address) in _ports(pid):
            continue
        kind = "udp" if key == "listen" else key
        reason = f"cannot bind {address} ({kind}): {error.strerror}"
        if error.errno == errno.EADDRNOTAVAIL:
            remedy = f"0.0.0.0 and [::] are all addresses of this machine: pln set {key} IP:PORT"
            raise BadRequest("config-invalid", reason, remedy)
        remedy = PORT_REMEDY if key == "listen" else f"give another port: pln set {key} IP:PORT"
        raise PollenError("port-in-use", reason, remedy)


def absent(config: Config, key: str) -> list[str]:
    """The addresses of a setting that this machine does not have now."""
    return [
        address
        for held, address, error in _refused(config)
        if held == key and error.errno == errno.EADDRNOTAVAIL
    ]


def _refused(config: Config) -> Iterator[tuple[str, str, OSError]]:
    wanted: Sequence[tuple[str, str, socket.SocketKind]] = [
        *(("listen", address, socket.SOCK_DGRAM) for address in config.listen),
        *(
            (key, address, socket.SOCK_STREAM)
            for key, address in (("http", config.http), ("metrics", config.metrics))
            if address
        ),
    ]
    for key, address, kind in wanted:
        try:
            _bind(address, kind)
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                yield key, address, error


def _bind(address: str, kind: socket.SocketKind) -> None:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind((host.strip("[]"), int(port)))


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _ports(pid: int) -> set[int]:
    """The ports that a process has bound; none where that cannot be told."""
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        look = getattr(process, "net_connections", None) or process.connections
        return {held.laddr.port for held in look("inet") if held.laddr}
    return set()
