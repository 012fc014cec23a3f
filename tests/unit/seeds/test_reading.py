"""What a module is that may be a program or a library (programs-are-known-by-their-imports.md)."""

from __future__ import annotations

from typing import Any

import pytest

from pollen.core.codec import Refusal
from pollen.core.commands import SeedCommand
from pollen.core.events import ModuleInspected
from pollen.core.ids import Hash, RequestId
from pollen.core.seeds import publishing, specs
from pollen.options import SeedOptions
from tests.unit.names.test_named import CONTENT, A, writer

LIBRARY, PROGRAM = ["shout", "upper"], ["_start"]
EITHER = ["_start", "__main_void", "own", "more"]


def plan(functions: list[str], may_be_program: bool, **options: Any) -> Any:
    """What becomes of a module with these functions."""
    command = SeedCommand(name="echo", content=CONTENT.hex(), options=SeedOptions(**options))
    module = ModuleInspected(
        request=RequestId(1),
        content=Hash(CONTENT),
        size=9,
        functions=functions,
        may_be_program=may_be_program,
    )
    planned = publishing.plan_seed(command, module, writer(A), {})
    return planned if isinstance(planned, Refusal) else planned.answer.functions  # type: ignore[union-attr]


def test_what_is_clear_is_published_without_a_word() -> None:
    """A library and a program are known by their imports and exports, as ever."""
    assert plan(LIBRARY, False) == LIBRARY
    assert plan(PROGRAM, True) == PROGRAM
    assert plan([*PROGRAM, "__main_void"], True) == [*PROGRAM, "__main_void"]
    # Of a module with other imports, or without any, `_start` is one function of many.
    assert plan(EITHER, False) == EITHER


def test_a_module_that_may_be_either_is_refused_with_both_flags() -> None:
    """It names the functions that are in doubt."""
    refused = plan(EITHER, True)
    assert refused.slug == "ambiguous"
    assert refused.reason.endswith("it exports _start and own, more")
    assert "--program" in refused.remedy and "--library" in refused.remedy


def test_its_publisher_says_what_it_is() -> None:
    """A program has its beginning alone, a library every function."""
    assert plan(EITHER, True, program=True) == ["_start"]
    assert plan(EITHER, True, library=True) == EITHER


@pytest.mark.parametrize(
    ("functions", "may_be", "option"),
    [(LIBRARY, False, "program"), (EITHER, False, "program"), (PROGRAM, True, "library")],
)
def test_what_the_module_cannot_be_is_refused(
    functions: list[str], may_be: bool, option: str
) -> None:
    """The flag is for a module that may be either."""
    refused = plan(functions, may_be, **{option: True})
    assert (refused.slug, refused.remedy) == ("module-invalid", f"leave --{option} out")


def test_both_at_once_are_refused_before_there_is_a_module() -> None:
    """A module is one of the two."""
    refused = specs.check_options(SeedOptions(program=True, library=True))
    assert refused is not None
    assert refused.slug == "config-invalid"


def test_a_check_is_looked_for_among_the_functions_of_the_reading() -> None:
    """A program has none but its beginning."""
    refused = plan(EITHER, True, program=True, check="own")
    assert (refused.slug, refused.remedy) == ("function-not-found", "name one of: _start")
    assert plan(EITHER, True, library=True, check="own") == EITHER
