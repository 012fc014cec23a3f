"""A verb that runs on another machine goes one step; what it proposes comes back to the desk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pollen.testing import Cluster
from tests.e2e.conftest import running
from tests.e2e.desks import Desk, astray, desk_of

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    """One node, and a desk that reaches it."""
    with (
        running(Cluster(1)) as cluster,
        tempfile.TemporaryDirectory(prefix="pln-") as folder,
        desk_of(Path(folder), cluster[0]) as made,
    ):
        yield made


def test_a_context_in_use_over_there_moves_no_verb_on(desk: Desk, tmp_path: Path) -> None:
    """A desk goes one step, whatever the user of that machine chose for their own commands."""
    with astray(tmp_path, desk) as other:
        assert other.ok("id") == desk.ok("id")
        assert "log_level = debug" in other.ok("set", "log_level", "debug")
        assert 'log_level = "debug"' in (desk.node.home / "config.toml").read_text()
        other.ok("unset", "log_level")
        assert b"context in use" not in other("doctor").stderr


def test_a_command_that_the_far_pln_proposes_is_for_that_machine(desk: Desk) -> None:
    """Pasted at the desk, it would start or stop a node here."""
    empty = desk.folder / "nobody there"
    empty.mkdir()
    where = f"ssh -p {desk.server.port} {desk.server.user}@127.0.0.1 pln"
    done = desk("--dir", str(empty), "down")
    said = done.stderr.decode()
    assert done.returncode != 0 and f"{where} --dir \"'{empty}'\" up" in said, said
    said = desk.ok("set", "log_level", "debug")
    desk.ok("unset", "log_level")
    assert f"pln -H {desk.server.url} restart" in said, said
    done = desk("id", "--json", "--dir", str(empty))
    assert desk.server.url.encode() not in done.stdout + done.stderr
