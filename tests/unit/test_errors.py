"""What a person or another process gets of an error: all of it."""

from __future__ import annotations

import copy
import pickle
import traceback

from pollen.errors import GuestError, Overloaded, PollenError


def test_a_traceback_shows_the_remedy_and_the_slug() -> None:
    error = GuestError("guest-failed", "not a number", "give it a number")
    assert str(error) == "not a number"
    assert traceback.format_exception_only(error) == [
        "pollen.errors.GuestError: not a number\n",
        "give it a number\n",
        "the function may have run\n",
        "[guest-failed]\n",
    ]


def test_an_error_without_a_remedy_has_no_empty_line() -> None:
    error = Overloaded("overloaded", "full")
    assert error.__notes__ == ["[overloaded]"]


def test_a_pickled_error_is_the_same_error() -> None:
    """With what was set or noted later, and no note twice."""
    error = GuestError("guest-status", "the function returned the code 7", "look", node="ab")
    error.output, error.status = b"seven", 7
    error.add_note("row 12")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert isinstance(again, PollenError)
        assert (type(again), str(again), vars(again)) == (GuestError, str(error), vars(error))
