"""Status and logs of other nodes: who is meant, what goes into an answer, and going on from it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pollen.core import commands as cmd
from pollen.core.figures import Figures
from pollen.errors import PollenError
from pollen.runtime import elsewhere
from pollen.runtime.elsewhere import Elsewhere, LogsWish, chosen, within

IDS = {"attic": "a1" * 32, "barn": "a2" * 32, "cellar": "c3" * 32}


def line(ms: int, text: str) -> str:
    """A line as the log has it."""
    return f'{{"at": "2026-01-02T03:04:05.{ms:03d}Z", "level": "info", "event": "{text}"}}'


def view(name: str) -> cmd.NodeView:
    return cmd.NodeView(
        node=IDS[name],
        name=name,
        state="online",
        tier="admin",
        properties="{}",
        addresses=[],
        version="0",
        ready=0,
        memory_bytes=0,
    )


def status(name: str) -> cmd.Status:
    return cmd.Status(
        cluster="00",
        node=IDS[name],
        name=name,
        version="0",
        healthy=True,
        summary="",
        warnings=[],
        hints=[],
        nodes=[view(each) for each in IDS],
        seeds=[],
        uptime_ms=0,
        view_age_ms=0,
        memory_bytes=0,
        rejections={},
        events_dropped=0,
        control_stalls=0,
    )


def figures(name: str, command: cmd.FiguresCommand) -> cmd.OwnFigures:
    """What a brain answers of itself, and of who is online when that is asked for."""
    own = Figures(uptime_ms=0, memory_bytes=0, seeds=[])
    return cmd.OwnFigures(figures=own, nodes=status(name).nodes if command.nodes else [])


class Town:
    """Three nodes that ask each other as their brains would have it carried."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[tuple[str, str]] = []
        self.nodes: dict[str, Elsewhere] = {}
        for name, own in IDS.items():
            path = folder / f"{name}.log"
            path.write_text(line(1, f"{name} began") + "\n")
            self.nodes[own] = Elsewhere(own, self._ask_of(name), path)

    def _ask_of(self, name: str) -> elsewhere.Ask:
        async def ask(command: cmd.Command, seconds: float) -> msgspec.Struct:
            if isinstance(command, cmd.StatusCommand):
                return status(name)
            if isinstance(command, cmd.FiguresCommand):
                return figures(name, command)
            assert isinstance(command, cmd.AdminCommand)
            self.asked.append((name, command.verb))
            body = await self.nodes[command.node].verbs()[command.verb](command.args)
            return cmd.Administered(body=body)

        return ask

    @property
    def attic(self) -> Elsewhere:
        return self.nodes[IDS["attic"]]


def run(work: Any) -> Any:
    return asyncio.run(work)


def test_a_node_is_named_by_its_name_or_the_first_digits_of_its_id(tmp_path: Path) -> None:
    """The other node answers for itself, and this one does not ask itself over a link."""
    town = Town(tmp_path)
    assert run(town.attic.status_of("cellar")).name == "cellar"
    assert run(town.attic.status_of("C3")).name == "cellar"
    assert run(town.attic.logs_of("cellar", LogsWish())) == [line(1, "cellar began")]
    assert town.asked == [("attic", "status"), ("attic", "status"), ("attic", "logs")]
    assert run(town.attic.status_of("attic")).name == "attic"
    assert run(town.attic.logs_of("attic", LogsWish())) == [line(1, "attic began")]
    assert len(town.asked) == 3


@pytest.mark.parametrize(
    ("text", "slug"), [("nobody", "peer-not-found"), ("", "peer-not-found"), ("a", "ambiguous")]
)
def test_who_is_nobody_or_several_is_refused(tmp_path: Path, text: str, slug: str) -> None:
    """The way out names the command, or those who are meant."""
    with pytest.raises(PollenError) as refused:
        run(Town(tmp_path).attic.status_of(text))
    assert refused.value.slug == slug
    assert refused.value.remedy


def test_who_follows_gets_each_line_once(tmp_path: Path) -> None:
    """Also of lines that have one time, some of which came before the last look."""
    path = tmp_path / "log"
    lines = [line(1, "one"), line(2, "two"), line(2, "three"), line(3, "four")]
    path.write_text("".join(f"{each}\n" for each in lines[:2]))
    assert chosen(path, LogsWish(lines=1)) == lines[1:2]
    path.write_text("".join(f"{each}\n" for each in lines))
    after = "2026-01-02T03:04:05.002Z"
    assert chosen(path, LogsWish(after=after, skip=1)) == lines[2:]
    assert chosen(path, LogsWish(after=after, skip=2)) == lines[3:]
    assert chosen(path, LogsWish(after="2026-01-02T03:04:05.003Z", skip=1)) == []
    # The file was rotated away meanwhile: what is there is new.
    assert chosen(path, LogsWish(after="2026-01-01T00:00:00.000Z", skip=5)) == lines


