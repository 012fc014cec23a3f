"""Publishing: whatever a source is, one call makes a seed of it.

Decides: which way a source takes: a module, a bundle, a file, or a folder as a site.
Does not know: how a bundle comes to its runner: the node has that.
Invariants: what would be refused whatever the source is refused before packages are fetched and
    before anything is sent.
Source: docs/design/python.md, docs/design/cli.md#seeding.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pollen.errors import PollenError, error_from
from pollen.sdk import files
from pollen.sdk.control import Control
from pollen.sdk.files import Progress
from pollen.sdk.python import kinds, missing
from pollen.sdk.sites import Manner

# The first Python seed of a node has the runner compiled there, which takes 5 to 10 seconds on two
# cores of 2024 and a minute on a small board. Guess: three of those.
_PATIENCE: Final = 180.0


@dataclass(frozen=True)
class Wish:
    """What to publish. ``kind`` is one of ``kinds.KINDS`` or empty for what the source shows;
    ``is_package``: ``source`` is the dotted name of a package; ``requirements``: a file for pip.
    ``manner`` is of sites."""

    source: str
    kind: str = ""
    is_package: bool = False
    requirements: str = ""
    manner: Manner = field(default_factory=Manner)


@dataclass(frozen=True)
class Made:
    """What is sent: a module's file, a bundle, a file as it is (``blob``), or a folder's files
    (``site``). ``source`` is what a bundle was made of."""

    name: str
    module: Path | None = None
    bundle: bytes = b""
    blob: Path | None = None
    site: Wish | None = None
    source: str = ""

    @property
    def size(self) -> int:
        """Bytes of the bundle; 0 for a module."""
        return len(self.bundle)


def prepare(wish: Wish, say: Callable[[str], None] = lambda text: None) -> Made:
    """Read the source. Raises ``usage``, ``ambiguous``, ``bundle-invalid``."""
    kind = kinds.kind_of(wish.source, wish.kind, is_package=wish.is_package)
    path = Path(wish.source)
    if kind != "site" and (flag := wish.manner.flag):
        raise error_from("usage", f"{flag} is for sites, and this is a {kind}", "leave it out")
    if kind in ("module", "blob", "site"):
        if wish.requirements:
            reason = f"--requirements names packages of a Python seed, and this is a {kind}"
            raise error_from("usage", reason, "leave it out")
        if kind == "site":
            if not path.is_dir():
                remedy = "name the folder that has its index.html"
                raise error_from("usage", f"{path} is not a folder, as a site is", remedy)
            return Made(path.resolve().name, site=wish)
        return Made(path.stem, module=path) if kind == "module" else Made(path.name, blob=path)
    from pollen.sdk.python import archive, requirements

    found = kinds.find_source(wish.source, is_package=wish.is_package)
    file = Path(wish.requirements) if wish.requirements else None
    if file is not None and not file.is_file():
        raise error_from("usage", f"there is no requirements file {file}")
    packages, locked = requirements.resolve(found.requirements, file, say)
    told = [one.told() for one in locked]
    bundle = archive.pack(found.main, {**found.files, **packages}, told)
    return Made(found.name, bundle=bundle, source=wish.source)


def publish(
    control: Control,
    made: Made,
    name: str,
    options: dict[str, Any],
    progress: Progress = lambda done, whole: None,
) -> dict[str, Any]:
    """Send it and publish it under a name; the answer is a ``Seeded``. ``progress`` is told of the
    bytes of a blob or site that were sent."""
    if options.get("sealed") and made.blob is None:
        what = "a module" if made.module else "a site" if made.site else "a Python seed"
        remedy = (
            "leave it out; a file is sealed, and a folder as one: tar c FOLDER | pln seed - NAME"
        )
        raise error_from("usage", f"--sealed is for a file, and this is {what}", remedy)
    if made.module is not None:
        return control.publish(made.module, name, options)
    wish = control.check(name, options)
    if made.blob is not None:
        content = files.upload(control, made.blob, progress, wish.get("recipients", ()))
        return control.request("POST", "/v1/seeds", {**wish, "content": content, "kind": "blob"})
    if (site := made.site) is not None:
        folder = Path(site.source)
        content = files.upload_site(control, folder, progress, site.manner)
        return control.request("POST", "/v1/seeds", {**wish, "content": content, "kind": "site"})
    body = {**wish, "content": "", "bundle": control.upload(made.bundle)}
    try:
        return control.request("POST", "/v1/seeds", body, timeout=_PATIENCE)
    except PollenError as error:
        error.remedy = missing.cure(error.reason, made.source) or error.remedy
        raise


def publish_source(
    control: Control, source: str | os.PathLike[str], name: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Publish a file or folder under a name, as ``pln seed`` does."""
    return publish(control, prepare(Wish(os.fspath(source))), name, options)
