"""What a machine said of itself, read from text; no I/O.

Decides: which lines of what came over ssh are the machine's answer, and what they mean.
Does not know: ssh, and what follows from the facts (``steps``).
Invariants: the text is from elsewhere. A value that is missing or misshapen reads as "not there".
Source: docs/internals/bootstrap.md#what-a-machine-says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pollen.errors import PollenError, error_from
from pollen.plain import escaped

# The answer stands between these lines. A login shell may print before, and a sudo behind it.
BEGIN: Final = "@pln-bootstrap/1"
END: Final = "@pln-bootstrap/end"
_ID: Final = re.compile(r"[0-9a-f]{64}")
_VERSION: Final = re.compile(r"(\d{1,3})\.(\d{1,3})")
_SLUG: Final = re.compile(r"^ *\[([a-z-]+)\] *$", re.MULTILINE)


@dataclass(frozen=True)
class Facts:
    """A machine as the last step left it. Texts are empty, and numbers 0, for what is not there.

    ``root`` is ``self``, ``sudo`` or ``none``. ``software`` is the digest of the archive that is
    installed whole. ``is_used``: a process, or the unit of a node that ran, has one of ours.
    ``has_run``: a node wrote a log in ``folder``. ``running`` and ``unit`` are interpreters: of the
    node, and in the unit. ``version`` is the one that runs or would, ``command`` its ``pln``.
    ``home_member`` and ``system_member`` are the clusters of the two folders that a node may have.
    """

    system: str = ""
    machine: str = ""
    libc: str = ""
    python: tuple[int, int] = (0, 0)
    python_path: str = ""
    has_venv: bool = False
    other_python: str = ""
    root: str = "none"
    has_systemd: bool = False
    free_bytes: int = 0
    base: str = ""
    software: str = ""
    folder: str = ""
    home_member: str = ""
    system_member: str = ""
    node: str = ""
    running: str = ""
    unit: str = ""
    name: str = ""
    version: str = ""
    command: str = ""
    has_run: bool = False
    is_used: bool = False

    @property
    def platform(self) -> tuple[str, str, tuple[int, int]]:
        """What wheels have to fit: architecture, C library, version of Python."""
        return self.machine, self.libc, self.python


def answer_in(text: str) -> dict[str, str] | None:
    """The lines ``key TAB value`` of an answer; None when it did not come whole."""
    _, begun, rest = text.partition(f"{BEGIN}\n")
    inner, ended, _ = rest.partition(f"{END}\n")
    if not begun or not ended:
        return None
    pairs = (line.partition("\t") for line in inner.splitlines() if "\t" in line)
    return {key: value.strip() for key, _, value in pairs}


def facts_of(answer: dict[str, str]) -> Facts:
    """The facts of an answer."""
    said = answer.get
    found = _VERSION.fullmatch(said("python", ""))
    free = said("free_kib", "")
    node = said("node", "")
    return Facts(
        system=said("system", ""),
        machine=said("machine", ""),
        libc=said("libc", ""),
        python=(int(found[1]), int(found[2])) if found else (0, 0),
        python_path=said("python_path", ""),
        has_venv=said("has_venv") == "yes",
        other_python=escaped(said("other_python", "")),
        root=said("root", "none"),
        has_systemd=said("systemd") == "yes",
        free_bytes=int(free) << 10 if free.isdecimal() else 0,
        base=said("base", ""),
        software=said("software", ""),
        folder=said("folder", ""),
        home_member=_id(said("home_member", "")),
        system_member=_id(said("system_member", "")),
        node=_id(node),
        running=escaped(said("running", "")),
        unit=escaped(said("unit", "")),
        name=escaped(said("name", "")),
        version=escaped(said("version", "")),
        command=escaped(said("command", "")) or "pln",
        has_run=said("has_run") == "yes",
        is_used=said("used") == "yes",
    )


def _id(text: str) -> str:
    return text if _ID.fullmatch(text) else ""


def failure_in(answer: dict[str, str], host: str) -> PollenError | None:
    """The error of a step that did not succeed over there, in the far pln's own words.

    Its remedies are for a shell of that machine, and say so: typed here they are for another node.
    """
    if "failed" not in answer:
        return None
    said = answer["failed"].replace("\\n", "\n")
    remedy = answer.get("remedy", "").replace("\\n", "\n")
    found = _SLUG.search(said)
    if found is None:
        return error_from(answer.get("slug") or "state-unusable", f"{host}: {said}", remedy)
    lines = [line.strip() for line in said[: found.start()].splitlines() if line.strip()]
    starts = [at for at, line in enumerate(lines) if line.startswith("error: ")]
    lines = lines[starts[-1] if starts else 0 :] or ["it gave no reason"]
    reason = lines[0].removeprefix("error: ")
    there = [f"there: {line}" for line in lines[1:]]
    return error_from(found[1], f"{host}: {reason}", "\n".join([*there, remedy]).strip())
