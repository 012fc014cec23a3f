"""What a source is: a WASM module, Python, a site, or any file; and where the Python of it lies.

Decides: the kind of a file or folder, which files of it belong to a bundle, its main module and the
    requirements that its project states.
Does not know: archives (``archive``), packages of others (``requirements``).
Invariants: what may be two things, or nothing, is ``ambiguous`` and lists ``--kind``. No file above
    the source is read, and no link is followed out of it.
Source: docs/design/python.md#kinds.
"""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pollen.errors import error_from

KINDS: Final = ("module", "python", "site", "blob")
# Those that are held and handed out, and not run.
HELD: Final = ("blob", "site")
_MODULES: Final = (".wasm", ".wat")
_MAGIC: Final = b"\0asm"
# What a folder of Python has, any one of them.
_SIGNS: Final = ("pyproject.toml", "__main__.py", "__init__.py")
_SITE: Final = "index.html"
# Folders that belong to the work on a project and not to the project.
_ASIDE: Final = frozenset({"__pycache__", "build", "dist", "node_modules", "venv", "env"})
_HEADER: Final = re.compile(
    r"^# /// script[ \t]*\r?\n((?:#(?:| [^\r\n]*)\r?\n)*?)# ///[ \t]*$", re.MULTILINE
)


@dataclass(frozen=True)
class Source:
    """The Python of a seed: each file by its path in the bundle, the main module, what it wants."""

    name: str
    main: str
    files: dict[str, Path]
    requirements: list[str] = field(default_factory=list)


def kind_of(source: str, wanted: str = "", *, is_package: bool = False) -> str:
    """A word of ``KINDS``; ``wanted`` is what the user says. A file that is neither a module nor
    Python is a blob, and so is what comes from standard input (``-``). Raises ``ambiguous`` for a
    folder that may be several or shows nothing."""
    path = Path(source)
    if wanted or is_package:
        return wanted or "python"
    if path.is_dir():
        return _kind_of_folder(path)
    if path.suffix in _MODULES:
        return "module"
    if path.suffix == ".py":
        return "python"
    return "module" if _begins_as_module(path) else "blob"


