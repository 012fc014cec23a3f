"""The one table of routes: method, path, request, response, errors.

The server, the OpenAPI document and the tests are made from it; a client may be, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from pollen.core import commands as cmd
from pollen.errors import error_from


class SeedRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/seeds``."""

    name: str
    content: str
    options: cmd.SeedOptions = cmd.SeedOptions()
    take_over: bool = False


class InviteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/invites``; the defaults are those of ``InviteCommand``."""

    subject: str = ""
    ttl_ms: int = 300_000
    tier: str = "leaf"
    properties: str = "{}"
    access_ms: int = 0
    lease_ms: int = 0


class ShutdownRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/shutdown``. ``grace_ms`` below 0 is the configured one."""

    grace_ms: int = -1
    drain: bool = True


class LoadRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/load``. ``rate`` 0 is closed loop; ``function`` "" the only export."""

    seed: str
    function: str = ""
    rate: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 64
    duration_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000)] = 10_000
    input_base64: str = ""


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


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles in microseconds."""

    p50: int
    p90: int
    p99: int
    p999: int
    max: int


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a load measured. ``failed`` by slug; ``missed`` started late (open loop only)."""

    ok: int
    failed: dict[str, int]
    missed: int
    seconds: float
    rate: float
    latency_us: Latency


class Seeds(msgspec.Struct, frozen=True, kw_only=True):
    """The live seeds."""

    seeds: list[cmd.SeedView]


class Stopping(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon of this pid ends now; it is gone when its process is."""

    pid: int


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the daemon answers. ``state``: starting, running, draining."""

    state: str
    pid: int
    node: str
    cluster: str
    name: str
    uptime_ms: int
    version: str


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """What runs here."""

    pollen: str
    python: str
    native: str


@dataclass(frozen=True)
class Route:
    """One line of the table. ``response`` None: a text body, described in ``summary``."""

    name: str
    method: str
    path: str
    summary: str
    request: type[msgspec.Struct] | None = None
    response: type[msgspec.Struct] | None = None
    errors: tuple[str, ...] = field(default=())


_PUBLISH_ERRORS = (
    "name-invalid",
    "config-invalid",
    "name-taken",
    "denied",
    "blob-not-found",
    "module-invalid",
    "import-unknown",
)

ROUTES: tuple[Route, ...] = (
    Route("health", "GET", "/v1/health", "Whether the daemon answers", None, Health),
    Route("version", "GET", "/v1/version", "What runs here", None, Version),
    Route("status", "GET", "/v1/status", "One screen of everything", None, cmd.Status),
    Route("seeds", "GET", "/v1/seeds", "The live seeds", None, Seeds),
    Route(
        "publish",
        "POST",
        "/v1/seeds",
        "Publish held content under a name",
        SeedRequest,
        cmd.Seeded,
        _PUBLISH_ERRORS,
    ),
    Route(
        "withdraw",
        "DELETE",
        "/v1/seeds/{target:path}",
        "Withdraw a seed by name, hash or hash prefix",
        None,
        cmd.Unseeded,
        ("seed-not-found", "ambiguous", "denied"),
    ),
    Route(
        "invite",
        "POST",
        "/v1/invites",
        "Make a token for a new member",
        InviteRequest,
        cmd.Invited,
        ("denied",),
    ),
    Route("drain", "POST", "/v1/drain", "Leave every route", None, cmd.Drained),
    Route("shutdown", "POST", "/v1/shutdown", "Drain and end", ShutdownRequest, Stopping),
    Route(
        "why_place",
        "GET",
        "/v1/why/place/{target:path}",
        "Why a seed runs where it does",
        None,
        cmd.WhyPlace,
        ("seed-not-found", "ambiguous"),
    ),
    Route(
        "why_call",
        "GET",
        "/v1/why/call/{target:path}",
        "Where a call from this node would go; query: function",
        None,
        cmd.WhyCall,
        ("seed-not-found", "function-not-found", "ambiguous"),
    ),
    Route(
        "load",
        "POST",
        "/v1/load",
        "Load a seed from this node",
        LoadRequest,
        LoadReport,
        ("seed-not-found", "function-not-found"),
    ),
    Route("metrics", "GET", "/v1/metrics", "Prometheus text"),
    Route("logs", "GET", "/v1/logs", "Log lines as x-ndjson: lines, follow, seed"),
    Route("openapi", "GET", "/v1/openapi.json", "This table as OpenAPI 3.1"),
)


def openapi_view(version: str) -> dict[str, Any]:
    """The table as an OpenAPI document."""
    types = [t for route in ROUTES for t in (route.request, route.response) if t is not None]
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    reference = dict(zip(types, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in ROUTES:
        path = route.path.replace(":path", "")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, reference)
    info = {"title": "Pollen control API", "version": version}
    return {
        "openapi": "3.1.0",
        "info": info,
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, reference: dict[type[msgspec.Struct], Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": route.summary}
    if route.response is not None:
        answer["content"] = {"application/json": {"schema": reference[route.response]}}
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": {
            "200": answer,
            "default": {"description": f"problem+json: {', '.join(route.errors) or 'internal'}"},
        },
    }
    if "{target" in route.path:
        operation["parameters"] = [
            {"name": "target", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    if route.request is not None:
        operation["requestBody"] = {
            "content": {"application/json": {"schema": reference[route.request]}}
        }
    return operation
