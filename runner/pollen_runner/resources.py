"""Data files beside a module, for ``importlib.resources``: a tree over a flat list of paths."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from importlib.resources.abc import Traversable, TraversableResources
from typing import Any

Read = Callable[[str], bytes | None]


class Place(Traversable):
    """A file or folder by its path; ``paths`` are all that there are."""

    def __init__(self, path: str, paths: Sequence[str], read: Read) -> None:
        self._path, self._paths, self._read = path.strip("/"), paths, read

    @property
    def name(self) -> str:
        return self._path.rpartition("/")[2]

    def __str__(self) -> str:
        return self._path

    def iterdir(self) -> Iterator[Place]:
        below = f"{self._path}/" if self._path else ""
        names = {p[len(below) :].partition("/")[0] for p in self._paths if p.startswith(below)}
        return (self._child(name) for name in sorted(names))

    def is_dir(self) -> bool:
        return any(path.startswith(f"{self._path}/") for path in self._paths)

    def is_file(self) -> bool:
        return self._path in self._paths

    def joinpath(self, *descendants: Any) -> Place:
        place = self
        for name in "/".join(str(part) for part in descendants).split("/"):
            if name not in ("", "."):
                place = place._child(name)
        return place

    def __truediv__(self, child: Any) -> Place:
        return self.joinpath(child)

    def _child(self, name: str) -> Place:
        if name == "..":
            raise FileNotFoundError(f"{self._path}/..")
        return Place(f"{self._path}/{name}", self._paths, self._read)

    def read_bytes(self) -> bytes:
        data = self._read(self._path)
        if data is None:
            raise FileNotFoundError(self._path)
        return data

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        data = io.BytesIO(self.read_bytes())
        return data if "b" in mode else io.TextIOWrapper(data, *args, **kwargs)


class Folder(TraversableResources):
    """What a loader answers to ``get_resource_reader``."""

    def __init__(self, path: str, paths: Sequence[str], read: Read) -> None:
        self._place = Place(path, paths, read)

    def files(self) -> Place:
        return self._place
