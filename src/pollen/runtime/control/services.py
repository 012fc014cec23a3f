"""The routes of services: their part of the one table (``routes``)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pollen.core import servicewords
from pollen.runtime.control.route import Query, Route, body_of

# What a name is like, for readers of the schema: the brain refuses with a remedy.
Name = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"})]

ServeRequest = body_of(
    servicewords.ServeCommand,
    "ServeRequest",
    "The body of ``POST /v1/services``.",
    without=("tied",),
    name=Name,
)
ConnectRequest = body_of(
    servicewords.ConnectCommand, "ConnectRequest", "The body of ``POST /v1/listeners``."
)

SERVICE_ROUTES: tuple[Route, ...] = (
    Route(
        "services",
        "GET",
        "/v1/services",
        "What is served in the cluster, and what listens here",
        None,
        servicewords.ServiceList,
        command=servicewords.ServicesCommand,
    ),
    Route(
        "serve",
        "POST",
        "/v1/services",
        "Serve a target under a name",
        ServeRequest,
        servicewords.Served,
        ("usage", "name-invalid", "name-taken", "config-invalid", "bad-policy", "denied"),
        command=servicewords.ServeCommand,
    ),
    Route(
        "serve_tied",
        "POST",
        "/v1/services/tied",
        "Serve a target until the client leaves",
        ServeRequest,
        errors=("usage", "name-invalid", "name-taken", "config-invalid", "bad-policy", "denied"),
        media="application/x-ndjson",
    ),
    Route(
        "unserve",
        "DELETE",
        "/v1/services/{name}",
        "Serve a name here no more",
        None,
        servicewords.Unserved,
        ("service-not-found", "name-taken"),
        (Query("everywhere", "boolean", "Also on the other nodes that serve it."),),
        command=servicewords.UnserveCommand,
    ),
    Route(
        "connect",
        "POST",
        "/v1/listeners",
        "Take clients of this machine for a service",
        ConnectRequest,
        servicewords.Connected,
        (
            "usage",
            "service-not-found",
            "ambiguous",
            "denied",
            "config-invalid",
            "port-in-use",
            "path-too-long",
        ),
        command=servicewords.ConnectCommand,
    ),
    Route(
        "disconnect",
        "DELETE",
        "/v1/listeners/{target:path}",
        "Close the listeners of a service, or one by where it listens",
        None,
        servicewords.Disconnected,
        ("service-not-found",),
        command=servicewords.DisconnectCommand,
    ),
)
