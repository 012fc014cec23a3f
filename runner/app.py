"""The component: ties the exports of the world to ``pollen_runner``, and fixes the snapshot.

componentize-py imports this module, then keeps the memory: what is imported and warmed here is
there at once in every instance. Source: docs/design/python.md#the-runner.
"""

from __future__ import annotations

import gc
import importlib
import importlib.machinery
import sys

import wit_world
from componentize_py_types import Err
from pollen_runner import calls, guest, loop, stdlib, warm
from pollen_runner.bundle import bundle
from pollen_runner.port import Refused, port
from wit_world.imports import host
from wit_world.imports import types as world_types

# What seeds use most is imported before the snapshot: an import costs each instance its time.
PRELOADED = """
argparse ast asyncio base64 bisect collections contextlib contextvars copy csv dataclasses datetime
decimal difflib email.message enum fractions functools hashlib heapq hmac html http.client
importlib.metadata importlib.resources inspect io ipaddress itertools json linecache logging math
operator pathlib pickle queue random re secrets shlex statistics string string.templatelib struct
tempfile textwrap threading time tokenize tomllib traceback types typing unicodedata urllib.parse
urllib.request uuid warnings weakref xml.etree.ElementTree zoneinfo
"""
for _name in PRELOADED.split():
    importlib.import_module(_name)

port.host = host
port.answer = lambda result: result.value
port.error_of = lambda error: (
    error.value if isinstance(error, Err) else str(error) if isinstance(error, Refused) else None
)

_CASES = {
    "no-function": world_types.Failure_NoFunction,
    "bad-argument": world_types.Failure_BadArgument,
    "failed": world_types.Failure_Failed,
}


class WitWorld(wit_world.WitWorld):
    """The exports."""

    def handle(self, function: str, input: bytes) -> bytes:
        try:
            return calls.handle(function, input)
        except calls.Failure as failure:
            raise Err(_CASES[failure.kind](failure.text)) from None

    def describe(self) -> str:
        try:
            return calls.describe()
        except calls.Failure as failure:
            raise Err(failure.text) from None

    def compile(self, name: str, source: bytes) -> bytes:
        try:
            return calls.compile_source(name, source)
        except calls.Failure as failure:
            raise Err(failure.text) from None


def _settle() -> None:
    """The last thing before the snapshot: nothing is looked for on a disk that will be gone."""
    library = stdlib.snapshot()
    sys.meta_path[:] = [
        importlib.machinery.BuiltinImporter,
        importlib.machinery.FrozenImporter,
        library,
        bundle,
    ]
    sys.path[:] = []
    sys.path_hooks[:] = []
    sys.path_importer_cache.clear()
    loop.install()
    guest.install()
    warm.run()
    gc.collect()
    gc.freeze()
    gc.disable()
    warm.fill_holes()


_settle()
