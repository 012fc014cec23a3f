"""The seed's own files: imported one by one from the node, which holds the bundle.

There is no file system. A module is its ``.pyc`` (code that ``compile`` of this very runner made at
seed time), else its source. Dependencies lie below ``.deps/``, and the seed's own modules win.
A package that asks ``importlib.metadata`` for its version finds it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.metadata
import json
import marshal
import re
from collections.abc import Iterable, Iterator
from types import CodeType, ModuleType
from typing import Any

from pollen_runner.port import port
from pollen_runner.resources import Folder

# Where files of the bundle seem to be, in tracebacks and in ``__file__``.
ROOT = "/seed/"
DEPENDENCIES = ".deps/"
# The module of a bundle whose beginning is ``__main__``: that name is the runner's own.
MAIN_ALIAS = "__seed__"


class Bundle(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finder and loader. ``open`` reads the list of files; before that it finds nothing."""

    def __init__(self) -> None:
        self.close()

    def close(self) -> None:
        """Find nothing any more."""
        self.main = ""
        self._paths: list[str] = []
        # By module: its path and whether it is a package. A path that ends in a slash has no code.
        self._modules: dict[str, tuple[str, bool]] = {}

    def open(self) -> None:
        """Read pollen.json. Raises ``ValueError`` when it is not one."""
        manifest = json.loads(port.host.bundle())
        self._paths = list(manifest["files"])
        self.main = manifest["main"]
        # Dependencies first, so that what comes later, the seed's own, stands.
        for path in sorted(self._paths, key=lambda p: (not p.startswith(DEPENDENCIES), p)):
            self._note(path)
        if self.main == "__main__" and "__main__" in self._modules:
            self.main = MAIN_ALIAS
            self._modules[MAIN_ALIAS] = self._modules["__main__"]

    def _note(self, path: str) -> None:
        stem, dot, kind = path.rpartition(".")
        if not dot or kind not in ("py", "pyc"):
            return
        shown = stem.removeprefix(DEPENDENCIES)
        is_package = shown.rpartition("/")[2] == "__init__"
        name = (shown.rpartition("/")[0] if is_package else shown).replace("/", ".")
        folder = shown.rpartition("/")[0]
        while folder:
            # A folder without ``__init__`` is a package, too.
            place = path[: len(path) - len(shown) - len(kind) - 1] + folder
            self._modules.setdefault(folder.replace("/", "."), (f"{place}/", True))
            folder = folder.rpartition("/")[0]
        # ``.py`` sorts before its ``.pyc``.
        self._modules[name] = path, is_package

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        held = self._modules.get(name)
        if held is None:
            return None
        file, is_package = held
        if file.endswith("/"):
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [ROOT + file.rstrip("/")]
            return spec
        shown = ROOT + file.removesuffix("c")
        spec = importlib.machinery.ModuleSpec(name, self, origin=shown, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [shown.rpartition("/")[0]]
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> CodeType:
        path = self._path(name)
        data = port.host.read(path)
        if path.endswith(".pyc") and data:
            code: CodeType = marshal.loads(data)
            return code
        return compile(
            self.get_data(path.removesuffix("c")), ROOT + path, "exec", dont_inherit=True
        )

    def get_source(self, name: str) -> str | None:
        """The text, for tracebacks."""
        data = port.host.read(self._path(name).removesuffix("c"))
        return None if data is None else data.decode("utf-8", "replace")

    def is_package(self, name: str) -> bool:
        return self._modules[name][1]

    def get_filename(self, name: str) -> str:
        return ROOT + self._path(name).removesuffix("c")

    def get_data(self, path: str) -> bytes:
        """A file by its path or by what ``__file__`` makes of it; for ``pkgutil.get_data``."""
        data = port.host.read(path.removeprefix(ROOT))
        if data is None:
            raise FileNotFoundError(path)
        return data

    def get_resource_reader(self, name: str) -> Folder:
        return Folder(self._path(name).rpartition("/")[0], self._paths, port.host.read)

    def _path(self, name: str) -> str:
        held = self._modules.get(name)
        if held is None:
            raise ImportError(f"no module named {name!r} in the bundle", name=name)
        return held[0]

    def find_distributions(self, context: Any = None) -> Iterable[Distribution]:
        """The dependencies, for ``importlib.metadata``."""
        wanted = None if context is None or context.name is None else _plain(context.name)
        folders = {p.rpartition("/")[0] for p in self._paths if p.endswith(".dist-info/METADATA")}
        for folder in sorted(folders):
            name = folder.rpartition("/")[2].removesuffix(".dist-info").rpartition("-")[0]
            if wanted is None or _plain(name) == wanted:
                yield Distribution(folder)

    def invalidate_caches(self) -> None:
        """Nothing changes below a running seed."""

    def modules(self) -> Iterator[str]:
        """The names of all modules."""
        return iter(self._modules)


class Distribution(importlib.metadata.Distribution):
    """One dependency, by the folder of its metadata."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def read_text(self, filename: Any) -> str | None:
        data = port.host.read(f"{self._folder}/{filename}")
        return None if data is None else data.decode("utf-8", "replace")

    def locate_file(self, path: Any) -> Any:
        return f"{ROOT}{DEPENDENCIES}{path}"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def compiled(path: str, source: bytes) -> bytes:
    """The code of one file of a bundle. Raises ``SyntaxError`` for one of the seed's own; a file of
    a dependency that does not compile is kept without code, since few seeds import it."""
    try:
        return marshal.dumps(compile(source, ROOT + path, "exec", dont_inherit=True))
    except (SyntaxError, ValueError):
        if path.startswith(DEPENDENCIES):
            return b""
        raise


bundle = Bundle()
