"""The golden signatures hold under the muscles' own verifier, which the core is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROWS = json.loads((Path(__file__).parent.parent / "vectors" / "signed.json").read_text())


@pytest.mark.only("real")
@pytest.mark.parametrize(
    "row", [row for row in ROWS if "signature" in row], ids=lambda row: row["name"]
)
def test_golden_signatures_hold(native: Any, row: Any) -> None:
    """Domain, a zero byte, the exact bytes; another domain does not pass. The fake
    knows no ed25519."""
    key, signature = bytes.fromhex(row["signer"]), bytes.fromhex(row["signature"])
    body = bytes.fromhex(row["bytes"])
    message = row["domain"].encode() + b"\0" + body
    other = b"pollen-other/1\0" + body
    assert native.verify([(key, message, signature), (key, other, signature)]) == [True, False]
