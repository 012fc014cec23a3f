"""The simulator itself: one seed, one run; pages that fit; a file that shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pollen.errors import PollenError
from pollen.sim import scenarios
from pollen.sim.show import drawing, page
from pollen.sim.verdict.trial import Trial, draw_trial, run_trial

ROOT = Path(__file__).parent.parent.parent
SCRIPT = "from pollen.sim.verdict.trial import run_trial as r; print(r(2).digest, r(7).digest)"


def test_one_seed_gives_one_trace_under_two_hash_seeds() -> None:
    """Nothing order-sensitive iterates a set, in no node and not in the simulator."""
    seen = set()
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True
        )
        seen.add(done.stdout)
    assert len(seen) == 1


def test_another_seed_is_another_run() -> None:
    """Else the hash would say nothing."""
    assert run_trial(2).digest != run_trial(3).digest


def test_a_page_fits_eighty_columns_and_says_how_to_see_it_again() -> None:
    """Also a failed one."""
    trial = Trial(draw_trial(4))
    report = trial.play()
    report.failures = ["some-invariant: " + "words " * 40]
    lines = page.page(report, trial.world.trace)
    assert max(map(len, lines)) <= 80
    assert lines[-1] == f"pln sim --seed 4 --nodes {report.draw.nodes}"


def test_the_picture_has_a_row_for_each_node() -> None:
    """Plain SVG in one piece."""
    trial = Trial(draw_trial(4))
    trial.play()
    picture = drawing.draw(trial.world.trace, "run 4")
    assert picture.startswith("<svg") and picture.rstrip().endswith("</svg>")
    for name in trial.world.machines:
        assert f'class="node">{name}</text>' in picture


def test_a_scenario_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    """And one that does not hold fails with its reason in words."""
    path = tmp_path / "mine.py"
    path.write_text('"""Mine."""\ndef play(scene):\n    scene.expect("the sky is green", False)\n')
    assert scenarios.play(str(path)).report.failures == ["mine: the sky is green"]


def test_a_scenario_that_is_not_there_is_a_usage_error() -> None:
    """The remedy lists those that are."""
    with pytest.raises(PollenError) as caught:
        scenarios.load("nowhere")
    assert caught.value.slug == "usage"
    assert "two_halves_publish_one_name" in caught.value.remedy
