"""A module that a Python seed imports and does not have: where it may come from.

Decides: the remedy, by where the module lies.
Does not know: what pip finds; whether a package runs in the sandbox.
Invariants: pure, but for a look beside the source.
Source: docs/design/python.md#kinds.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

_MISSING: Final = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")


def cure(text: str, source: str = "") -> str:
    """What to do about a module that is named missing in this text; empty where none is.

    ``source``: what was published, where that is known.
    """
    found = _MISSING.search(text)
    if found is None:
        return ""
    module = found[1].partition(".")[0]
    path = Path(source) if source else None
    if path is not None and path.is_file():
        beside = path.parent / module
        if beside.with_suffix(".py").is_file() or beside.is_dir():
            folder = shlex.quote(str(path.parent))
            return f"{module} lies beside the file, which goes alone: pln seed {folder}"
    line = f"pln seed {shlex.quote(source) if source else 'FILE'} --requirements FILE"
    header = f'# dependencies = ["{module}"]'
    return f"name the package of {module}: {line}\nor in a header of the file: {header}"
