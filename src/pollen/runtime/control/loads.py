"""What is asked of a load, what is told of it, and what is refused before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from pollen.core import commands as cmd
from pollen.core.servicewords import ServiceView
from pollen.errors import error_from


class LoadRequest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The body of ``POST /v1/load``. A ``seed`` is called, or a ``service`` asked. ``rate`` 0 is
    closed loop; ``function`` "" the only export; ``nodes`` are ids of those that load, none is this
    one. By its ``name``, which is the client's to choose, ``DELETE /v1/load/{name}`` ends it.

    One node asks another by it, too: defaults are left out, so that an older one understands."""

    name: Annotated[str, msgspec.Meta(max_length=64, pattern="^[A-Za-z0-9._-]*$")] = ""
    seed: str = ""
    function: str = ""
    service: str = ""
    rate: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 64
    duration_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000)] = 10_000
    warm_up_ms: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] = 0
    input_base64: str = ""
    nodes: Annotated[list[str], msgspec.Meta(max_length=64)] = []


def check_target(plan: LoadRequest, seeds: Sequence[cmd.SeedView]) -> None:
    """Refuse a load of what is not there before it begins: it would refuse a million times."""
    found = next((held for held in seeds if plan.seed in (held.name, held.seed)), None)
    if found is None:
        reason = f'no seed named "{plan.seed}" in this node\'s view of the cluster'
        raise error_from("seed-not-found", reason, "pln status seeds")
    if plan.function and plan.function not in found.functions:
        reason = f'seed "{found.name}" has no function "{plan.function}"'
    elif not plan.function and len(found.functions) != 1:
        reason = f'seed "{found.name}" has {len(found.functions)} functions'
    else:
        return
    raise error_from("function-not-found", reason, f"name one of: {', '.join(found.functions)}")


def check_service(plan: LoadRequest, services: Sequence[ServiceView]) -> None:
    """The same of a service."""
    if plan.seed or plan.function:
        raise error_from("usage", "a load is of a seed or of a service", "name one of them")
    found = next((held for held in services if held.name == plan.service), None)
    if found is None:
        reason = f"nobody serves {plan.service[:80]!r}"
        raise error_from("service-not-found", reason, "pln status services")
    if found.datagrams:
        reason = f"{found.name} takes datagrams, and nothing says that one has come"
        raise error_from("usage", reason, "load a service of streams")


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles in microseconds."""

    p50: int
    p90: int
    p99: int
    p999: int
    max: int


class NodeLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What one of several nodes measured."""

    node: str
    name: str
    ok: int
    failed: int
    rate: float
    latency_us: Latency


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a load measured. ``failed`` by slug; ``missed`` began late or never (open loop only);
    ``bytes_in``: what a service answered in all.

    From several nodes: sums, and of each percentile the slowest one's; ``nodes`` has each.
    """

    ok: int
    failed: dict[str, int]
    missed: int
    seconds: float
    rate: float
    latency_us: Latency
    bytes_in: int = 0
    nodes: list[NodeLoad] = []


class LoadEnded(msgspec.Struct, frozen=True, kw_only=True):
    """So many nodes were loading under that name; they report now."""

    nodes: int
