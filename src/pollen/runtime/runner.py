"""The Python runner of this node: found in the package, and handed to the content store.

Decides: where the runner is, and when it is handed over.
Does not know: what is in it (runner/), who asks for which seed.
Invariants: it is handed over once a process, and again when the store let it go meanwhile. Seeds of
    other nodes name runners of their own; those come from peers, by hash, as any module does,
    unless this node handed over the same one: that is for the specs of all.
Source: docs/design/python.md#the-runner.
"""

from __future__ import annotations

import asyncio
import lzma
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from pollen.core.commands import SeedCommand
from pollen.errors import NotFound, PollenError, error_from
from pollen.paths import Paths
from pollen.sdk.control import Control

ASSET = Path(__file__).with_name("runner.wasm.xz")

# How long the first Python seed may take, seconds: the node compiles the runner, which takes 5 to
# 10 seconds on two cores of 2024. Guess: a small board takes ten times as long.
PUBLISH_SECONDS = 150.0

Ask = Callable[[SeedCommand, float], Awaitable[msgspec.Struct]]


class Runner:
    """The content id of the runner, once it is in the store of the node in this folder."""

    def __init__(self, paths: Paths, asset: Path = ASSET) -> None:
        self._paths, self._asset = paths, asset
        self._content = ""
        self._handing = asyncio.Lock()

    async def publish(self, command: SeedCommand, ask: Ask) -> msgspec.Struct:
        """Publish, with this node's runner for a bundle that names none."""
        if not command.bundle or command.content:
            return await ask(command, PUBLISH_SECONDS)
        held = await self._held()
        try:
            return await ask(msgspec.structs.replace(command, content=held), PUBLISH_SECONDS)
        except NotFound as error:
            if error.slug != "blob-not-found":
                raise
        # The store let it go: nothing had named it for long.
        self._content = ""
        again = msgspec.structs.replace(command, content=await self._held())
        return await ask(again, PUBLISH_SECONDS)

    async def _held(self) -> str:
        async with self._handing:
            if not self._content:
                self._content = await asyncio.to_thread(self._hand_over)
        return self._content

    def _hand_over(self) -> str:
        # It is in every wheel: a node that hosts the Python of others has it for them as well.
        return Control(self._paths).upload(read_runner(self._asset), for_anybody=True)


def read_runner(asset: Path = ASSET) -> bytes:
    """The component. Raises ``usage`` when this pollen was installed without it."""
    try:
        return lzma.decompress(asset.read_bytes())
    except FileNotFoundError:
        remedy = "install the wheel: pip install pollen-mesh; in a checkout: make native"
        raise error_from("usage", "this pollen has no Python runner", remedy) from None
    except (OSError, lzma.LZMAError) as error:
        reason = f"the Python runner in {asset} cannot be read: {error}"
        raise PollenError("internal", reason, "install pollen again") from None
