"""The other side of a call without a sandbox: the bundle that would be shipped, in the runner."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import itertools
import linecache
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from pollen.sdk.functions import frames
from pollen.sdk.functions.ship import Shipment, gather
from tests.unit.runner.stage import calls, seeded

# isort: split
from pollen_runner import loop as loops

_numbers = itertools.count()


def unpacked(shipment: Shipment) -> dict[str, str]:
    """The files of a bundle; ours and the packages' too."""
    with zipfile.ZipFile(io.BytesIO(shipment.bundle)) as archive:
        return {
            name: archive.read(name).decode()
            for name in archive.namelist()
            if name != "pollen.json"
        }


@contextmanager
def abroad(shipment: Shipment) -> Iterator[Callable[[bytes, str], bytes]]:
    """Calls with bytes, as a node would hand them in; this process's modules are as before."""
    kept, main = dict(sys.modules), "pollen_functions.glue"
    # What the program has and the other side has not until it is imported from the bundle.
    for name in [*shipment.names._shipped, *(one.name for one in shipment.slices)]:
        sys.modules.pop(name, None)
    shown = dict(linecache.cache)
    try:
        with seeded(unpacked(shipment), main):
            yield lambda data, export: calls.handle(export, data)
    finally:
        while loops._held:
            loops._held.pop().close()
        sys.modules.clear()
        sys.modules.update(kept)
        linecache.cache.clear()
        linecache.cache.update(shown)


def run(function: Any, *args: Any, roots: Sequence[Any] = (), **kwargs: Any) -> Any:
    """A call there and back."""
    shipment = gather([function, *roots])
    data = frames.request(shipment.targets[0], args, kwargs, shipment.names)
    export = "acall" if shipment.is_async else "call"
    with abroad(shipment) as call:
        # asyncio's own loop stands for the runner's, which waits for a node.
        asyncio.events.new_event_loop = asyncio.new_event_loop
        answer = call(data, export)
    return frames.value_of(answer, shipment.names, function.__qualname__)


def module(folder: Path, text: str, name: str = "") -> ModuleType:
    """A module of the program's own, from a file of this text."""
    name = name or f"own_{next(_numbers)}"
    file = folder / f"{name}.py"
    file.write_text(text)
    linecache.checkcache(str(file))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made
