"""What a user can ask a running node about services, and how each is answered.

Decides: nothing; these commands and answers belong to ``commands``, which lists them.
Does not know: sockets; the muscles open them.
Invariants: as in ``commands``: ids are lower-case hex, times integers with the unit in the name.
Source: docs/design/services.md; docs/internals/control-api.md.
"""

from __future__ import annotations

import msgspec


class _Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="c"):
    """Base of these commands, with the tag of all commands."""


class ServeCommand(_Command, frozen=True, kw_only=True, tag="serve"):
    """Serve what listens at ``target`` under a name; answered by ``Served`` when it is on disk.

    ``target``: ``[tcp:|udp:]PORT``, ``[tcp:|udp:]HOST:PORT`` or ``unix:PATH``; a port alone is of
    this machine. ``allow``, ``allow_if``: who may reach it. ``proxy_header``: a PROXY header of
    version 2 tells it who is calling. ``idle_ms`` ends a session of datagrams, 0 is the default.
    ``beside``: other nodes may serve the same name. ``take_over``: they do so no more. ``tied``: it
    is a program's as long as that runs, and is served no more after a restart of the node.
    ``check``: ``tcp``, ``http:/PATH``, or empty for none; it comes each ``check_every_ms`` and may
    take ``check_timeout_ms``, 0 are the defaults. Clients go elsewhere while it fails.
    """

    name: str
    target: str
    allow: list[tuple[str, str]] = []
    allow_if: str = ""
    proxy_header: bool = False
    idle_ms: int = 0
    beside: bool = False
    take_over: bool = False
    tied: bool = False
    check: str = ""
    check_every_ms: int = 0
    check_timeout_ms: int = 0


class UnserveCommand(_Command, frozen=True, kw_only=True, tag="unserve"):
    """Serve a name here no more; answered by ``Unserved``. ``everywhere``: withdraw the name from
    all nodes that serve it. ``tied``: only what a program has there, at this target."""

    name: str
    everywhere: bool = False
    tied: str = ""


class ConnectCommand(_Command, frozen=True, kw_only=True, tag="connect"):
    """Take clients of this machine for a service; answered by ``Connected``.

    ``service``: ``NAME`` or ``NAME@NODE``; empty for a proxy, whose clients say by the host name
    ``NAME.pln`` or ``NAME--NODE.pln`` what they want (SOCKS5, HTTP CONNECT, absolute URLs).
    ``local``: ``PORT``, ``IP:PORT`` or ``unix:PATH``; empty takes the port of the service itself,
    or any when that is taken; of a proxy 1080. ``any_user``: other users of this machine may come
    as well. ``idle_ms`` as in ``ServeCommand``. ``auth``: of a proxy, the whole path of a file of
    lines ``USER:PASSWORD``, one of which each client must know; other machines may come then.
    """

    service: str
    local: str = ""
    any_user: bool = False
    idle_ms: int = 0
    auth: str = ""


class DisconnectCommand(_Command, frozen=True, kw_only=True, tag="disconnect"):
    """Close local listeners, with their tunnels; answered by ``Disconnected``.

    ``target``: where one listens, as ``pln status services`` shows it, or a service for all of it.
    """

    target: str


class ServicesCommand(_Command, frozen=True, kw_only=True, tag="services"):
    """Ask what is served where, and what listens here; answered by ``ServiceList``."""


ServiceCommands = (
    ServeCommand | UnserveCommand | ConnectCommand | DisconnectCommand | ServicesCommand
)


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A node serves a name. ``providers``: names of all nodes that do, this one first.
    ``unchanged``: it was so before."""

    name: str
    target: str
    datagrams: bool
    name_epoch: int
    providers: list[str]
    unchanged: bool = False


class Unserved(msgspec.Struct, frozen=True, kw_only=True):
    """A node serves a name no more. ``providers``: names of the nodes that still do."""

    name: str
    providers: list[str] = []


class Connected(msgspec.Struct, frozen=True, kw_only=True):
    """Clients find the service at ``bound``. ``provider``: the only node that serves them, by name,
    else empty. ``unchanged``: it was so before."""

    service: str
    bound: str
    datagrams: bool
    provider: str = ""
    unchanged: bool = False


class Disconnected(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing listens there any more."""

    bound: list[str]


class CheckView(msgspec.Struct, frozen=True, kw_only=True):
    """The check of a program of this node. ``state``: unknown, healthy or failing, since then.
    ``against``: results in a row that speak against it, of ``needed`` that change it. ``error``:
    why the last one failed, empty when it did not. ``good`` and ``bad`` count since it began."""

    check: str
    every_ms: int
    timeout_ms: int
    state: str
    since_unix_ms: int
    against: int
    needed: int
    error: str
    error_unix_ms: int
    good: int
    bad: int


# Of each service of this node that is checked, for the metrics page: 1 when it is healthy, else 0;
# the checks that it passed, and those that it failed.
Checks = dict[str, tuple[int, int, int]]


class ProviderView(msgspec.Struct, frozen=True, kw_only=True):
    """One node that serves a name. ``state``: self, online, offline or left. ``rtt_us`` is 0 while
    unknown. ``allow``, ``allow_if``: whom it lets in. ``health``: healthy or failing, by the check
    of that node, since ``health_unix_ms`` and with its reason; empty where it says nothing."""

    node: str
    name: str
    state: str
    port: int
    rtt_us: int = 0
    allow: list[tuple[str, str]] = []
    allow_if: str = ""
    health: str = ""
    health_unix_ms: int = 0
    health_reason: str = ""


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """One name and who serves it, in the order in which they are tried. ``target``: where it is on
    this node, empty where this node does not serve it. The counters are this node's own, of both
    ends: ``opened`` and ``refused`` since the start, ``open`` now. ``other_kind``: nodes that serve
    the name too, and do not count because they speak by UDP, or the others do. ``check``: that of
    this node, null where it checks nothing."""

    name: str
    datagrams: bool
    name_epoch: int
    providers: list[ProviderView]
    target: str = ""
    other_kind: list[str] = []
    opened: int = 0
    open: int = 0
    refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    check: CheckView | None = None


class ListenerView(msgspec.Struct, frozen=True, kw_only=True):
    """One local listener. ``state``: open, opening or failed, then with ``reason``."""

    service: str
    bound: str
    datagrams: bool
    state: str
    provider: str = ""
    any_user: bool = False
    reason: str = ""


class ServiceList(msgspec.Struct, frozen=True, kw_only=True):
    """What is served in the cluster, by name, and what listens here."""

    services: list[ServiceView]
    listeners: list[ListenerView]
