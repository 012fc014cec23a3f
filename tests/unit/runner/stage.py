"""A node for the runner's modules: files of a bundle, requests, a log; no sandbox."""

from __future__ import annotations

import asyncio
import json
import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.style.tree import ROOT

if str(ROOT / "runner") not in sys.path:
    sys.path.append(str(ROOT / "runner"))

from pollen_runner import bundle as bundles
from pollen_runner import calls, guest, warm
from pollen_runner.port import Refused, port

__all__ = ["Node", "bundles", "calls", "guest", "port", "seeded", "warm"]


class Node:
    """Stands where the component's imports are."""

    def __init__(self, files: dict[str, str], main: str) -> None:
        self.files = {name: text.encode() for name, text in files.items()}
        self.main = main
        self.lines: list[tuple[int, str]] = []
        self.pieces: list[bytes] = []
        self.reads_until = 1_000_000
        self.seeds: dict[str, Callable[[bytes], bytes]] = {}
        self.begun: list[tuple[int, str, bytes]] = []

    def bundle(self) -> bytes:
        return json.dumps({"main": self.main, "files": sorted(self.files)}).encode()

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def log(self, level: int, message: str) -> None:
        self.lines.append((level, message))

    def request(self, uri: str, input: bytes) -> bytes:
        seed = self.seeds.get(uri)
        if seed is None:
            raise Refused(f"[seed-not-found] {uri}: no such seed")
        return seed(input)

    def start(self, uri: str, input: bytes) -> int:
        self.begun.append((len(self.begun), uri, input))
        return len(self.begun) - 1

    def wait(self, timeout_ms: int | None) -> list[tuple[int, Any]]:
        answers: list[tuple[int, Any]] = []
        for number, uri, data in self.begun:
            try:
                answers.append((number, self.request(uri, data)))
            except Refused as error:
                answers.append((number, str(error)))
        self.begun = []
        return answers

    def write(self, bytes: bytes) -> bool:
        self.pieces.append(bytes)
        return len(self.pieces) < self.reads_until

    def caller_info(self) -> str:
        return '{"peerKey": "ab12", "deadlineUnixMs": 1500}'

    def config(self, key: str) -> str | None:
        return {"units": "metric"}.get(key)

    def tail_call(self, uri: str, input: bytes) -> bool:
        return True


@contextmanager
def seeded(source: str | dict[str, str], main: str = "hello") -> Iterator[Node]:
    """An instance that runs these files, as if it were fresh."""
    files = source if isinstance(source, dict) else {"hello.py": source}
    node = Node(files, main)
    kept = dict(sys.modules), list(sys.meta_path), sys.stdout, sys.stderr
    new_loop = asyncio.events.new_event_loop
    port.host = node
    bundles.bundle.__init__()  # type: ignore[misc]
    calls.forget()
    linecache.clearcache()
    sys.meta_path.insert(0, bundles.bundle)
    sys.modules.pop("pollen", None)
    guest.install(is_logging=False)
    try:
        yield node
    finally:
        asyncio.events.new_event_loop = asyncio.new_event_loop = new_loop
        sys.meta_path[:], sys.stdout, sys.stderr = kept[1:]
        for name in set(sys.modules) - set(kept[0]):
            if (
                getattr(getattr(sys.modules[name], "__spec__", None), "loader", None)
                is bundles.bundle
            ):
                del sys.modules[name]
        sys.modules.update({name: held for name, held in kept[0].items() if name == "pollen"})
        calls.forget()
