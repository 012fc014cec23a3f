"""The one table of routes: method, path, request, response, errors.

The server, the OpenAPI document (``openapi``) and the tests are made from it; so may a client be.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from pollen.core import commands as cmd
from pollen.core import limits, rootwords, versionwords, whywords
from pollen.core.ids import MILLISECOND
from pollen.runtime.control.loads import LoadEnded, LoadReport, LoadRequest
from pollen.runtime.control.route import Query, Route, body_of
from pollen.runtime.control.services import SERVICE_ROUTES, Name
from pollen.runtime.control.upgrades import UPGRADE_ROUTES
from pollen.runtime.figures import FiguresList

# So many lines of the log at most are told at once.
LINES_MAX = 10_000
WAIT_MAX_MS = limits.WAIT_MAX_NS // MILLISECOND


def _said(**schema: object) -> msgspec.Meta:
    """What a value must be like, for readers of the schema: the brain refuses with a remedy."""
    return msgspec.Meta(extra_json_schema=schema)


# Empty: the Python runner of the node, for a bundle; no bundle.
Content = Annotated[str, _said(pattern="^([0-9a-f]{64})?$")]
Subject = Annotated[str, _said(pattern="^([0-9a-f]{64})?$")]
Tier = Annotated[str, _said(enum=["leaf", "publisher", "admin"])]
TtlMs = Annotated[int, _said(minimum=1, maximum=limits.INVITE_TTL_MAX_NS // MILLISECOND)]
Millis = Annotated[int, _said(minimum=0)]


SeedRequest = body_of(
    cmd.SeedCommand,
    "SeedRequest",
    "The body of ``POST /v1/seeds``.",
    name=Name,
    content=Content,
    bundle=Content,
)
CheckRequest = body_of(
    cmd.CheckSeedCommand,
    "CheckRequest",
    "The body of ``POST /v1/seeds/check``: what ``POST /v1/seeds`` will say, but the module.",
    name=Name,
)
InviteRequest = body_of(
    cmd.InviteCommand,
    "InviteRequest",
    "The body of ``POST /v1/invites``.",
    subject=Subject,
    ttl_ms=TtlMs,
    tier=Tier,
    access_ms=Millis,
    lease_ms=Millis,
)


RollbackRequest = body_of(
    versionwords.RollbackCommand,
    "RollbackRequest",
    "The body of ``POST /v1/rollbacks``.",
)
GrantRequest = body_of(cmd.GrantCommand, "GrantRequest", "The body of ``POST /v1/grants``.")
PinRequest = body_of(cmd.PinCommand, "PinRequest", "The body of ``POST /v1/pins``.")
DenyRequest = body_of(cmd.DenyCommand, "DenyRequest", "The body of ``POST /v1/denies``.")
SucceedRequest = body_of(
    rootwords.SucceedCommand, "SucceedRequest", "The body of ``POST /v1/roots/successor``."
)
ApplyRequest = body_of(
    rootwords.ApplyCommand, "ApplyRequest", "The body of ``POST /v1/roots/answers``."
)
PolicyRequest = body_of(
    rootwords.SetPolicyCommand, "PolicyRequest", "The body of ``POST /v1/policies``."
)
UndenyRequest = body_of(cmd.UndenyCommand, "UndenyRequest", "The body of ``POST /v1/undenies``.")


class ShutdownRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/shutdown``. ``grace_ms`` below 0 is the configured one."""

    grace_ms: int = -1
    drain: bool = True


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


_PUBLISH_ERRORS = (
    "name-invalid",
    "config-invalid",
    "name-taken",
    "denied",
    "blob-not-found",
    "module-invalid",
    "import-unknown",
    "bundle-invalid",
)

_MEMBER_ERRORS = ("peer-not-found", "ambiguous", "denied", "bad-request")
_NODE_ERRORS = ("peer-not-found", "ambiguous", "denied", "unreachable")

