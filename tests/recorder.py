"""Which slugs left the product during the test suite: one that never does is a claim nobody tried.

An error leaves by the CLI (its words or its JSON on stderr), by HTTP (problem+json) or by the SDK
(a ``PollenError`` in the process of the test). The suites that talk to a product in processes of
its own write each slug that they see to a file; ``python -m tests.recorder`` compares it with the
table.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pollen.errors import SLUGS, PollenError

FILE = Path(__file__).parents[1] / "build" / "slugs-seen.txt"

# As the CLI ends an error, and as JSON carries it.
_SAID = re.compile(rb'^  \[([a-z-]+)\]$|"slug": ?"([a-z-]+)"', re.MULTILINE)


def note(slug: str) -> None:
    """This slug left. Several processes write at once: one line, one write."""
    FILE.parent.mkdir(exist_ok=True)
    with FILE.open("ab") as file:
        file.write(f"{slug}\n".encode())


def note_words(words: bytes) -> None:
    """What the product printed or answered."""
    for text, code in _SAID.findall(words):
        note((text or code).decode())


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Every ``PollenError`` of this process is noted meanwhile: it came out of the SDK."""
    before = PollenError.__init__

    def init(self: PollenError, slug: str, *rest: Any, **more: Any) -> None:
        before(self, slug, *rest, **more)
        note(slug)

    PollenError.__init__ = init  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        PollenError.__init__ = before  # type: ignore[method-assign]


def missing() -> list[str]:
    """The slugs of the table that no test has seen."""
    seen = set(FILE.read_text().split()) if FILE.exists() else set()
    return sorted(set(SLUGS) - seen)


def main() -> int:
    never = missing()
    if never:
        print(f"no test has seen these errors leave: {', '.join(never)}", file=sys.stderr)
        return 1
    print(f"each of the {len(SLUGS)} errors left the product in some test")
    return 0


if __name__ == "__main__":
    if "--begin" in sys.argv:
        FILE.unlink(missing_ok=True)
    else:
        sys.exit(main())
