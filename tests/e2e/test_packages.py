"""Well-known packages of pure Python run in a Python seed, and give what they give anywhere."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import textwrap
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen.sdk.control import Control
from pollen.sdk.python.publish import Wish, prepare, publish
from pollen.testing import Cluster, Node
from tests.e2e.conftest import running

# The index is asked for each of them, and a node compiles the runner once.
pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]

HERE = Path(__file__).parent
PACKAGES: dict[str, dict[str, Any]] = tomllib.loads((HERE / "packages.toml").read_text())
LOCKED = {
    name: (version, sha256)
    for name, version, sha256 in re.findall(
        r"^(\S+)==(\S+) --hash=sha256:(\w+)$", (HERE / "packages.lock").read_text(), re.MULTILINE
    )
}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running(Cluster(1)) as cluster:
        yield cluster[0]


@pytest.fixture(scope="module", autouse=True)
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """pip takes the versions of the list, also of what they depend on."""
    file = tmp_path_factory.mktemp("pip") / "constraints.txt"
    file.write_text("".join(f"{name}=={version}\n" for name, (version, _) in LOCKED.items()))
    before = os.environ.get("PIP_CONSTRAINT")
    os.environ["PIP_CONSTRAINT"] = str(file)
    yield
    del os.environ["PIP_CONSTRAINT"]
    if before is not None:
        os.environ["PIP_CONSTRAINT"] = before


def test_there_are_thirty_of_them_with_three_results_each() -> None:
    """And each has a version and a hash."""
    assert len(PACKAGES) >= 30
    assert [name for name, one in PACKAGES.items() if len(one["gives"]) != 3] == []
    assert PACKAGES.keys() <= LOCKED.keys()
    assert {"jinja2", "markupsafe"} <= LOCKED.keys()


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_gives_what_it_gives_anywhere(node: Node, name: str, tmp_path: Path) -> None:
    one = PACKAGES[name]
    file = tmp_path / "tried.py"
    body = textwrap.indent(one["text"].strip(), "    ")
    header = f'# /// script\n# dependencies = ["{name}"]\n# ///\n'
    file.write_text(f"{header}def results() -> list:\n{body}\n")
    made = prepare(Wish(str(file)))
    for held in manifest_of(made.bundle)["requirements"]:
        assert (held["version"], held["sha256"]) == LOCKED[held["name"]], held["name"]
    seed = f"tried-{name}"
    publish(Control(node.paths), made, seed, {"memory_bytes": 256 << 20})
    given = asyncio.run(_called(node, seed))
    Control(node.paths).withdraw(seed)
    assert json.loads(json.dumps(given).replace("null", '"None"')) == one["gives"]


async def _called(node: Node, seed: str) -> Any:
    async with node.connect() as mesh:
        return await mesh.use(seed, timeout=120).results()


def manifest_of(bundle: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        held: dict[str, Any] = json.loads(archive.read("pollen.json"))
        return held
