"""What a module or a file is in a simulated world: bytes that name their behaviour.

Decides: how long a module takes to compile and to run, and which seed it calls.
Does not know: who runs it, or where.
Invariants: the same bytes are the same module; a content id is made of the bytes alone.
Source: docs/design/sandbox.md#compiling (times), docs/design/protocol.md#content; examples/c.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from pollen.core.ids import MILLISECOND, Hash


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """One module. ``child`` is the name of the seed that each of its calls calls, or empty.

    ``is_file``: it is the content of a blob, and its size is on the disk of who holds it.
    """

    size: int = 100
    functions: tuple[str, ...] = ("run",)
    compile_ns: int = 4 * MILLISECOND
    run_ns: int = 2 * MILLISECOND
    child: str = ""
    is_file: bool = False


_PLAIN = Module()
_modules: dict[bytes, Module] = {}


def content_id(data: bytes) -> Hash:
    """The id of content; it stands for BLAKE3."""
    return Hash(hashlib.blake2b(b"content" + data, digest_size=32).digest())


def make(data: bytes, module: Module = _PLAIN) -> Hash:
    """Bytes that behave like ``module`` wherever they are loaded. Returns their content id."""
    content = content_id(data)
    _modules[content] = module
    return content


def size_on_disk(contents: Iterable[bytes]) -> int:
    """The bytes of the files among these contents; modules are small and not counted."""
    return sum(find(content).size for content in contents if find(content).is_file)


def find(content: bytes) -> Module:
    """What these bytes do; unknown ones are a plain quick module."""
    return _modules.get(content, _PLAIN)
