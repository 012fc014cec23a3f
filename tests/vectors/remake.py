"""Work out ``signed.json`` again from its fields: ``python tests/vectors/remake.py``.

Reads the fields that a person wrote, and writes bytes, signatures and tokens. Knows nothing of
``pollen``: arrays by position, ed25519 as written down in RFC 8032, section 6. A field
``{"signed": name}`` stands for the bytes and the signature of an earlier row, ``{"bytes": name}``
for its bytes, ``{"hash": [use, name]}`` for the personalised hash of its bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec

VECTORS = Path(__file__).parent / "signed.json"

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
# RFC 8032, 7.1: the secret keys of tests 1 (node) and 2 (root).
SECRETS = [
    bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"),
    bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"),
]

Point = tuple[int, int, int, int]


def add(one: Point, other: Point) -> Point:
    a = (one[1] - one[0]) * (other[1] - other[0]) % P
    b = (one[1] + one[0]) * (other[1] + other[0]) % P
    c = 2 * one[3] * other[3] * D % P
    d = 2 * one[2] * other[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def times(factor: int, point: Point) -> Point:
    result: Point = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            result = add(result, point)
        point, factor = add(point, point), factor >> 1
    return result


def base_point() -> Point:
    y = 4 * pow(5, P - 2, P) % P
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P)
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    x = P - x if x & 1 else x
    return (x, y, 1, x * y % P)


BASE = base_point()


def compress(point: Point) -> bytes:
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | ((x & 1) << 255)).to_bytes(32, "little")


def expand(secret: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(secret).digest()
    scalar = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | (1 << 254)
    return scalar, digest[32:]


def public_of(secret: bytes) -> bytes:
    return compress(times(expand(secret)[0], BASE))


def sign(secret: bytes, message: bytes) -> bytes:
    scalar, prefix = expand(secret)
    nonce = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % ORDER
    point = compress(times(nonce, BASE))
    digest = hashlib.sha512(point + public_of(secret) + message).digest()
    challenge = int.from_bytes(digest, "little") % ORDER
    return point + ((nonce + challenge * scalar) % ORDER).to_bytes(32, "little")


def hash_of(use: str, part: bytes) -> bytes:
    sized = len(part).to_bytes(8, "big") + part
    return hashlib.blake2b(sized, digest_size=32, person=b"pln/" + use.encode()).digest()


def value_of(field: Any, rows: dict[str, Any]) -> Any:
    """A field as the plain value that is encoded."""
    if isinstance(field, list):
        return [value_of(item, rows) for item in field]
    if not isinstance(field, dict):
        return field
    if field.keys().isdisjoint({"hex", "signed", "bytes", "hash"}):
        return {key: value_of(item, rows) for key, item in field.items()}
    ((kind, what),) = field.items()
    if kind == "hex":
        return bytes.fromhex(what)
    if kind == "signed":
        return [bytes.fromhex(rows[what]["bytes"]), bytes.fromhex(rows[what]["signature"])]
    if kind == "bytes":
        return bytes.fromhex(rows[what]["bytes"])
    return hash_of(what[0], bytes.fromhex(rows[what[1]]["bytes"]))


def remake(rows: list[Any]) -> list[Any]:
    """The rows with everything that follows from their fields, signers and domains."""
    secrets = {public_of(secret).hex(): secret for secret in SECRETS}
    made: dict[str, Any] = {}
    for row in rows:
        body = msgspec.msgpack.encode(value_of(row["fields"], made))
        row["bytes"] = body.hex()
        if "signer" in row:
            message = row["domain"].encode() + b"\0" + body
            row["signature"] = sign(secrets[row["signer"]], message).hex()
        if "token" in row:
            raw = msgspec.msgpack.encode([body, bytes.fromhex(row["signature"])])
            row["token"] = "pln1" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        made[row["name"]] = row
    return list(made.values())


def text_of(rows: list[Any]) -> str:
    """One row a line."""
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]\n"


if __name__ == "__main__":
    VECTORS.write_text(text_of(remake(json.loads(VECTORS.read_text()))))
