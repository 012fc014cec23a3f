"""Markdown, as far as the tests read it: fenced blocks, headings, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\s*$")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of its fence."""

    path: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """Every fenced block of a document. A fence that is not closed is an error."""
    found: list[Block] = []
    opened: tuple[int, str, list[str]] | None = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if opened is None:
            if fence:
                opened = (number, fence[1], [])
        elif line.rstrip() == "```":
            found.append(Block(path, opened[0], opened[1], "\n".join([*opened[2], ""])))
            opened = None
        else:
            opened[2].append(line)
    assert opened is None, f"{path.name}:{opened[0]}: the block is not closed"
    return found


def prose_of(path: Path) -> list[str]:
    """The lines outside of fenced blocks."""
    lines, fenced = [], False
    for line in path.read_text().splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            lines.append(line)
    return lines


def links_of(path: Path) -> list[str]:
    """The targets of all links in the prose, not of those in code."""
    prose = "\n".join(re.sub(r"`[^`]*`", "", line) for line in prose_of(path))
    return LINK.findall(prose)


def anchors_of(path: Path) -> set[str]:
    """The anchors that headings have on the usual hosts of code."""
    headings = [heading[1] for line in prose_of(path) if (heading := HEADING.match(line))]
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}
