"""``pln bootstrap ssh`` is killed at any moment, and the next run completes what it began."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_bootstrap import GONE, errors_of
from tests.machines import Park, fetch_wheels, park

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 10
# Seconds until a run is killed: two machines take about 15 from nothing.
TWO_AFTER = 3.0, 14.0
# How many marks more the machines have when a run is killed, and seconds after that. So the kills
# fall on the whole way, whatever the speed of this machine: ten machines have 50 marks in the end.
MARKS_MORE = 9
TEN_AFTER = 0.0, 3.0
RUN_WITHIN = 240.0
# What a step is made of there, but for the listener: it dies as with its session.
STEPS = "pkill -9 -f '[v]env|[p]ip|[n]otty' || true"
WIPE = f"{GONE}; rm -rf /root/.pln /opt/pollen /usr/local/bin/pln*"
# What a machine has on the way from nothing to a member that runs, in this order.
MARKS = (
    "opt/pollen",
    "opt/pollen/current",
    "root/.pln/node.key",
    "root/.pln/member",
    "root/.pln/control.sock",
)


@pytest.fixture(scope="module")
def wheels() -> Iterator[Path]:
    """What the machines need, fetched once."""
    with tempfile.TemporaryDirectory(prefix="pln-") as folder:
        fetch_wheels(Path(folder) / "wheels")
        yield Path(folder) / "wheels"


@pytest.fixture
def rng() -> random.Random:
    """The moments of the kills. ``POLLEN_KILL_SEED`` repeats those of a run that failed."""
    seed = int(os.environ.get("POLLEN_KILL_SEED") or random.randrange(1 << 32))
    print(f"POLLEN_KILL_SEED={seed}")
    return random.Random(seed)


def killed(made: Park, until: int, seconds: float, *arguments: str) -> bool:
    """Start a run, and kill it with all of its processes so long after the machines have so many
    marks; whether it still ran."""
    line = made.line("bootstrap", "ssh", *arguments, "--wheels", str(made.wheels))
    run = subprocess.Popen(
        line,
        env=made.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + RUN_WITHIN
    try:
        while run.poll() is None and marks(made) < until:
            assert time.monotonic() < end, "the run neither goes on nor ends"
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(timeout=0.02)
        run.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    return False


def marks(made: Park) -> int:
    """How far the machines are, together."""
    return sum(os.path.lexists(m.folder / mark) for m in made.machines for mark in MARKS)


def test_a_run_that_is_killed_anywhere_is_completed_by_the_next_one(
    wheels: Path, rng: random.Random
) -> None:
    """Ten kills of the desk's processes and of the machine's, each at a random moment of machines
    that began with nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="pln-") as folder,
        park(Path(folder), 2, wheels) as two,
    ):
        hosts = [f"root@{machine.address}" for machine in two.machines]
        for index in range(KILLS):
            line = [f"r{index}-{at}={host}" for at, host in enumerate(hosts)]
            killed(two, 0, rng.uniform(*TWO_AFTER), *line)
            print(f"round {index}: {marks(two)}")
            if index % 2:
                for machine in two.machines:
                    machine.run(STEPS)
            code, told, _ = two.bootstrap(*line)
            assert code == 0, errors_of(told)
            assert list(two.members().values()).count("online") >= len(hosts)
            # Each round begins with machines that have nothing; a name is for one key.
            for machine in two.machines:
                machine.run(WIPE)


def test_ten_machines_are_members_in_the_end_however_often_the_run_is_killed(
    wheels: Path, rng: random.Random
) -> None:
    """Each run goes on where the one before it was killed, in every second round with what it had
    started over there; the last one is let through, leaves nothing half-done, and finds nothing to
    do the next time."""
    with (
        tempfile.TemporaryDirectory(prefix="pln-") as folder,
        park(Path(folder), 10, wheels) as made,
    ):
        kills, begun = 0, 0
        while kills < KILLS:
            line = [f"t{begun}-{m.space}=root@{m.address}" for m in made.machines]
            until = marks(made) + rng.randint(0, MARKS_MORE)
            if not killed(made, until, rng.uniform(*TEN_AFTER), *line):
                # All ten were done before: they begin with nothing again.
                begun += 1
                for machine in made.machines:
                    machine.run(WIPE)
                continue
            kills += 1
            print(f"kill {kills} of way {begun}: {marks(made)} of {10 * len(MARKS)} marks")
            if kills % 2:
                for machine in made.machines:
                    machine.run(STEPS)
        code, told, _ = made.bootstrap(*line)
        assert code == 0, errors_of(told)
        assert marks(made) == 10 * len(MARKS)
        names = {word.partition("=")[0] for word in line}
        members = made.members()
        assert {name for name in names if members.get(name) == "online"} == names
        code, told, _ = made.bootstrap(*line)
        assert code == 0 and [held["steps"] for held in told] == [[]] * 10
        for machine in made.machines:
            left = {path.name for path in (machine.folder / "opt/pollen").iterdir()}
            assert len(left - {"current", "lock"}) == 1, "nothing half-done is left"
