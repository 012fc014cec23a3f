"""The sizes of the client and of the muscles are the same numbers."""

from __future__ import annotations

import math
import re

import pytest

from pollen import sizes
from pollen.sdk import door
from tests.style.tree import CRATES

NAMES = {
    ("fetch.rs", "MAX_MODULE"): sizes.MODULE_MAX_BYTES,
    ("frame.rs", "MAX_INPUT"): sizes.INPUT_MAX_BYTES,
    ("frame.rs", "MAX_DOOR"): door.MAX_FRAME,
    ("frame.rs", "MAX_HEAD"): sizes.HEAD_MAX_BYTES,
}


def constants(file: str) -> dict[str, int]:
    """The integer constants of a file of pollen-wire; one may name those before it."""
    found: dict[str, int] = {}
    text = (CRATES / "pollen-wire" / "src" / file).read_text()
    for name, value in re.findall(r"pub const (\w+): (?:usize|u64) = ([\w *+]+);", text):
        terms = [re.split(r" \* ", term) for term in value.split(" + ")]
        found[name] = sum(
            math.prod(int(word) if word.isdecimal() else found[word] for word in term)
            for term in terms
        )
    return found


@pytest.mark.parametrize(("place", "size"), NAMES.items(), ids=str)
def test_client_and_muscles_agree_on_each_size(place: tuple[str, str], size: int) -> None:
    """One constant a language, compared here, so that neither is raised alone."""
    file, name = place
    assert constants(file)[name] == size


def test_no_crate_has_a_module_limit_of_its_own() -> None:
    """All read the one constant of pollen-wire: 32 MiB once stood in four places."""
    own = [
        f"{path.relative_to(CRATES)}: {line.strip()}"
        for path in CRATES.glob("*/src/**/*.rs")
        for line in path.read_text().splitlines()
        if re.search(r"const (\w*_)?MODULE(_BYTES)?: (usize|u64|u32) = ", line)
    ]
    assert own == ["pollen-wire/src/fetch.rs: pub const MAX_MODULE: u64 = 64 * 1024 * 1024;"]
