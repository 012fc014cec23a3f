"""The table of routes as an OpenAPI 3.1 document: what may be asked, and every answer there is.

Errors are told by their HTTP status, since that is what OpenAPI knows; which slugs a status stands
for is in its description. Source: docs/internals/control-api.md, RFC 9457.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from pollen.errors import SLUGS
from pollen.runtime.control.route import Query, Route
from pollen.runtime.control.routes import ROUTES

# What every route may answer: a query or body that does not fit, and a bug.
_ALWAYS = ("bad-request", "internal")


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error (RFC 9457). ``slug`` is stable; ``remedy`` says what to do; ``retry_after``: s."""

    type: str
    title: str
    status: int
    slug: str
    remedy: str
    node: str | None
    attempts: int
    may_have_executed: bool
    retry_after: float | None = None


def openapi_view(version: str) -> dict[str, Any]:
    """The document; ``version`` is that of the package."""
    types = [t for route in ROUTES for t in (route.request, route.response) if t is not None]
    schemas, components = msgspec.json.schema_components(
        [*types, Problem], ref_template="#/components/schemas/{name}"
    )
    reference = dict(zip([*types, Problem], schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in ROUTES:
        path = route.path.replace(":path", "")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, reference)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pollen control API", "version": version},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, reference: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    schema = {} if route.response is None else {"schema": reference[route.response]}
    good = {"description": route.summary, "content": {route.media: schema}}
    responses: dict[str, Any] = {"200": good}
    for status, slugs in sorted(_statuses(route).items()):
        responses[str(status)] = {
            "description": ", ".join(slugs),
            "content": {"application/problem+json": {"schema": reference[Problem]}},
        }
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": responses,
    }
    parameters = [_parameter(query) for query in route.query]
    for name in re.findall(r"{(\w+)", route.path):
        part = {"type": "string", "minLength": 1, "pattern": r"^[^/]+$"}
        parameters.append({"name": name, "in": "path", "required": True, "schema": part})
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = {
            "content": {"application/json": {"schema": reference[route.request]}}
        }
    return operation


def _statuses(route: Route) -> dict[int, list[str]]:
    """The slugs that a route may answer with, by the HTTP status that carries them."""
    found: dict[int, list[str]] = {}
    for slug in dict.fromkeys([*route.errors, *_ALWAYS]):
        found.setdefault(SLUGS[slug].http_status, []).append(slug)
    return found


def _parameter(query: Query) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": query.kind}
    if query.kind == "integer":
        schema |= {"minimum": 0, "maximum": query.most}
    return {"name": query.name, "in": "query", "description": query.summary, "schema": schema}
