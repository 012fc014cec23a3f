"""From a function to the bundle that a node runs: its slices, modules, packages and our glue.

Decides: what a bundle holds, how it is listed, and the name that its seed has.
Does not know: nodes; which statements a function needs (``slices``).
Invariants: source and values, never a pickle. The same program gives the same bytes and so the same
    name. Text that looks like a key is refused unless the user says that it may go.
Source: docs/design/functions.md#what-is-shipped.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pollen.errors import error_from
from pollen.sdk.functions import keys, tagged
from pollen.sdk.functions.modules import Whole, find
from pollen.sdk.functions.slices import CONSTANTS_MAX, Slice, unwrapped
from pollen.sdk.python import archive, requirements
from pollen.units import human_bytes

_HERE: Final = Path(__file__).parent
_PACKAGE: Final = "pollen_functions"
_FOLDER: Final = f"{requirements.FOLDER}{_PACKAGE}/"


@dataclass(frozen=True)
class Shipment:
    """What makes functions run elsewhere. ``targets``: the name of each root over there."""

    name: str
    targets: list[str]
    is_async: bool
    names: tagged.Names
    bundle: bytes
    files: list[str]
    slices: list[Slice] = field(default_factory=list)

    def is_current(self) -> bool:
        """Whether the program still has what was shipped."""
        return all(one.is_current() for one in self.slices)


class _Gathering:
    """What the roots need, module by module."""

    def __init__(self) -> None:
        self.whole = Whole()
        self.slices: dict[str, Slice] = {}

    def root(self, held: Any) -> str:
        """A function or class that must be there; ``module:qualname`` of it."""
        owner = getattr(held, "__self__", None)
        owner = None if isinstance(owner, types.ModuleType) else owner
        if owner is not None and not isinstance(owner, type):
            raise TypeError(f"{held.__qualname__} is bound to an object, which cannot be shipped")
        inner = unwrapped(owner or held)
        name = getattr(inner, "__qualname__", None)
        if name is None:
            kind = type(held).__qualname__
            raise TypeError(f"{held!r:.80} is a {kind}: only functions are shipped")
        module = getattr(inner, "__module__", None) or "builtins"
        kind = find(module).kind if module != "__main__" else "own"
        if kind == "own":
            name = self._own(inner, owner or held, module)
        if kind == "package":
            self.whole.packages.setdefault(module.partition(".")[0], name)
        if kind == "guest":
            raise TypeError(f"{module}.{name} is a function of Pollen, which needs this machine")
        return f"{module}:{name}.{held.__name__}" if owner is not None else f"{module}:{name}"

    def _own(self, inner: Any, held: Any, module: str) -> str:
        namespace = getattr(inner, "__globals__", None)
        if namespace is None:
            namespace = vars(sys.modules[module]) if module in sys.modules else {}
        slice_ = self.slices.get(module)
        if slice_ is None:
            slice_ = self.slices[module] = Slice(module, namespace, self.whole)
        return slice_.need_root(held, f"{inner.__qualname__}()")


def gather(
    roots: Sequence[Any],
    wants: Sequence[str] = (),
    *,
    with_keys: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Shipment:
    """All that these functions and classes need; the first is the one that is called.

    ``wants`` are requirements as pip takes them. Raises ``TypeError`` for what cannot be shipped,
    ``usage`` for a package that ``wants`` does not bring, and for what looks like a key.
    """
    held = _Gathering()
    targets = [held.root(root) for root in roots]
    whole = held.whole
    slices = [one for name, one in held.slices.items() if name not in whole.modules]
    files: dict[str, bytes] = dict(whole.files)
    parts: dict[str, list[str]] = {}
    for one in slices:
        made = one.parts(files)
        parts[one.name] = [path.removesuffix(".py").replace("/", ".") for path in made]
        files |= {path: text.encode() for path, text in made.items()}
    constants = {one.name: _constants(one) for one in slices}
    if not with_keys:
        _check_keys(files, constants)
    packages, locked = requirements.resolve(list(wants), None, say)
    _check_packages(whole.packages, packages)
    shipped: dict[str, list[str] | None] = {one.name: one.names for one in slices}
    shipped |= dict.fromkeys(whole.modules, None)
    shipped |= dict.fromkeys((f"{top}.*" for top in whole.packages), None)
    order = [(one.name, one.package, parts[one.name], constants[one.name]) for one in slices]
    packed = {**files, **packages, **_glue(shipped, order, list(whole.modules))}
    bundle = archive.pack(f"{_PACKAGE}.glue", dict(packed), [one.told() for one in locked])
    inner = unwrapped(roots[0])
    return Shipment(
        name=_name_of(inner),
        targets=targets,
        is_async=inspect.iscoroutinefunction(inner),
        names=tagged.Names(shipped, may_import=False),
        bundle=bundle,
        files=sorted(files),
        slices=slices,
    )


def _glue(shipped: dict[str, Any], order: list[Any], modules: list[str]) -> dict[str, bytes]:
    """Our own files of the bundle, and the list of what is in it."""
    text = (
        f'"""What was shipped."""\nSHIPPED = {shipped!r}\nSLICES = {order!r}\n'
        f"MODULES = {modules!r}\n"
    )
    return {
        f"{_FOLDER}__init__.py": b'"""Functions of a program: how they are called here."""\n',
        f"{_FOLDER}tagged.py": (_HERE / "tagged.py").read_bytes(),
        f"{_FOLDER}glue.py": (_HERE / "glue.py").read_bytes(),
        f"{_FOLDER}shipped.py": text.encode(),
    }


def _constants(one: Slice) -> str:
    text = tagged.encode(dict(sorted(one.constants.items())), tagged.Names({}, may_import=False))
    if len(text) > CONSTANTS_MAX:
        largest = max(one.constants, key=lambda name: len(repr(one.constants[name])))
        most = human_bytes(CONSTANTS_MAX)
        told = f"its constants take {human_bytes(len(text))}, the most of them {largest!r}"
        raise TypeError(f"{told}; {most} are the most: make it an argument")
    return text.decode()


def _check_keys(files: dict[str, bytes], constants: dict[str, str]) -> None:
    texts = {path: data.decode(errors="replace") for path, data in files.items()}
    texts |= {f"the constants of {name}": text for name, text in constants.items()}
    for where, text in texts.items():
        found = keys.find_key(text)
        if found is not None:
            reason = f"{where}, line {found[1]}, has what looks like {found[0]}"
            remedy = (
                "take it out of what is shipped, or hand it over as an argument;\n"
                "if it is none, or may go to the nodes that host this: with_keys=True"
            )
            raise error_from("usage", reason, remedy)


def _check_packages(needed: dict[str, str], files: dict[str, bytes]) -> None:
    folder = requirements.FOLDER
    for top, who in needed.items():
        if not any(path.startswith((f"{folder}{top}/", f"{folder}{top}.py")) for path in files):
            name = _distribution_of(top)
            reason = f"{who} imports {top}, a package that is not shipped"
            raise error_from("usage", reason, f'name it: requirements=["{name}"]')


def _distribution_of(top: str) -> str:
    from importlib.metadata import packages_distributions

    found = packages_distributions().get(top)
    return found[0] if found else top


def _name_of(inner: Any) -> str:
    """A word for people in the seed's name."""
    name = getattr(inner, "__name__", "function").lower()
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")[:30] or "function"


def seed_name(shipment: Shipment, node: str, options: dict[str, Any]) -> str:
    """The name of a shipment's seed: by its content, its options and who publishes it."""
    seen = hashlib.sha256(shipment.bundle)
    seen.update(json.dumps([node, options], sort_keys=True, default=str).encode())
    return f"fn-{shipment.name}-{seen.hexdigest()[:16]}"
