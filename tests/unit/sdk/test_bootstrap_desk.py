"""The desk's side of an enrolment, and the lines that a user watches meanwhile."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from pollen.cli import output
from pollen.cli.verbs.bootstrap import Screen
from pollen.errors import PollenError, error_from
from pollen.sdk.bootstrap.desk import Desk, Grant

ME, PI = "aa" * 32, "bb" * 32


class Node:
    """Answers as the control API does; ``wishes`` are the invites that were asked for."""

    def __init__(self, tier: str = "admin") -> None:
        self.tier, self.wishes = tier, list[dict[str, Any]]()
        self.nodes = [{"node": ME, "name": "attic", "state": "self", "tier": tier}]

    def get(self, path: str) -> dict[str, Any]:
        assert path == "/v1/status"
        return {"cluster": "cc" * 32, "nodes": self.nodes}

    def request(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert (method, path) == ("POST", "/v1/invites")
        self.wishes.append(body)
        if self.tier != "admin":
            raise error_from("denied", "this node is a leaf", "pln bootstrap on an admin's node")
        return {"token": f"pln1{body['subject'][:4]}"}


def desk_with(node: Node, **grant: str) -> Desk:
    return Desk(node, Grant(**grant))  # type: ignore[arg-type]


def test_a_token_is_bound_to_the_key_that_asks() -> None:
    """With what the new member may do, and not a digit more."""
    node = Node()
    assert desk_with(node, tier="publisher", properties='{"a":"b"}').token(PI) == f"pln1{PI[:4]}"
    (wish,) = node.wishes
    assert (wish["subject"], wish["tier"], wish["properties"]) == (PI, "publisher", '{"a":"b"}')
    assert 0 < wish["ttl_ms"] <= 300_000


def test_what_the_node_may_not_give_is_known_before_any_machine_is_asked() -> None:
    """By a token for the key of nobody, another one each time."""
    node = Node("leaf")
    for _ in range(2):
        with pytest.raises(PollenError) as caught:
            desk_with(node).check()
        assert caught.value.slug == "denied"
    first, second = (wish["subject"] for wish in node.wishes)
    assert first != second and len(first) == 64


def test_a_member_is_seen_when_it_is_there() -> None:
    node = Node()
    desk = desk_with(node)
    node.nodes.append({"node": PI, "name": "pi", "state": "offline", "tier": "leaf"})
    assert desk.member(ME) is not None and desk.member(PI) is None


def test_one_machine_by_two_names_is_told() -> None:
    desk = desk_with(Node())
    desk.claim(PI, "pi@one")
    desk.claim(PI, "pi@one")
    with pytest.raises(PollenError, match="same machine as pi@one") as caught:
        desk.claim(PI, "pi@two")
    assert caught.value.slug == "usage"


def test_a_name_that_a_member_has_is_taken() -> None:
    """Unless it is that member, or one that is gone: machines are set up again."""
    node = Node()
    node.nodes.append({"node": "dd" * 32, "name": "pi", "state": "offline", "tier": "leaf"})
    desk = desk_with(node)
    desk.check_name("attic", ME, "me@here")
    desk.check_name("pi", PI, "pi@one")
    with pytest.raises(PollenError) as caught:
        desk.check_name("attic", PI, "pi@one")
    assert caught.value.slug == "name-taken" and "NAME=pi@one" in caught.value.remedy


def test_two_machines_of_one_run_have_two_names() -> None:
    """Both join before either is seen: machines of one image have one name."""
    desk = desk_with(Node())
    desk.check_name("raspberry", PI, "pi@one")
    desk.check_name("raspberry", PI, "pi@one")
    with pytest.raises(PollenError) as caught:
        desk.check_name("raspberry", "dd" * 32, "pi@two")
    assert caught.value.slug == "name-taken"


class Tty(io.BytesIO):
    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, names: list[str], rows: int) -> str:
    """What a terminal of so many rows gets while two machines go on."""
    raw = Tty()
    monkeypatch.setattr(sys, "stderr", output.Terminal.over(io.TextIOWrapper(raw)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LINES", str(rows))
    screen = Screen(names, is_silent=False)
    screen.show(names[0], "looking")
    screen.end(names[1], "done\x1b[2J")
    sys.stderr.flush()
    return raw.getvalue().decode()


def test_each_machine_has_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn over, and what a machine said does not steer the terminal."""
    text = drawn(monkeypatch, ["a", "b"], 24)
    assert text.count("\x1b[2A") == 1 and text.count("\x1b[K") == 4
    assert "a  looking ..." in text and r"b  done\x1b[2J" in text


def test_more_machines_than_rows_have_a_line_for_each_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = drawn(monkeypatch, ["a", "b", "c"], 3)
    assert text.splitlines() == ["a  looking ...", r"b  done\x1b[2J"]
