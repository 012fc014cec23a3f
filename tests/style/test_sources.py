"""What the code cites exists: pages of this repository with their headings, and known works.

A page is cited from the root, with the anchor of its heading: ``docs/design/protocol.md#records``.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.style.documents import anchors_of
from tests.style.tree import ROOT, tracked_files

OWN = Path(__file__)
# Another change rewrites these heads; a file leaves the list when its citations resolve.
CODE = sorted(
    path
    for path in tracked_files()
    if path.suffix in {".py", ".pyi", ".rs"}
    if path.resolve() != OWN.resolve()
)
PAGE = re.compile(r"\bdocs/[\w./-]+\.md(?:#[\w-]+)?")
# Other files of this repository that a source may name.
FILE = re.compile(r"\b(?:src|crates|tests|examples|benchmarks|fuzz)/[\w./-]*\w")
# Pages are named whole: a bare ``trust.md`` or a heading beside the name cannot be followed.
BARE = re.compile(r"(?<![\w/.-])[\w-]+\.md\b|\.md (?:\([A-Z]|\")|\.md, \"")
# Documents that this repository never had, and trackers that a reader cannot open.
GONE = re.compile(
    r"\b(?:PROTOCOL|DESIGN|SANDBOX|STYLE)\b|\bspecs/|\bshared/|\b[Ii]ssue (?:\"|#|\d)|"
    r"\bdocs/reference"
)
# Works of others. A new one is added here, so that a reader knows that it is meant.
WORKS = re.compile(
    r"https?://|\bRFC \d+|\bECMA-\d+|\bUAX \d+|\bW3C\b|\((?:[^()]*, )?(?:19|20)\d\d\)| \d{4}[,)]|"
    r"\b(?:foca|quinn|h11|turmoil|TigerBeetle|SWIM|Lifeguard|Vivaldi|HyParView|Plumtree|wyhash)\b|"
    r"\b(?:SplitMix64|Prometheus|OpenTelemetry)\b|\bthe (?:muscles|transport)|\bnone;|"
    r"\bmeasured\b|`\w+\(\d\)`|\basyncio\b"
)


def comments_of(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings of a file, each as one text, with the line where it begins.

    Comments on following lines are one text.
    """
    if path.suffix == ".rs":
        pieces = [
            (number, match[1])
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if (match := re.match(r"\s*//[/!]?(.*)", line))
        ]
    else:
        pieces = []
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.COMMENT:
                pieces.append((token.start[0], token.string.lstrip("#")))
            elif token.type == tokenize.STRING and token.string.startswith(('"""', 'r"""')):
                yield token.start[0], token.string
    begun, text, last = 0, "", -1
    for number, piece in [*pieces, (-9, "")]:
        if number != last + 1:
            if text:
                yield begun, text
            begun, text = number, ""
        text, last = f"{text}\n{piece}", number


def sources_of(text: str) -> list[str]:
    """What follows each ``Source:``, as one line, up to an empty line or what was refused."""
    parts = re.split(r"\bSource:", text)[1:]
    ends = r"\n\s*\n|\bRefused:|\bWhy telling:|\"\"\""
    return [" ".join(re.split(ends, part)[0].split()) for part in parts]


@cache
def anchors(page: Path) -> set[str]:
    return anchors_of(page)


def unresolved(text: str) -> list[str]:
    """The pages that a text cites and that are not there, or lack the heading."""
    found = []
    for cited in PAGE.findall(text):
        name, _, anchor = cited.partition("#")
        if not (ROOT / name).is_file() or (anchor and anchor not in anchors(ROOT / name)):
            found.append(cited)
    return found


def faults_of(source: str) -> list[str]:
    """What is wrong with the text of one ``Source:``."""
    lost = [name for name in FILE.findall(source) if not (ROOT / name).exists()]
    lost += BARE.findall(source)
    if not (PAGE.search(source) or FILE.search(source) or WORKS.search(source)):
        lost.append(source)
    return lost


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_file_cites_exists(path: Path) -> None:
    """Each page with its heading, and each source is a page, a file or a work that is listed."""
    faults = []
    for line, text in comments_of(path):
        wrong = unresolved(text) + GONE.findall(text)
        wrong += [fault for source in sources_of(text) for fault in faults_of(source)]
        faults += [f"{path.relative_to(ROOT)}:{line}: {fault}" for fault in wrong]
    assert faults == []


def test_documents_cite_nothing_that_is_gone() -> None:
    """Neither do the pages themselves, the locks and the settings of the tools."""
    texts = [path for path in tracked_files() if path.suffix in {".md", ".toml"}]
    found = {str(path.relative_to(ROOT)): GONE.findall(path.read_text()) for path in texts}
    assert {path: words for path, words in found.items() if words} == {}


def test_the_sources_are_read() -> None:
    """A reader that finds nothing would pass everything."""
    sources = [s for path in CODE for _, text in comments_of(path) for s in sources_of(text)]
    assert len(sources) > 150
    assert sum(bool(PAGE.search(source)) for source in sources) > 120


@pytest.mark.parametrize(
    "source",
    ["PROTOCOL 5", "trust.md", "docs/internals/trust.md (Leases)", "the seam", "tests/gone.py"],
)
def test_a_source_that_nobody_can_open_is_found(source: str) -> None:
    assert faults_of(source) or GONE.search(source)


def test_a_heading_that_is_not_there_is_found() -> None:
    assert unresolved("docs/internals/trust.md#leases") == []
    assert unresolved("docs/internals/trust.md#gone") == ["docs/internals/trust.md#gone"]
    assert unresolved("docs/gone.md") == ["docs/gone.md"]
