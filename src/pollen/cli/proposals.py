"""Commands that a text proposes, so that they can be pasted: with the folder that was given."""

from __future__ import annotations

import re

# A command of ours in a sentence, and what says that it is for another machine: words before it in
# its part of the sentence, or right behind it.
_COMMAND = re.compile(r"\bpln (?=[a-z])(?![a-z ]+ --help)")
_ELSEWHERE_BEFORE = re.compile(r"there\b|on an admin|on the node|\bask\b|joins by")
_ELSEWHERE_BEHIND = re.compile(r"[^,;]* (?:there|on (?:that|the|an)|where)\b")

_given: list[str] = []


def remember_directory(directory: str) -> None:
    """The folder as ``--dir`` gave it: from now on ``here`` names it."""
    _given[:] = [directory]


def here(text: str) -> str:
    """The text with ``--dir`` in each command that is meant for this machine, if it was given.

    Why: pasted without it, the command would go to another node, or start one.
    """
    if not _given or "pln " not in text:
        return text
    import shlex

    ours = f"pln --dir {shlex.quote(_given[0])} "
    lines = [_with_directory(line, ours) for line in text.split("\n")]
    return "\n".join(lines)


def _with_directory(line: str, ours: str) -> str:
    parts = []
    for part in line.split(";"):
        done, at = "", 0
        for found in _COMMAND.finditer(part):
            before, behind = part[: found.start()], part[found.end() :]
            is_ours = not (_ELSEWHERE_BEFORE.search(before) or _ELSEWHERE_BEHIND.match(behind))
            done += part[at : found.start()] + (ours if is_ours else found[0])
            at = found.end()
        parts.append(done + part[at:])
    return ";".join(parts)
