"""``pln inspect`` and ``pln why`` on a node that runs."""

from __future__ import annotations

import json

import pytest

from pollen.cli.explain import replica_texts
from pollen.plain import escaped
from tests.cli.conftest import EXAMPLES, Pln


def test_inspect_shows_a_seed_whole(up: Pln) -> None:
    text = up.ok("inspect", "echo")
    assert text.startswith("seed echo\n")
    assert all(word in text for word in ("hash", "content", "publisher    solo", "1 of 1", "ready"))
    told = json.loads(up.ok("inspect", "seed/echo", "--json"))
    assert (told["kind"], told["name"]) == ("seed", "echo")
    assert up.ok("inspect", told["seed"][:8]) == text


def test_inspect_shows_a_node_whole(up: Pln) -> None:
    node = up.ok("id").strip()
    text = up.ok("inspect", "solo")
    assert text.startswith("node solo\n") and node in text and "this node" in text
    assert up.ok("inspect", f"node/{node[:8]}") == text


def test_what_is_not_there_is_guessed_at(up: Pln) -> None:
    done = up("inspect", "ecoh")
    assert done.returncode == 3
    assert b"did you mean: echo" in done.stderr and b"[peer-not-found]" in done.stderr


def test_why_place_shows_the_ranking(up: Pln) -> None:
    text = up.ok("why", "place", "echo")
    assert text.startswith("seed echo (") and "1 of 1 replicas ready" in text
    assert "rank 1 of 1 wanted" in text and "--min-replicas asks for 2" in text
    assert max(map(len, text.splitlines())) <= 80
    assert len(json.loads(up.ok("why", "place", "echo", "solo", "--json"))["nodes"]) == 1


def test_a_halted_version_shows_which_host_has_which() -> None:
    told = {"seed": "a" * 64, "halted": "b" * 64, "replicas": []}
    for seed, name, state in (("b", "shed", "refused"), ("a", "attic", "ready")):
        reason = "it traps" if state == "refused" else ""
        replica = {"seed": seed * 64, "name": name, "state": state, "reason": reason}
        told["replicas"].append(replica)  # type: ignore[attr-defined]
    assert replica_texts(told) == [
        "ready    on attic version aaaaaaaa",
        "refused  on shed version bbbbbbbb: it traps",
    ]


def test_why_call_shows_the_ways(up: Pln) -> None:
    text = up.ok("why", "call", "echo")
    assert text.startswith("seed echo, function echo: this node may call it\n")
    assert "solo" in text and "here" in text
    assert max(map(len, text.splitlines())) <= 80
    assert up("why", "call", "trap").returncode == 3
    assert b"name one of: trap, error, status" in up("why", "call", "trap").stderr


@pytest.mark.parametrize("line", [["why"], ["why", "--help"]])
def test_why_alone_says_what_can_be_asked(up: Pln, line: list[str]) -> None:
    text = up.ok(*line)
    assert "pln why place hello" in text and "call" in text


def test_a_policy_is_shown_as_text_and_by_its_parts(up: Pln) -> None:
    """The text of several lines stands in one; each part has its value for the node that asks."""
    policy = 'caller.tier == "admin"\n&& !has(caller.props.banned)'
    hosts = 'node.tier in ["admin"]'
    up.ok("seed", str(EXAMPLES / "echo.wasm"), "kept", "--allow", policy, "--host-if", hosts)
    shown = up.ok("inspect", "kept")
    assert f"callers if   {escaped(policy)}\n" in shown
    assert f"hosts if     {hosts}\n" in shown
    told = up.ok("why", "call", "kept")
    assert "this node may call it" in told
    assert 'caller.tier == "admin" && !has(caller.props.banned) -> true\n' in told
    assert "has(caller.props.banned) -> false\n" in told
    assert 'node.tier -> "admin"\n' in up.ok("why", "place", "kept", "solo")
    assert "may NOT" not in told
    up.ok("seed", str(EXAMPLES / "echo.wasm"), "kept", "--yes", "--allow", 'caller.tier == "leaf"')
    told = up.ok("why", "call", "kept")
    assert "this node may NOT call it" in told
    assert "hosts if" not in up.ok("inspect", "kept")
    up.ok("unseed", "kept")


def test_a_policy_that_does_not_parse_shows_where(up: Pln) -> None:
    """With a caret below the place, and nothing is published."""
    done = up("seed", str(EXAMPLES / "echo.wasm"), "twisted", "--host-if", "node.props.n = 1")
    assert done.returncode == 2
    told = done.stderr.decode()
    assert "    | node.props.n = 1\n    |              ^\n" in told
    assert "[bad-policy]" in told
    assert "twisted" not in up.ok("status")
