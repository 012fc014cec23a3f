"""The desk's side of an enrolment, and the lines that a user watches meanwhile."""

from __future__ import annotations

import io
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pollen.cli import output
from pollen.cli.verbs.bootstrap import Screen
from pollen.errors import PollenError, error_from
from pollen.paths import Paths
from pollen.sdk.bootstrap import remote
from pollen.sdk.bootstrap.bundle import Bundle
from pollen.sdk.bootstrap.desk import Desk, Grant
from pollen.sdk.bootstrap.facts import BEGIN, END, Facts
from pollen.sdk.bootstrap.run import Machine, Options, Sessions, Target

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
    """By a token for a key that nobody has, another one each time."""
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
    desk.claim_name("raspberry", "pi@one")
    desk.claim_name("raspberry", "pi@one")
    with pytest.raises(PollenError, match="pi@one of this run") as caught:
        desk.claim_name("raspberry", "pi@two")
    assert caught.value.slug == "name-taken"
    # One that is a member already keeps its name, and says nothing about it.
    desk.keep_name(ME, "me@here")
    with pytest.raises(PollenError):
        desk.claim_name("attic", "pi@two")


# An ssh that is this machine: what it shall run is its last word.
SSH = 'for last; do :; done; {before}exec sh -c "$last"'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """This machine answers for each host, with its home in a folder; called, with words before."""

    def set_up(before: str) -> None:
        (tmp_path / "ssh").write_text(f"#!/bin/sh\n{SSH.format(before=before)}\n")
        (tmp_path / "ssh").chmod(0o755)

    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PLN_SSH", str(tmp_path / "ssh"))
    set_up("")
    return set_up


class NoBundles:
    """Nothing is installed: ``of`` is the last thing before the first change."""

    version, is_given = "1", False

    def of(self, *platform: object) -> Bundle:
        return Bundle("0" * 16, b"")


def machine(host: str, desk: Desk) -> Machine:
    options = Options(is_own=True, is_dry=True)
    parts = desk, NoBundles(), Sessions()
    return Machine(Target(Paths(Path(), host), ""), options, parts, print)  # type: ignore[arg-type]


def test_machines_of_one_hostname_are_told_before_anything_is_changed(
    here: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name that their nodes would take: of ``Raspberry.lan`` that is ``raspberry``. In a
    dry run too."""
    folder = Path(os.environ["HOME"]).parent / "bin"
    folder.mkdir()
    (folder / "uname").write_text(
        "#!/bin/sh\n[ $1 = -n ] && exec echo Raspberry.lan\nexec /bin/uname $1\n"
    )
    (folder / "uname").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    node = Node()
    desk = desk_with(node)
    first = machine("pi@one", desk).run()
    assert first.error is None and first.steps[0] == "installing", first
    second = machine("pi@two", desk).run()
    assert second.error is not None and second.error.slug == "name-taken" and not second.steps
    assert "NAME=pi@two" in second.error.remedy
    node.nodes.append({"node": PI, "name": "raspberry", "state": "online", "tier": "leaf"})
    taken = machine("pi@three", desk_with(node)).run()
    assert taken.error is not None and taken.error.slug == "name-taken" and not taken.steps


def test_a_master_that_ssh_leaves_behind_is_not_waited_for(here: Callable[[str], None]) -> None:
    """It holds what ssh prints to for as long as it lives. And ssh is asked to start none."""
    here('echo "$*" >&2; sleep 20 & ')
    session = Sessions()
    program = remote.program(None, is_own=True, is_home=False)
    began = time.monotonic()
    answer = session.ask(Paths(Path(), "pi@one"), program, b"x" * (1 << 20), ())
    assert answer["system"] and time.monotonic() - began < 10
    here('echo "$*" >&2; exit 3; ')
    with pytest.raises(PollenError, match="ControlMaster=no"):
        session.ask(Paths(Path(), "pi@one"), program, b"", ())


def test_all_that_is_sent_gets_there(here: Callable[[str], None]) -> None:
    """Its end too, however long the far end takes to read it."""
    count = 3 << 20
    text = f"sleep 2\nsay=$(wc -c)\nprintf '%s\\n' '{BEGIN}' \"count\t$say\" '{END}'\n"
    answer = Sessions().ask(Paths(Path(), "pi@one"), text, b"x" * count, ())
    assert answer["count"] == str(count)


def test_what_to_type_leads_to_the_node_there(here: Callable[[str], None]) -> None:
    """With the path of its pln, which need not be on the PATH, and its folder; as root where the
    folder is a service's."""
    one = machine("ssh://pi@one:2222", desk_with(Node()))
    service = Facts(root="sudo", folder="/var/lib/pln", command="/usr/local/bin/pln")
    line = "ssh -p 2222 pi@one sudo /usr/local/bin/pln --dir /var/lib/pln doctor"
    assert one._there(service, "doctor") == line
    own = Facts(folder="/srv/a b/.pln", command="/srv/a b/.local/bin/pln")
    # ssh puts a space between the words that it is given, and the shell there reads the line.
    given = shlex.split(one._there(own, "doctor"))
    assert given[:4] == ["ssh", "-p", "2222", "pi@one"]
    words = shlex.split(" ".join(given[4:]))
    assert words == ["/srv/a b/.local/bin/pln", "--dir", "/srv/a b/.pln", "doctor"]


def test_another_version_there_is_told_with_the_way_to_replace_it(
    here: Callable[[str], None],
) -> None:
    one = machine("pi@one", desk_with(Node()))
    facts = Facts(version="0.9", command="/usr/local/bin/pln", folder="/root/.pln")
    (_, note) = one._notes(facts)
    assert "runs pollen 0.9" in note
    assert "ssh pi@one /usr/local/bin/pln --dir /root/.pln upgrade - <FILE.whl" in note
    (note,) = one._notes(replace(facts, version="1"))
    assert note.endswith("there: /usr/local/bin/pln up -d")


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
