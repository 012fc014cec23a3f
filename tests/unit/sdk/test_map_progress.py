"""The line that says how far a map has come."""

from __future__ import annotations

import io
import sys
import types
from typing import Any

import pytest

from pollen.sdk.functions import progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("done", "whole", "seconds", "told"),
    [
        (340, 1_000, 2.0, "score: 340 of 1,000, 170/s, 4 s left"),
        (3, 1_000_000, 60.0, "score: 3 of 1,000,000, 0.1/s, 5556 h left"),
        (500, 10_000, 50.0, "score: 500 of 10,000, 10/s, 16 min left"),
        (1_000, 1_000, 2.0, "score: 1,000 of 1,000, 500/s"),
        (12_000, None, 2.0, "score: 12,000, 6,000/s"),
        (0, 10, 0.0, "score: 0 of 10, 0.0/s"),
    ],
)
def test_the_text(done: int, whole: int | None, seconds: float, told: str) -> None:
    assert progress.text("score", done, whole, seconds) == told


def test_it_is_drawn_four_times_a_second_and_at_its_end() -> None:
    clock, drawn = Clock(), list[str]()
    line = progress.Line("score", 100, drawn.append, clock)
    for _ in range(100):
        clock.now += 0.01
        line.step()
    line.end()
    assert len(drawn) in (4, 5)
    assert drawn[-1] == "score: 100 of 100, 100/s"


def test_a_short_map_draws_nothing() -> None:
    clock, drawn = Clock(), list[str]()
    line = progress.Line("score", 2, drawn.append, clock)
    line.step()
    line.end()
    assert drawn == []


def test_a_place_that_is_gone_loses_no_result() -> None:
    clock = Clock()

    def gone(_: str) -> None:
        raise BrokenPipeError

    line = progress.Line("score", 2, gone, clock)
    clock.now += 1
    line.step()
    line.end()


@pytest.fixture
def without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)


def _mapped(count: int, *, is_wanted: bool = True) -> None:
    with progress.shown("score", count, is_wanted=is_wanted) as step:
        for _ in range(count):
            step()


@pytest.mark.usefixtures("without_tqdm")
def test_a_terminal_has_one_line_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    _mapped(3)
    told = terminal.getvalue()
    assert told.endswith("\x1b[K\n")
    assert told.count("\n") == 1
    assert "\rscore: 3 of 3, " in told


@pytest.mark.usefixtures("without_tqdm")
@pytest.mark.parametrize("why", ["pipe", "dumb", "not wanted"])
def test_nothing_is_drawn_where_nobody_looks(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    monkeypatch.setenv("TERM", "dumb" if why == "dumb" else "xterm")
    monkeypatch.setattr(sys, "stderr", place := io.StringIO() if why == "pipe" else Terminal())
    _mapped(3, is_wanted=why != "not wanted")
    assert place.getvalue() == ""


@pytest.mark.usefixtures("without_tqdm")
def test_a_notebook_has_an_output_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[list[str]] = []

    class Handle:
        def update(self, data: dict[str, str], *, raw: bool) -> None:
            assert raw
            outputs[-1].append(data["text/plain"])

    def display(data: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        outputs.append([data["text/plain"]])
        return Handle()

    ipython: Any = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    shows: Any = types.ModuleType("IPython.display")
    shows.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shows)
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    _mapped(3)
    assert len(outputs) == 1
    assert outputs[0][-1].startswith("score: 3 of 3, ")


@pytest.mark.usefixtures("without_tqdm")
@pytest.mark.parametrize("place", [None, io.StringIO()])
def test_a_program_without_a_place_to_write_is_served(
    place: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place is not None:
        place.close()
    monkeypatch.setattr(sys, "stderr", place)
    _mapped(2)


def test_the_count_is_asked_before_one_is_taken() -> None:
    class Odd(list[int]):
        def __len__(self) -> int:
            raise NotImplementedError

    assert progress.count_of(iter([1, 2, 3])) == 3
    assert progress.count_of(n for n in range(3)) is None
    assert progress.count_of(Odd([1])) is None


def test_tqdm_draws_where_the_program_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Theirs:
        def __init__(self, **given: Any) -> None:
            assert given["disable"] is None, "it would draw into a pipe"
            told.append((given["total"], given["desc"]))

        def __enter__(self) -> Theirs:
            return self

        def __exit__(self, *_: object) -> None:
            told.append("closed")

        def update(self) -> bool:
            told.append(1)
            return True

    module: Any = types.ModuleType("tqdm.auto")
    module.tqdm = Theirs
    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    _mapped(2)
    assert told == [(2, "score"), 1, 1, "closed"]
