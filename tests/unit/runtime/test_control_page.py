"""docs/internals/control-api.md says what the table of routes says."""

from __future__ import annotations

import re

import msgspec
import pytest

from pollen.core import commands as cmd
from pollen.core import whywords
from pollen.runtime.control.loads import Latency
from pollen.runtime.control.route import Route
from pollen.runtime.control.routes import ROUTES
from tests.style.tree import ROOT

PAGE = (ROOT / "docs" / "internals" / "control-api.md").read_text()
# Structs of one field or two are written in the table itself.
IN_THE_TABLE = {"Seeds", "Stopping", "ShutdownRequest"}


def row_of(route: Route) -> str:
    """The table's row of a route."""
    path = re.sub(r":path\}", "}", route.path)
    begin = f"| `{route.method} {path}"
    rows = [line for line in PAGE.splitlines() if line.startswith(begin)]
    rows = [line for line in rows if line.removeprefix(begin)[0] in "`?"]
    assert len(rows) == 1, f"{begin}: {len(rows)} rows"
    return rows[0]


def shape_of(name: str) -> str:
    """What stands under a struct's name in the shapes, up to the next name."""
    found = re.search(rf"^{name} +\{{(.*?)(?=^\S|^```)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no shape {name}"
    return found[1]


def test_the_page_has_a_row_for_every_route_and_no_other() -> None:
    rows = {row_of(route) for route in ROUTES}
    assert len(rows) == len(ROUTES) == len(re.findall(r"^\| `(?:GET|POST|DELETE) ", PAGE, re.M))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_row_names_the_errors_of_its_route(route: Route) -> None:
    assert [slug for slug in route.errors if slug not in row_of(route)] == []


STRUCTS = {held for route in ROUTES for held in (route.request, route.response) if held} | {
    cmd.SeedOptions,
    cmd.NodeView,
    cmd.SeedView,
    cmd.ReplicaView,
    whywords.RankView,
    whywords.WayView,
    Latency,
}


@pytest.mark.parametrize("struct", sorted(STRUCTS, key=lambda s: s.__name__))
def test_a_shape_names_every_field(struct: type[msgspec.Struct]) -> None:
    holder = {"ReplicaView": "SeedView", "Latency": "LoadReport"}.get(struct.__name__)
    name = holder or struct.__name__
    said = PAGE if name in IN_THE_TABLE else shape_of(name)
    assert [field for field in struct.__struct_fields__ if f'"{field}"' not in said] == []
