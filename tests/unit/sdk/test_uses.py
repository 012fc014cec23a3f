"""What a typed handle sends, by the signatures that a seed published."""

from __future__ import annotations

import pytest

from pollen.errors import NotFound
from pollen.sdk.uses import Called

FUNCTIONS = {
    "get-all": {
        "input": {"properties": {"max-size": {}, "from": {}}},
        "order": ["max-size", "from"],
        "takes": "json",
        "gives": "json",
    },
    "get_one": {"takes": "json"},
    "get-one": {"takes": "bytes"},
}


def test_names_of_components_are_found_by_low_lines() -> None:
    """Those of the function and of its arguments, by place and by name."""
    called = Called("shop", "get_all", FUNCTIONS)
    assert (called.name, called.what) == ("get-all", "shop/get-all")
    assert called.payload((), {"max_size": 3, "from": 1}) == ({"max-size": 3, "from": 1}, True)
    assert called.payload((3,), {"from": 1}) == ({"max-size": 3, "from": 1}, True)
    with pytest.raises(TypeError, match="two values"):
        called.payload((3,), {"max_size": 4})


def test_a_name_that_is_there_is_taken_as_it_is() -> None:
    assert Called("shop", "get_one", FUNCTIONS).takes == "json"
    assert Called("shop", "get-one", FUNCTIONS).takes == "bytes"
    with pytest.raises(NotFound, match="get_two"):
        Called("shop", "get_two", FUNCTIONS)
    # Of a seed that published nothing a name is what it is.
    assert Called("shop", "get_all", {}).name == "get_all"
