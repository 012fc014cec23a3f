"""Commands that a text proposes, so that they can be pasted: with the place that was given."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pollen.cli.remote import Way
    from pollen.paths import Paths

# A command of ours in a sentence, and what says that it is for another machine: words before it in
# its part of the sentence, or right behind it.
_COMMAND = re.compile(r"\bpln (?=([a-z]+))(?![a-z ]+ --help)")
_ELSEWHERE_BEFORE = re.compile(r"there\b|on an admin|on the node|\bask\b|joins by|\bssh .*$")
_ELSEWHERE_BEHIND = re.compile(r"[^,;]* (?:there|on (?:that|the|an)|where)\b")

# What a command begins with, by its verb; none when nothing was given.
_given: list[Callable[[str], str]] = []


def remember_directory(directory: str) -> None:
    """The folder as ``--dir`` gave it: from now on ``here`` names it."""
    import shlex

    start = f"pln --dir {shlex.quote(directory)} "
    _given[:] = [lambda _: start]


def remember_host(
    flag: str | None, directory: str | None, paths: Paths, way_of: Callable[[str], Way]
) -> None:
    """The machine as ``-H`` gave it, ``local`` too, or None when environment or context did."""
    import shlex

    folder = f"--dir {shlex.quote(directory)} " if flag and directory else ""
    ours = f"pln -H {shlex.quote(flag)} {folder}" if flag else "pln "

    def start(verb: str) -> str:
        way = way_of(verb).value
        if way == "here":
            return "pln "
        return paths.command("") if way == "by hand" and paths.host else ours

    _given[:] = [start]


def here(text: str) -> str:
    """The text with ``-H`` or ``--dir`` in each command that is meant for this node, if given.

    Why: pasted without it, the command would go to another node, or start one.
    """
    if not _given or "pln " not in text:
        return text
    return "\n".join(_with_place(line, _given[0]) for line in text.split("\n"))


def _with_place(line: str, start: Callable[[str], str]) -> str:
    parts = []
    for part in line.split(";"):
        done, at = "", 0
        for found in _COMMAND.finditer(part):
            before, behind = part[: found.start()], part[found.end() :]
            is_ours = not (_ELSEWHERE_BEFORE.search(before) or _ELSEWHERE_BEHIND.match(behind))
            done += part[at : found.start()] + (start(found[1]) if is_ours else found[0])
            at = found.end()
        parts.append(done + part[at:])
    return ";".join(parts)
