"""What the SDK says of an input, an output and a mesh that will not do."""

from __future__ import annotations

import asyncio
import math
import traceback
from pathlib import Path

import pytest

from pollen import connect, connect_sync
from pollen.errors import BadRequest, NotFound
from pollen.sdk.replies import Reply


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [1, -math.inf]}, (None, math.nan)])
def test_a_number_that_json_cannot_carry_is_refused(tmp_path: Path, value: object) -> None:
    """It became null, and nobody was told."""
    handle = connect_sync(tmp_path).function("s")
    with pytest.raises(BadRequest, match="NaN or an infinity"):
        handle(json=value)
    assert handle._asks(b"", [None, 1.5]).data == b"[null,1.5]"


def test_an_output_that_is_no_json_is_shown() -> None:
    """A plain ``ValueError``, which json's own error is, too."""
    reply = Reply(data=b"<html>", node="", attempts=1, elapsed=0, queue=0, run=0, rtt=0)
    with pytest.raises(ValueError, match=r"the output is not JSON .*b'<html>'"):
        reply.json()


def test_a_closed_mesh_says_so(tmp_path: Path) -> None:
    """In place of a new connection; ``with`` opens it again."""
    mesh = connect_sync(tmp_path)
    assert repr(mesh) == f"<SyncMesh of {tmp_path}, open>"
    mesh.close()
    assert repr(mesh) == f"<SyncMesh of {tmp_path}, closed>"
    with pytest.raises(BadRequest, match="is closed"):
        mesh.call("s")

    async def later() -> None:
        mesh = connect(tmp_path)
        await mesh.close()
        assert repr(mesh) == f"<Mesh of {tmp_path}, closed>"
        await mesh.call("s")

    with pytest.raises(BadRequest, match="is closed"):
        asyncio.run(later())


def test_a_traceback_proposes_a_bare_command() -> None:
    error = NotFound("seed-not-found", "none", "pln status seeds")
    assert "try: pln status seeds\n" in "".join(traceback.format_exception(error))