def test_an_answer_has_room_for_the_newest_or_the_next_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one message; who follows gets the rest with the next question."""
    monkeypatch.setattr(elsewhere, "ANSWER_BYTES", 2 * len(line(1, "a")) + 2)
    path = tmp_path / "log"
    lines = [line(number, "a") for number in range(5)]
    path.write_text("".join(f"{each}\n" for each in lines))
    assert chosen(path, LogsWish(lines=5)) == lines[3:]
    assert chosen(path, LogsWish(after="2026-01-02T03:04:05.001Z", skip=1)) == lines[2:4]
    assert within([]) == []


def test_a_request_of_another_version_is_refused_in_words(tmp_path: Path) -> None:
    """Not an exception of the daemon."""
    with pytest.raises(PollenError) as refused:
        run(Town(tmp_path).attic.tell_logs(b"[]"))
    assert (refused.value.slug, "one version" in refused.value.remedy) == ("bad-request", True)


# -- answers of a member that means harm --------------------------------------------------------

NESTED = b'{"more":' + b"[" * 100_000 + b"]" * 100_000 + b","
BIG = b"9" * 400
FIGURES = b'{"uptime_ms":1,"memory_bytes":1,"seeds":[]}'
SEED = b'{"name":"x","calls":1,"failures":0,"in_flight":0,"queued":0,"run_us":1}'


class Liar(Town):
    """The cellar answers an admin with these bytes."""

    def __init__(self, folder: Path, body: bytes) -> None:
        super().__init__(folder)

        async def tell(args: bytes) -> bytes:
            return body

        cellar: Any = self.nodes[IDS["cellar"]]
        cellar.verbs = lambda: dict.fromkeys(("status", "figures", "logs"), tell)


@pytest.mark.parametrize(
    "body",
    [
        NESTED + FIGURES[1:],
        FIGURES.replace(b'ms":1', b'ms":' + BIG),
        FIGURES.replace(b'ms":1', b'ms":-1'),
        FIGURES.replace(b"[]", b"[" + SEED.replace(b'calls":1', b'calls":' + BIG) + b"]"),
        FIGURES.replace(b"[]", b"[" + SEED.replace(b'us":1', b'us":' + BIG) + b"]"),
        FIGURES.replace(b"[]", b"[" + SEED.replace(b'"x"', b'"' + b"x" * 5_000 + b'"') + b"]"),
        FIGURES.replace(b"[]", b"[" + b",".join([SEED] * 20_000) + b"]"),
        FIGURES.replace(b"[]", b"[" + SEED.replace(b"x", b"\xff") + b"]"),
    ],
    ids=["nested", "uptime", "negative", "calls", "run", "name", "seeds", "utf-8"],
)
def test_figures_that_no_node_has_are_a_problem_of_who_told_them(
    tmp_path: Path, body: bytes
) -> None:
    """All other nodes are shown to who looks."""

    async def as_admin(command: cmd.Command, seconds: float) -> msgspec.Struct:
        if isinstance(command, cmd.FiguresCommand):
            held = figures("attic", command)
            own = msgspec.structs.replace(held.nodes[0], state="self")
            return msgspec.structs.replace(held, nodes=[own, *held.nodes[1:]])
        return await town._ask_of("attic")(command, seconds)

    town = Liar(tmp_path, body)
    shown = run(Elsewhere(IDS["attic"], as_admin, tmp_path / "attic.log").figures()).nodes
    assert [node.name for node in shown] == ["attic", "barn", "cellar"]
    assert [node.figures is not None for node in shown] == [True, True, False]
    assert shown[2].problem.startswith("[bad-request] what node c3c3c3c3 answered cannot be read")
    assert len(shown[2].problem) < 300


def told_status(**other: Any) -> bytes:
    """A status as it travels, in which the cellar said something else of itself."""
    held = {**msgspec.to_builtins(status("cellar")), **other}
    return msgspec.json.encode(held)


@pytest.mark.parametrize(
    "body",
    [
        NESTED + told_status()[1:],
        told_status(uptime_ms=10**399),
        told_status(nodes=[{**msgspec.to_builtins(view("barn")), "memory_bytes": 10**399}]),
        told_status(rejections={"x": 10**399}),
        told_status(name="x").replace(b'"x"', b'"\xff"'),
    ],
    ids=["nested", "uptime", "memory", "rejections", "utf-8"],
)
def test_a_status_that_no_node_has_is_refused_in_words(tmp_path: Path, body: bytes) -> None:
    """Not an exception of the daemon or of the command line."""
    with pytest.raises(PollenError) as refused:
        run(Liar(tmp_path, body).attic.status_of("cellar"))
    assert (refused.value.slug, bool(refused.value.remedy)) == ("bad-request", True)
    assert "c3c3c3c3" in refused.value.reason


@pytest.mark.parametrize(
    "told",
    ["[1]", "5", '{"a": ' + "[" * 50 + "]" * 50 + "}", "[" * 100_000, "{}\n5"],
    ids=["list", "number", "nested", "deep", "two-lines"],
)
def test_lines_that_no_log_has_are_refused_in_words(tmp_path: Path, told: str) -> None:
    with pytest.raises(PollenError) as refused:
        body = msgspec.json.encode([line(1, "one"), told])
        run(Liar(tmp_path, body).attic.logs_of("cellar", LogsWish()))
    assert (refused.value.slug, "c3c3c3c3" in refused.value.reason) == ("bad-request", True)


def test_a_line_that_was_torn_is_shown_as_it_is(tmp_path: Path) -> None:
    """A crash leaves one, and it is no fault of who tells it."""
    lines = [line(1, "one"), '{"at": "2026-01-02T03:']
    town = Liar(tmp_path, msgspec.json.encode(lines))
    assert run(town.attic.logs_of("cellar", LogsWish())) == lines
