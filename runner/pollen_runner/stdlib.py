"""The standard library after the snapshot: its files are gone, its code is in memory.

componentize-py takes its snapshot when ``app`` was imported. Modules imported by then exist, the
files of the others do not. So ``collect`` compiles all of them at build time and keeps the code,
compressed; a finder serves it when a seed imports one. The data of tzdata is kept in the same way.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import marshal
import sys
import zlib
from pathlib import Path
from types import ModuleType

from pollen_runner.resources import Folder

# Not in the sandbox: they need processes, threads, a terminal, a screen or C parts that it has not,
# or are tools for installing and testing.
SKIPPED = frozenset(
    {
        "__pycache__",
        "_pyrepl",
        "ctypes",
        "curses",
        "dbm",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "multiprocessing",
        "pydoc_data",
        "site-packages",
        "test",
        "tkinter",
        "turtledemo",
        "venv",
    }
)


class Library(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """A finder and loader over code objects in memory, with the data files beside them."""

    def __init__(self) -> None:
        self._code: dict[str, tuple[bool, bytes]] = {}
        self._data: dict[str, bytes] = {}

    def collect(self, root: Path, package: str = "") -> None:
        """Compile every module below a folder; ``package`` is what the folder is imported as."""
        for path in sorted(root.iterdir()):
            if path.is_dir():
                if path.name not in SKIPPED and (path / "__init__.py").exists():
                    self.collect(path, f"{package}{path.name}.")
            elif path.suffix == ".py":
                self._keep(path, package)
            elif package.startswith("tzdata."):
                key = package.replace(".", "/") + path.name
                self._data[key] = zlib.compress(path.read_bytes(), 9)

    def _keep(self, path: Path, package: str) -> None:
        is_package = path.stem == "__init__"
        module = package.removesuffix(".") if is_package else package + path.stem
        try:
            shown = "<stdlib>/" + module.replace(".", "/") + ".py"
            code = compile(path.read_bytes(), shown, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return  # a file that shows what does not compile
        self._code[module] = is_package, zlib.compress(marshal.dumps(code), 9)

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        held = self._code.get(name)
        if held is None:
            return None
        return importlib.machinery.ModuleSpec(name, self, origin="<stdlib>", is_package=held[0])

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        code = marshal.loads(zlib.decompress(self._code[module.__name__][1]))
        exec(code, module.__dict__)

    def get_source(self, name: str) -> None:
        """There is none: lines of the library are in no traceback of a seed."""
        return

    def get_resource_reader(self, name: str) -> Folder:
        """Data files beside a module; those of tzdata are the only ones."""
        return Folder(name.replace(".", "/"), sorted(self._data), self._read)

    def _read(self, path: str) -> bytes | None:
        held = self._data.get(path)
        return None if held is None else zlib.decompress(held)


def snapshot() -> Library:
    """All of the standard library, and tzdata; call at build time only."""
    library = Library()
    library.collect(Path("/python"))
    for folder in map(Path, sys.path):
        if (folder / "tzdata").is_dir():
            library.collect(folder / "tzdata", "tzdata.")
    return library