def _begins_as_module(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return path.is_file() and file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def _kind_of_folder(path: Path) -> str:
    is_python = any((path / name).is_file() for name in _SIGNS)
    is_site = (path / _SITE).is_file()
    if is_python != is_site:
        return "python" if is_python else "site"
    remedy = f"say which: pln seed {path} --kind python, or --kind site"
    if is_site:
        raise error_from("ambiguous", f"{path} may be Python or a site: it has {_SITE} too", remedy)
    signs = f"neither {', '.join(_SIGNS)} nor {_SITE}"
    raise error_from("ambiguous", f"{path} does not say what it is: it has {signs}", remedy)


def find_source(source: str, *, is_package: bool = False) -> Source:
    """The Python of a file, of a folder, or of an importable package. Raises ``usage``."""
    if is_package:
        return _package(source)
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    return _file(path)


def _file(path: Path) -> Source:
    stem = path.stem
    if not stem.isidentifier():
        reason = f"{path.name} cannot be imported: {stem!r} is not a Python name"
        better = re.sub(r"\W", "_", stem)
        raise error_from("usage", reason, f"rename it: {better}.py")
    return Source(stem, stem, {path.name: path}, header_of(path))


def header_of(path: Path) -> list[str]:
    """The dependencies of a script's header (PEP 723); none without one. Raises ``usage``."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        remedy = "name a file that ends in .py"
        raise error_from("usage", f"{path} cannot be read: {error.strerror}", remedy) from None
    except UnicodeDecodeError:
        raise error_from("usage", f"{path} is not UTF-8", "save it as UTF-8") from None
    found = _HEADER.findall(text)
    if len(found) > 1:
        reason = f"{path} has {len(found)} headers that begin with # /// script"
        raise error_from("usage", reason, "keep one of them")
    if not found:
        return []
    lines = (line[2:] if line.startswith("# ") else line[1:] for line in found[0].splitlines())
    held = _toml("\n".join(lines), f"the header of {path}")
    return _texts(held.get("dependencies", []), f"dependencies in the header of {path}")


def _folder(path: Path) -> Source:
    path = path.resolve()
    if (path / "pyproject.toml").is_file():
        return _project(path)
    if (path / "__init__.py").is_file():
        return Source(path.name, path.name, _below(path, f"{path.name}/"))
    files = _below(path, "")
    if "__main__.py" in files:
        return Source(path.name, "__main__", files, header_of(path / "__main__.py"))
    modules = [name for name in files if "/" not in name and name.endswith(".py")]
    if len(modules) != 1:
        reason = f"{path} does not say which of its {len(modules)} modules is called"
        raise error_from("usage", reason, "name the file, or call the module __main__.py")
    main = modules[0].removesuffix(".py")
    return Source(path.name, main, files, header_of(path / modules[0]))


def _project(path: Path) -> Source:
    """A package of the project's name, in ``src`` or beside pyproject.toml."""
    file = path / "pyproject.toml"
    project = _toml(file.read_text(encoding="utf-8"), str(file)).get("project")
    name = project.get("name") if isinstance(project, dict) else None
    if not isinstance(project, dict) or not isinstance(name, str):
        raise error_from("usage", f"{file} has no project.name", "write one, or name a .py file")
    main = re.sub(r"[-.]+", "_", name).lower()
    wants = _texts(project.get("dependencies", []), f"project.dependencies in {file}")
    for root in (path / "src", path):
        if (root / main / "__init__.py").is_file():
            files = _below(root, "") if root.name == "src" else _below(root / main, f"{main}/")
            return Source(name, main, files, wants)
        if (root / f"{main}.py").is_file():
            return Source(name, main, {f"{main}.py": root / f"{main}.py"}, wants)
    reason = f"the project {name!r} has no package {main}, in src or beside {file.name}"
    raise error_from("usage", reason, f"name the file or the folder: pln seed {path}/FILE.py")


def _package(dotted: str) -> Source:
    """A package or module as ``python -m`` would find it from here."""
    if not all(part.isidentifier() for part in dotted.split(".")):
        raise error_from("usage", f"{dotted!r} is not the name of a package", "as: -m my_package")
    top, _, _ = dotted.partition(".")
    for root in dict.fromkeys([Path(), Path("src"), *map(Path, filter(None, sys.path))]):
        if (root / top / "__init__.py").is_file():
            files = _below((root / top).resolve(), f"{top}/")
            place = dotted.replace(".", "/")
            if not {f"{place}.py", f"{place}/__init__.py"} & files.keys():
                raise error_from("usage", f"the package {top} has no module {dotted}")
            return Source(dotted.rpartition(".")[2], dotted, files)
        if top == dotted and (root / f"{top}.py").is_file():
            return _file(root / f"{top}.py")
    remedy = "run this in the folder that holds it, or name its own: pln seed ./FOLDER"
    raise error_from("usage", f"there is no package {dotted} here", remedy)


def _below(root: Path, prefix: str) -> dict[str, Path]:
    """The files below a folder, by their path in the bundle; hidden ones and tools' stay out."""
    found: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or path.name in _ASIDE or path.name.endswith(".egg-info"):
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            reason = f"{path} leads out of the folder"
            raise error_from("usage", reason, "put the file itself there")
        if path.is_dir() and not path.is_symlink():
            found |= _below(path, f"{prefix}{path.name}/")
        elif path.is_file() and path.suffix not in (".pyc", ".so", ".pyd"):
            found[f"{prefix}{path.name}"] = path
    return found


def _toml(text: str, where: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise error_from("usage", f"{where} is not TOML: {error}") from None


def _texts(held: object, where: str) -> list[str]:
    if not isinstance(held, list) or not all(isinstance(text, str) for text in held):
        raise error_from("usage", f"{where} is not a list of texts", 'as: ["attrs", "rich>=13"]')
    return held
