"""Scenarios: short scripts with a sentence for a name, each a claim that once was in doubt.

Decides: how a scenario is found and played.
Does not know: what any of them shows.
Invariants: a scenario is a module with a docstring (the sentence) and ``play(scene)``; it fails by
    raising ``AssertionError`` with the reason in words. One number draws what is by chance in it.
Source: docs/design/style.md#simulator.
"""

from __future__ import annotations

import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

import msgspec

from pollen.errors import error_from
from pollen.sim.scenarios.scene import Scene
from pollen.sim.verdict.trial import Draw, Report
from pollen.sim.world.trace import Trace

_NO_SCENARIO = frozenset({"scene"})


class Played(msgspec.Struct, frozen=True):
    """A run that is over: its report, and its trace for pages and pictures."""

    report: Report
    trace: Trace


def all_names() -> list[str]:
    """The scenarios that are shipped."""
    found = [info.name for info in pkgutil.iter_modules(__path__)]
    return sorted(name for name in found if name not in _NO_SCENARIO)


def sentence_of(name: str) -> str:
    """What a scenario shows."""
    return (load(name).__doc__ or "").strip().splitlines()[0]


def load(name: str) -> ModuleType:
    """A scenario by name, or from a file of one's own. Raises ``usage`` when there is none."""
    if name in all_names():
        return importlib.import_module(f"{__name__}.{name}")
    path = Path(name)
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        known = "\n".join(f"  {each}" for each in all_names())
        raise error_from("usage", f"there is no scenario {name!r}", f"one of:\n{known}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def play(name: str, number: int = 1) -> Played:
    """Play a scenario to its end."""
    module = load(name)
    scene = Scene(number)
    report = Report(draw=_draw_of(scene, number))
    try:
        module.play(scene)
    except AssertionError as reason:
        report.failures.append(f"{Path(name).stem}: {reason}")
    report.draw = _draw_of(scene, number)
    for at, invariant, text in scene.world.take_breaches():
        report.failures.append(f"{invariant}: {text} at {at}")
    report.digest = scene.world.trace.digest()
    report.outcome = scene.outcome.digest()
    report.checks = scene.checks
    report.counts = scene.world.counts
    report.events = scene.world.trace.events
    report.scenario = name
    report.sentence = (module.__doc__ or "").strip()
    return Played(report, scene.world.trace)


def _draw_of(scene: Scene, number: int) -> Draw:
    return Draw(
        number=number, nodes=len(scene.world.machines), zones=1, names=0, calls_per_second=0,
        jitter_ms=0, loss_bp=0, persist_ms=1, has_malice=False, rules=[],
    )  # fmt: skip
