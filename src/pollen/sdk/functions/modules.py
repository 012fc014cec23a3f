"""What a module is to a program: its own, a package that was installed, or the library's.

Decides: which modules are the user's own and go along, and which files those are.
Does not know: functions and values (``slices``).
Invariants: a module is judged by where it lies. No module of the user's own is run to be found, but
    the packages above it may be.
Source: docs/design/functions.md#what-is-shipped.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.util
import site
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pollen.errors import error_from

Kind = Literal["library", "guest", "package", "own", "missing"]
# What the runner has under the name, whatever is installed here.
_GUEST: Final = frozenset({"pollen"})
# An import in one of these may fail, or is never reached.
_OPTIONAL: Final = (ast.Try, ast.FunctionDef, ast.AsyncFunctionDef)
_NATIVE: Final = tuple(importlib.machinery.EXTENSION_SUFFIXES)


@dataclass(frozen=True)
class Module:
    """A module by its name: what it is, and its file when it is the user's own."""

    name: str
    kind: Kind
    file: Path | None = None
    is_package: bool = False

    @property
    def path(self) -> str:
        """Its path in a bundle."""
        base = self.name.replace(".", "/")
        return f"{base}/__init__.py" if self.is_package else f"{base}.py"


@functools.cache
def _installed() -> tuple[Path, ...]:
    """Where packages are installed, of this user and of all."""
    named = sysconfig.get_paths()
    folders = [named["purelib"], named["platlib"], *site.getsitepackages()]
    folders.append(site.getusersitepackages())
    # Debian's own packages lie beside those of pip.
    folders += [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return tuple(dict.fromkeys(Path(folder).resolve() for folder in folders))


def find(name: str) -> Module:
    """A module by its dotted name."""
    top = name.partition(".")[0]
    if top in _GUEST:
        return Module(name, "guest")
    if top in sys.stdlib_module_names and name != "__main__":
        return Module(name, "library")
    try:
        held = sys.modules.get(name)
        spec = getattr(held, "__spec__", None)
        spec = spec or (None if held is not None else importlib.util.find_spec(name))
    except (ImportError, ValueError, AttributeError):
        spec = None
    origin = getattr(spec, "origin", None)
    origin = origin or getattr(sys.modules.get(name), "__file__", None)
    if origin is None:
        is_folder = spec is not None and spec.submodule_search_locations is not None
        return Module(name, "own" if is_folder else "missing", None, is_package=True)
    file = Path(origin).resolve()
    if any(file.is_relative_to(folder) for folder in _installed()):
        return Module(name, "package")
    return Module(name, "own", file, file.name == "__init__.py")


def imported(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """The modules that an import names; of ``from a import b`` also ``a.b``, which may be one.
    ``package`` is what a relative one begins from."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        above = package.split(".")
        above = above[: len(above) - node.level + 1]
        base = ".".join([*above, base] if base else above)
    return [base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")]


class Whole:
    """The user's own modules that go along as they are, with all that they import."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.modules: dict[str, Module] = {}
        # The packages that are imported, by their top name, each with who imports it.
        self.packages: dict[str, str] = {}

    def need(self, name: str, who: str, *, is_guarded: bool) -> None:
        """A module that ``who`` imports. Raises ``usage`` for one of native code."""
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            self._take(find(".".join(parts[:count])), who, is_guarded=is_guarded)

    def _take(self, module: Module, who: str, *, is_guarded: bool) -> None:
        if module.kind == "package" and not is_guarded:
            self.packages.setdefault(module.name.partition(".")[0], who)
        if module.kind != "own" or module.file is None or module.name in self.modules:
            return
        if module.file.name.endswith(_NATIVE):
            reason = f"{who} imports {module.name}, which is native code: {module.file.name}"
            raise error_from("usage", reason, "the sandbox runs Python and WASM; ship a .py file")
        self.modules[module.name] = module
        data = self.files[module.path] = module.file.read_bytes()
        package = module.name if module.is_package else module.name.rpartition(".")[0]
        self.follow(ast.parse(data, str(module.file)), package, module.name)

    def follow(self, tree: ast.AST, package: str, who: str, *, is_guarded: bool = False) -> None:
        """Take what the imports of a tree name."""
        if isinstance(tree, ast.Import | ast.ImportFrom):
            for name in imported(tree, package):
                if find(name).kind != "missing":
                    self.need(name, who, is_guarded=is_guarded)
        for child in ast.iter_child_nodes(tree):
            guarded = is_guarded or isinstance(tree, _OPTIONAL) or _is_for_types(tree)
            self.follow(child, package, who, is_guarded=guarded)


def _is_for_types(tree: ast.AST) -> bool:
    """``if TYPE_CHECKING:``, whose imports are never done."""
    return isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test)