ROUTES: tuple[Route, ...] = (
    Route("health", "GET", "/v1/health", "Whether the daemon answers", None, Health),
    Route("version", "GET", "/v1/version", "What runs here", None, Version),
    Route(
        "status",
        "GET",
        "/v1/status",
        "One screen of everything",
        None,
        cmd.Status,
        command=cmd.StatusCommand,
    ),
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
        "check_seed",
        "POST",
        "/v1/seeds/check",
        "Whether publishing under a name would be refused whatever the module",
        CheckRequest,
        cmd.SeedChecked,
        ("name-invalid", "config-invalid", "name-taken", "denied"),
        command=cmd.CheckSeedCommand,
    ),
    Route(
        "seed_state",
        "GET",
        "/v1/seeds/{name}",
        "One seed, at once or when it is ready where it is wanted",
        None,
        cmd.SeedState,
        (),
        (
            Query("wait", "string", "`ready` waits; without it the answer comes at once."),
            Query("seed", "string", "The hash of the version that is waited for."),
            Query("timeout_ms", "integer", "How long to wait (10,000).", WAIT_MAX_MS),
            Query("rest_ms", "integer", "So long for others, once one is ready.", WAIT_MAX_MS),
        ),
    ),
    Route(
        "withdraw",
        "DELETE",
        "/v1/seeds/{target:path}",
        "Withdraw a seed by name, hash or hash prefix",
        None,
        cmd.Unseeded,
        ("seed-not-found", "ambiguous", "denied"),
        command=cmd.UnseedCommand,
    ),
    Route(
        "versions",
        "GET",
        "/v1/versions/{target:path}",
        "The version of a name that counts, and those that are kept",
        None,
        versionwords.VersionList,
        ("seed-not-found", "ambiguous"),
        command=versionwords.VersionsCommand,
    ),
    Route(
        "rollback",
        "POST",
        "/v1/rollbacks",
        "Publish a former version again",
        RollbackRequest,
        cmd.Seeded,
        ("seed-not-found", "version-not-found", "ambiguous", "denied", "blob-not-found"),
        command=versionwords.RollbackCommand,
    ),
    Route(
        "pin",
        "POST",
        "/v1/pins",
        "Keep a copy of a blob or a site on this node, or no more",
        PinRequest,
        cmd.Pinned,
        ("seed-not-found", "bad-request", "denied"),
        command=cmd.PinCommand,
    ),
    *SERVICE_ROUTES,
    Route(
        "invite",
        "POST",
        "/v1/invites",
        "Make a token for a new member",
        InviteRequest,
        cmd.Invited,
        ("denied",),
        command=cmd.InviteCommand,
    ),
    Route(
        "grant",
        "POST",
        "/v1/grants",
        "Change what a member may do",
        GrantRequest,
        cmd.Granted,
        _MEMBER_ERRORS,
        command=cmd.GrantCommand,
    ),
    Route(
        "deny",
        "POST",
        "/v1/denies",
        "Put members out",
        DenyRequest,
        cmd.Denied,
        _MEMBER_ERRORS,
        command=cmd.DenyCommand,
    ),
    Route(
        "undeny",
        "POST",
        "/v1/undenies",
        "Let a denied member in again",
        UndenyRequest,
        cmd.Granted,
        _MEMBER_ERRORS,
        command=cmd.UndenyCommand,
    ),
    Route(
        "policies",
        "GET",
        "/v1/policies",
        "Which policies the root has set for the whole cluster",
        None,
        rootwords.Policies,
        command=rootwords.PoliciesCommand,
    ),
    Route(
        "set_policy",
        "POST",
        "/v1/policies",
        "Have the root here say who may publish, or ask it on paper",
        PolicyRequest,
        rootwords.PolicySet,
        ("bad-policy", "bad-request", "root-not-here", "denied"),
        command=rootwords.SetPolicyCommand,
    ),
    Route(
        "members",
        "GET",
        "/v1/members",
        "Who is a member, and who is not any more",
        None,
        cmd.MemberList,
        command=cmd.MembersCommand,
    ),
    Route(
        "audit",
        "GET",
        "/v1/audit",
        "What admins did",
        None,
        cmd.Acts,
        (),
        (Query("most", "integer", "So many of the newest ones (100).", 100_000),),
        command=cmd.AuditCommand,
    ),
    Route(
        "root",
        "GET",
        "/v1/root",
        "The root key: where it is, its line, what it signed",
        None,
        rootwords.RootView,
        command=rootwords.RootCommand,
    ),
    Route(
        "hold_root",
        "POST",
        "/v1/roots/key",
        "Look again for the root key in the node's folder",
        None,
        rootwords.RootView,
        ("root-file-foreign", "state-unusable"),
    ),
    Route(
        "succeed",
        "POST",
        "/v1/roots/successor",
        "Have the root here sign its successor",
        SucceedRequest,
        rootwords.RootView,
        ("root-not-here", "root-file-stale", "denied"),
        command=rootwords.SucceedCommand,
    ),
    Route(
        "apply",
        "POST",
        "/v1/roots/answers",
        "Publish what the root signed elsewhere",
        ApplyRequest,
        rootwords.Applied,
        ("root-file-invalid", "root-file-foreign", "root-file-stale", "denied"),
        command=rootwords.ApplyCommand,
    ),
    Route(
        "drain",
        "POST",
        "/v1/drain",
        "Leave every route",
        None,
        cmd.Drained,
        command=cmd.DrainCommand,
    ),
    Route("shutdown", "POST", "/v1/shutdown", "Drain and end", ShutdownRequest, Stopping),
    Route(
        "why_place",
        "GET",
        "/v1/why/place/{target:path}",
        "Why a seed runs where it does",
        None,
        whywords.WhyPlace,
        ("seed-not-found", "ambiguous"),
        command=whywords.WhyPlaceCommand,
    ),
    Route(
        "why_call",
        "GET",
        "/v1/why/call/{target:path}",
        "Where a call from this node would go",
        None,
        whywords.WhyCall,
        ("seed-not-found", "function-not-found", "ambiguous"),
        (Query("function", "string", "Which one; none is needed for the only one."),),
        command=whywords.WhyCallCommand,
    ),
    Route(
        "why_path",
        "GET",
        "/v1/why/path/{target:path}",
        "How packets to a member go",
        None,
        whywords.WhyPath,
        ("peer-not-found", "ambiguous", "usage"),
        command=whywords.WhyPathCommand,
    ),
    Route(
        "why_service",
        "GET",
        "/v1/why/service/{target:path}",
        "Who serves a name, and whom they let in",
        None,
        whywords.WhyService,
        ("service-not-found", "ambiguous", "usage"),
        command=whywords.WhyServiceCommand,
    ),
    Route(
        "load",
        "POST",
        "/v1/load",
        "Load a seed from this node, or from others",
        LoadRequest,
        LoadReport,
        ("seed-not-found", "function-not-found", "peer-not-found", "denied", "unreachable"),
    ),
    Route(
        "end_load",
        "DELETE",
        "/v1/load/{name}",
        "End a load, whose report then comes",
        None,
        LoadEnded,
    ),
    Route("metrics", "GET", "/v1/metrics", "Prometheus text", media="text/plain; version=0.0.4"),
    Route(
        "logs",
        "GET",
        "/v1/logs",
        "Log lines, one JSON object each",
        query=(
            Query("lines", "integer", "So many of the last ones (50).", LINES_MAX),
            Query("follow", "boolean", "Go on with what is appended."),
            Query("seed", "string", "Those about this seed only."),
        ),
        media="application/x-ndjson",
    ),
    Route(
        "node_status",
        "GET",
        "/v1/nodes/{node}/status",
        "What another node shows of everything",
        None,
        cmd.Status,
        _NODE_ERRORS,
    ),
    Route(
        "figures",
        "GET",
        "/v1/figures",
        "What each node that is online does, in a few numbers",
        None,
        FiguresList,
    ),
    Route(
        "node_logs",
        "GET",
        "/v1/nodes/{node}/logs",
        "Log lines of another node, one JSON object each",
        errors=_NODE_ERRORS,
        query=(
            Query("lines", "integer", "So many of the last ones (50).", LINES_MAX),
            Query("seed", "string", "Those about this seed only."),
            Query("after", "string", "Those since the time of the last line that was read."),
            Query("skip", "integer", "So many lines of that very time were read.", LINES_MAX),
        ),
        media="application/x-ndjson",
    ),
    *UPGRADE_ROUTES,
    Route("openapi", "GET", "/v1/openapi.json", "This table as OpenAPI 3.1"),
)
