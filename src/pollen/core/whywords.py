"""What a user can ask a running node to explain, and how it is answered.

Decides: nothing; these commands and answers belong to ``commands``, which lists them.
Does not know: how an explanation is found (``desk``).
Invariants: as in ``commands``: ids are lower-case hex, times integers with the unit in the name.
Source: docs/design/cli.md#why; docs/internals/control-api.md.
"""

from __future__ import annotations

import msgspec


class _Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="c"):
    """Base of these commands, with the tag of all commands."""


class WhyPlaceCommand(_Command, frozen=True, kw_only=True, tag="why_place"):
    """Ask why a seed runs where it does; answered by ``WhyPlace``."""

    target: str


class WhyCallCommand(_Command, frozen=True, kw_only=True, tag="why_call"):
    """Ask where a call from this node would go, and why; answered by ``WhyCall``."""

    target: str
    function: str = ""


class WhyPathCommand(_Command, frozen=True, kw_only=True, tag="why_path"):
    """Ask how packets to a member go, and why; answered by ``WhyPath``."""

    target: str


class WhyServiceCommand(_Command, frozen=True, kw_only=True, tag="why_service"):
    """Ask who serves ``NAME``, or one of them with ``NAME@NODE``; answered by ``WhyService``."""

    target: str


WhyCommands = WhyPlaceCommand | WhyCallCommand | WhyPathCommand | WhyServiceCommand


class PartView(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a policy: how deep it stands, its text, and its value; ``missing`` where a path
    leads nowhere, else what is wrong with it (docs/design/policy.md)."""

    depth: int
    text: str
    value: str


class RankView(msgspec.Struct, frozen=True, kw_only=True):
    """One node in the ranking of a seed. ``rank`` counts from 1, 0 is none; the lowest ``cost``
    ranks first. ``bonus``: what made it cheaper. ``claim``: what it says of the seed itself.
    ``policy``: the parts of the seed's policy on hosts, as they are of this node.
    """

    node: str
    name: str
    rank: int
    chosen: bool
    cost: int
    memory_mib: int
    slots: int
    bonus: list[str]
    claim: str
    reason: str
    policy: list[PartView] = []


class WhyPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Why a seed runs where it does: how many are wanted, and every node's place in the ranking."""

    name: str
    seed: str
    wanted: int
    ready: int
    demand_milli: int
    why: list[str]
    nodes: list[RankView]


class WayView(msgspec.Struct, frozen=True, kw_only=True):
    """One host that a call may go to. ``price_us`` is ``here``, ``measured``, ``estimated`` or
    ``unknown`` by ``price_source``."""

    node: str
    name: str
    price_us: int
    price_source: str
    linked: bool
    state: str
    reason: str


class WhyCall(msgspec.Struct, frozen=True, kw_only=True):
    """Where a call from this node would go; ``ways`` in the order in which they are tried.
    ``policy``: the parts of the seed's policy on callers, as they are of this node."""

    name: str
    seed: str
    function: str
    publisher: str
    name_epoch: int
    allowed: bool
    why: list[str]
    ways: list[WayView]
    policy: list[PartView] = []


class TriedView(msgspec.Struct, frozen=True, kw_only=True):
    """A way to a member that the muscles know: at an ``address``, or through others where it is
    empty. ``state``: ``used``, ``open`` (a path stands by) or ``tried`` (there is no path)."""

    address: str
    state: str
    rtt_us: int = 0


class WhyPath(msgspec.Struct, frozen=True, kw_only=True):
    """How packets to a member go. ``path``: ``direct``, ``via NAME``, or empty without a link; it
    is so for ``path_ms``. ``nat`` and ``node_nat``: what stands before this node and before the
    other (``unknown``, ``none``, ``behind``, ``same``, ``other``, see docs/internals/paths.md#nat).
    ``hops``: the members between, best first. ``seen_at``: where others see this node. ``tried``:
    where its packets went or were to go; the runtime adds it."""

    node: str
    name: str
    path: str
    path_ms: int
    address: str
    rtt_us: int
    nat: str
    node_nat: str
    hops: list[str]
    seen_at: list[str]
    why: list[str]
    tried: list[TriedView] = []


class AnsweredView(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider said to the last client of this node: nothing but ``ago_ms`` when it took it,
    else the ``slug`` of its refusal, or of what became of the way to it."""

    slug: str
    reason: str
    ago_ms: int


class ProviderWay(msgspec.Struct, frozen=True, kw_only=True):
    """One node that serves a name, as seen from here. ``state``: self, online, offline or left.
    ``lets``: its gate lets this node in; ``gate``: what it asks for. ``price_us`` and
    ``price_source`` as in ``WayView``, ``path`` as in ``WhyPath``. ``answered`` is null while no
    client of this node was led there; the runtime adds it. ``health``, ``health_unix_ms`` and
    ``health_reason`` as in ``ProviderView``."""

    node: str
    name: str
    state: str
    lets: bool
    gate: str
    price_us: int
    price_source: str
    path: str
    answered: AnsweredView | None = None
    health: str = ""
    health_unix_ms: int = 0
    health_reason: str = ""


class WhyService(msgspec.Struct, frozen=True, kw_only=True):
    """Who serves a name, in the order in which they are tried. ``allowed``: one of them lets this
    node in."""

    name: str
    datagrams: bool
    name_epoch: int
    allowed: bool
    why: list[str]
    providers: list[ProviderWay]
