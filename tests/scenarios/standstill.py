"""The two hashes of each fixed run.

``PYTHONPATH=src:. python -m tests.scenarios.standstill shape|outcome`` writes the file of that name
in tests/vectors for 60 numbers and every named scenario. ``lines RUN`` prints what goes into the
outcome of one run (a number or a scenario): compare the prints of two commits line by line.
docs/decisions/rooms.md says when which file may change.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pollen
from pollen.sim import scenarios
from pollen.sim.scenarios.scene import Scene
from pollen.sim.verdict.outcome import Outcome
from pollen.sim.verdict.trial import Report, Trial, draw_trial, run_trial

VECTORS = Path(__file__).parent.parent / "vectors"
NUMBERS = range(1, 61)
KINDS = ("shape", "outcome")


def hash_of(report: Report, kind: str) -> str:
    """One of the two hashes of a run."""
    return report.digest if kind == "shape" else report.outcome


def known(kind: str) -> dict[str, str]:
    """The hashes that were committed, by number or scenario."""
    found: dict[str, str] = json.loads((VECTORS / f"{kind}.json").read_text())
    return found


def differences(run: str, report: Report) -> list[str]:
    """What of a fixed run is not as it was, in words; empty for a run that is not fixed."""
    if run not in known("shape"):
        return []
    return [
        f"the {kind} of {run} changed: {hash_of(report, kind)}, not {known(kind)[run]}; "
        f"compare `python -m tests.scenarios.standstill lines {run}` with the commit before"
        for kind in KINDS
        if hash_of(report, kind) != known(kind)[run]
    ]


def play(run: str) -> Report:
    """A fixed run by its number, or a scenario by its name."""
    return run_trial(int(run)) if run.isdigit() else scenarios.play(run).report


def lines_of(run: str) -> list[str]:
    """What the outcome of a run hashes."""
    if run.isdigit():
        trial = Trial(draw_trial(int(run)))
        outcome = Outcome(trial.world, keeps_lines=True)
        trial.play()
    else:
        scene = Scene(1)
        outcome = Outcome(scene.world, keeps_lines=True)
        scenarios.load(run).play(scene)
    return outcome.lines


def remake(kind: str) -> None:
    """Write the file of one kind."""
    runs = [*map(str, NUMBERS), *scenarios.all_names()]
    with ProcessPoolExecutor() as pool:
        hashes = {run: hash_of(r, kind) for run, r in zip(runs, pool.map(play, runs), strict=True)}
    (VECTORS / f"{kind}.json").write_text(json.dumps(hashes, indent=0) + "\n")


if __name__ == "__main__":
    if not Path(pollen.__file__).is_relative_to(VECTORS.parents[1]):
        sys.exit(f"this is {pollen.__file__}, not the checkout: set PYTHONPATH=src")
    if sys.argv[1:2] == ["lines"] and len(sys.argv) == 3:
        print("\n".join(lines_of(sys.argv[2])))
    elif sys.argv[1:] in (["shape"], ["outcome"]):
        remake(sys.argv[1])
    else:
        sys.exit(__doc__)
