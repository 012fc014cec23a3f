"""Pollen: a mesh of unequal machines that runs WASM modules as one.

``connect()`` and ``connect_sync()`` reach the node on this machine; everything else follows from
what they return. Names are loaded when first used, so that ``import pollen`` costs next to nothing
and needs no native module.
"""

from __future__ import annotations

from importlib import import_module

# Checkers of types take this name for true. `typing` itself would cost each command 10 ms.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pollen.errors import (
        Ambiguous,
        BadRequest,
        CallError,
        Conflict,
        DeadlineExceeded,
        Denied,
        GuestError,
        LimitExceeded,
        NotFound,
        Overloaded,
        PollenError,
        TooLarge,
        Unreachable,
    )
    from pollen.sdk.blocking import SyncFunction, SyncMesh, connect_sync
    from pollen.sdk.client import Function, Mesh, connect
    from pollen.sdk.control import Control
    from pollen.sdk.functions.executor import Executor
    from pollen.sdk.functions.remote import remote
    from pollen.sdk.replies import Reply
    from pollen.sdk.streams import Stream, SyncStream

__version__ = "0.1.0"

_HOME = {
    "pollen.sdk.blocking": ("SyncFunction", "SyncMesh", "connect_sync"),
    "pollen.sdk.client": ("Function", "Mesh", "connect"),
    "pollen.sdk.control": ("Control",),
    "pollen.sdk.functions.executor": ("Executor",),
    "pollen.sdk.functions.remote": ("remote",),
    "pollen.errors": (
        "Ambiguous",
        "BadRequest",
        "CallError",
        "Conflict",
        "DeadlineExceeded",
        "Denied",
        "GuestError",
        "LimitExceeded",
        "NotFound",
        "Overloaded",
        "PollenError",
        "TooLarge",
        "Unreachable",
    ),
    "pollen.sdk.replies": ("Reply",),
    "pollen.sdk.streams": ("Stream", "SyncStream"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Ambiguous",
    "BadRequest",
    "CallError",
    "Conflict",
    "Control",
    "DeadlineExceeded",
    "Denied",
    "Executor",
    "Function",
    "GuestError",
    "LimitExceeded",
    "Mesh",
    "NotFound",
    "Overloaded",
    "PollenError",
    "Reply",
    "Stream",
    "SyncFunction",
    "SyncMesh",
    "SyncStream",
    "TooLarge",
    "Unreachable",
    "__version__",
    "connect",
    "connect_sync",
    "remote",
]


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'pollen' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
