"""A sealed blob is sealed anew, for the nodes that may read it now.

Decides: that nothing is done when those are the same as before.
Does not know: who may read it (the node's brain), how it is sealed (its muscles).
Invariants: the options stay as they were. The bytes stay on the node and never come here.
Source: docs/internals/content.md#sealed-blobs.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from pollen.errors import error_from
from pollen.sdk.control import Control


def reseal(control: Control, name: str) -> dict[str, Any] | None:
    """Publish what the node sealed under a name again, sealed for those who may read it now; the
    answer is a ``Seeded``. None when it was sealed for the same nodes.

    Raises ``seed-not-found``, ``denied`` where another node published it, ``bad-request`` for what
    is not sealed, ``storage-full``, ``unreachable`` when its content is nowhere.
    """
    view = control.get(f"/v1/seeds/{quote(name, safe='')}")["seed"]
    if view is None:
        raise error_from("seed-not-found", f'no seed "{name}"', "pln status seeds")
    if not view["options"].get("sealed"):
        remedy = "pln seed FILE NAME --sealed publishes a file sealed"
        raise error_from("bad-request", f'"{name}" is not sealed', remedy)
    if view["publisher"] != control.get("/v1/health")["node"]:
        reason = f'{view["publisher_name"]} published "{name}", and opens it to seal it anew'
        raise error_from("denied", reason, f"there: pln reseal {name}")
    options = {key: value for key, value in view["options"].items() if value is not None}
    wish = control.check(name, options)
    held = wish["recipients"]
    if {node[:8] for node in held} == set(view["recipients"]):
        return None
    content = control.reseal(name, held, view["size_bytes"])
    body = {**wish, "content": content, "kind": view["kind"]}
    return control.request("POST", "/v1/seeds", body)
