"""The routes of upgrades over the mesh: their part of the one table (``routes``)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pollen.core import rootwords
from pollen.runtime.control.route import Query, Route, body_of
from pollen.runtime.upgrades import UpgradeRequest, UpgradeState

_Sha256 = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^[0-9a-f]{64}$"})]
_NODE_ERRORS = ("usage", "peer-not-found", "ambiguous", "denied", "unreachable")

SignReleaseRequest = body_of(
    rootwords.SignReleaseCommand,
    "SignReleaseRequest",
    "The body of ``POST /v1/releases``.",
    wheel=_Sha256,
)

UPGRADE_ROUTES: tuple[Route, ...] = (
    Route(
        "sign_release",
        "POST",
        "/v1/releases",
        "Have the root here sign that nodes may run a wheel",
        SignReleaseRequest,
        rootwords.ReleaseSigned,
        ("root-not-here", "bad-request"),
        command=rootwords.SignReleaseCommand,
    ),
    Route(
        "upgrade_state",
        "GET",
        "/v1/nodes/{node}/upgrade",
        "Whether a node takes an upgrade over the mesh, and how its last one went",
        None,
        UpgradeState,
        _NODE_ERRORS,
        (Query("tags", "string", "Of a wheel: whether the node could be upgraded to it."),),
    ),
    Route(
        "upgrade_node",
        "POST",
        "/v1/nodes/{node}/upgrade",
        "Have another node upgrade itself to what the root signed",
        UpgradeRequest,
        UpgradeState,
        (
            *_NODE_ERRORS,
            *("upgrade-not-taken", "release-denied", "release-stale"),
            *("already-running", "state-unusable"),
        ),
    ),
)
