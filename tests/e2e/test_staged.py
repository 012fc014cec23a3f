"""Failures that are staged for real: ``pln doctor`` or ``pln why`` names the cause and a command.

Each row of ``STAGED`` is one: what is looked at, the cause that must be told, the command that must
stand there. The command is run as it stands, by the user who read it, and then the cause is gone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from pollen import lock
from pollen.paths import Paths
from tests.cli.conftest import Pln, mount_small
from tests.e2e.conftest import example

pytestmark = pytest.mark.timeout(120)

# A suspicion, a spread of records, a load: how long a cure may take to be seen.
CURED_WITHIN = 30.0


class Town:
    """Machines of one user: a folder each, started and joined by ``pln`` alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machines: dict[str, Pln] = {}

    def __getitem__(self, name: str) -> Pln:
        """The machine of this name; it is new when it is asked for first."""
        if name not in self.machines:
            home = self.folder / name
            home.mkdir(mode=0o700)
            self.machines[name] = Pln(home)
            self.machines[name].ok("set", "listen", "127.0.0.1:0")
            self.machines[name].ok("set", "memory_bytes", "512MiB")
        return self.machines[name]

    def up(self, name: str) -> Pln:
        """That machine with a cluster of its own."""
        self[name].ok("init", "--name", name)
        self[name].ok("up", "-d")
        return self[name]

    def join(self, name: str, *options: str, host: str = "attic") -> Pln:
        """That machine as a member of the cluster of ``host``."""
        token = self[host].ok("invite", *options).strip()
        self[name].ok("join", "--name", name, token)
        return self[name]

    def close(self) -> None:
        """End what runs."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda machine: machine("down", "--force"), self.machines.values()))


@dataclass(frozen=True)
class Staged:
    """One failure. ``stage`` makes it and yields the machine on which a person looks; ``cause`` and
    ``cure`` are patterns; ``heal`` runs the cure found (its group, if it has one) and returns the
    machine on which to look again when it is another one."""

    stage: Callable[[Town], contextlib.AbstractContextManager[Pln]]
    look: str
    cause: str
    cure: str
    heal: Callable[[Town, Pln, str], Pln | None]

    def __str__(self) -> str:
        return self.stage.__name__.replace("_", " ")


def shell(machine: Pln, script: str) -> str:
    """Run a line in a shell in which ``pln`` is this machine's."""
    pln = f'pln() {{ {shlex.join(machine.line())} "$@"; }}\n'
    line = ["bash", "-euc", pln + script]
    done = subprocess.run(line, env=machine.environment, capture_output=True, check=False)
    assert done.returncode == 0, f"{script}: {done.stderr.decode()}"
    return done.stdout.decode()


def here(town: Town, machine: Pln, cure: str) -> None:
    """The command runs where it was read."""
    shell(machine, cure)


def pid_of(machine: Pln) -> int:
    pid = lock.read_pid(Paths(machine.home))
    assert pid is not None
    return pid


# -- the machine and its folder -------------------------------------------------------------------


@contextlib.contextmanager
def a_node_that_was_not_started(town: Town) -> Iterator[Pln]:
    town["alone"].ok("init")
    yield town["alone"]


@contextlib.contextmanager
def a_pid_file_that_is_stale(town: Town) -> Iterator[Pln]:
    alone = town.up("alone")
    os.kill(pid_of(alone), signal.SIGKILL)
    yield alone


@contextlib.contextmanager
def a_port_that_is_taken(town: Town) -> Iterator[Pln]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        town["alone"].ok("set", "listen", f"127.0.0.1:{taken.getsockname()[1]}")
        yield town["alone"]
        town["alone"].ok("up", "-d")


@contextlib.contextmanager
def a_store_that_is_damaged(town: Town) -> Iterator[Pln]:
    alone = town.up("alone")
    alone.ok("down")
    noise = os.urandom(9_999)
    (alone.home / "state.db").write_bytes(noise)
    yield alone
    assert lock.read_pid(Paths(alone.home)) is not None


def purge_and_join(town: Town, machine: Pln, cure: str) -> None:
    """With no copy; the token is of a cluster that lives."""
    node = machine.ok("id")
    purge, join = re.fullmatch(r"(pln purge --yes), then (pln join) TOKEN", cure).groups()  # type: ignore[union-attr]
    shell(machine, f"{purge}\n{join} {town['attic'].ok('invite').strip()}")
    assert machine.ok("id") == node


@contextlib.contextmanager
def a_disk_that_is_full(town: Town) -> Iterator[Pln]:
    home = town.folder / "small"
    home.mkdir(mode=0o700)
    mount_small(home, 160)
    try:
        home.chmod(0o700)
        small = town.machines["small"] = Pln(home)
        small.ok("init")
        (home / "films").mkdir()
        (home / "films" / "long.mkv").write_bytes(b"0" * (120 << 20))
        yield small
    finally:
        subprocess.run(["umount", "-l", home], check=True)
        del town.machines["small"]


def remove_the_largest(town: Town, machine: Pln, cure: str) -> None:
    """The command shows what takes the room; which of it may go is the user's to say."""
    sizes = [line.split("\t")[1] for line in shell(machine, cure).splitlines()]
    assert str(machine.home / "films") in sizes
    shutil.rmtree(machine.home / "films")


@contextlib.contextmanager
def a_folder_that_others_can_read(town: Town) -> Iterator[Pln]:
    town["alone"].home.chmod(0o755)
    yield town["alone"]


@contextlib.contextmanager
def a_key_that_others_can_read(town: Town) -> Iterator[Pln]:
    town["alone"].ok("init")
    (town["alone"].home / "root.key").chmod(0o644)
    yield town["alone"]


@contextlib.contextmanager
def a_membership_that_ended(town: Town) -> Iterator[Pln]:
    yield town.join("guest", "--expire-after", "3s")


def invite_and_join_again(town: Town, machine: Pln, cure: str) -> None:
    """The first command on an admin's machine, the others here."""
    invite, down, join = re.fullmatch(
        r"(pln invite); then here: (pln down), (pln join) TOKEN", cure
    ).groups()  # type: ignore[union-attr]
    token = shell(town["attic"], invite).strip()
    shell(machine, f"{down}\n{join} {token}")


# -- the cluster ----------------------------------------------------------------------------------


@contextlib.contextmanager
def a_node_that_is_offline(town: Town) -> Iterator[Pln]:
    os.kill(pid_of(town["shed"]), signal.SIGKILL)
    yield town["attic"]


def there(town: Town, machine: Pln, cure: str) -> None:
    """The command is for the machine that the cause names."""
    shell(town["shed"], cure)


@contextlib.contextmanager
def a_seed_that_no_node_may_host(town: Town) -> Iterator[Pln]:
    town["attic"].ok("seed", example("echo"), "picky", "--host-prop", "gpu=yes")
    yield town["attic"]
    assert town["attic"].ok("call", "picky", "echo", "hi") == "hi"


def invite_one_more(town: Town, machine: Pln, cure: str) -> Pln:
    """The token is for another machine, and there one looks again."""
    invite, join = re.fullmatch(r"(pln invite .*), then there: (pln join) TOKEN", cure).groups()  # type: ignore[union-attr]
    token = shell(machine, invite).strip()
    newest = f"new{len(town.machines)}"
    shell(town[newest], f"{join} --name {newest} {token}")
    return town[newest]


@contextlib.contextmanager
def a_caller_without_the_property_of_a_gate(town: Town) -> Iterator[Pln]:
    attic = town["attic"]
    attic.ok("seed", example("echo"), "vault", "--allow-prop", "team=red")
    yield attic
    assert attic("call", "vault", "echo", "open").returncode == 4


@contextlib.contextmanager
def a_version_that_is_halted_after_traps(town: Town) -> Iterator[Pln]:
    attic, work = town["attic"], town.folder / "work.wasm"
    shutil.copy(example("journal"), work)
    attic.ok("seed", str(work))
    attic.ok("seed", str(work), "--config", "broken=yes")
    until = time.monotonic() + CURED_WITHIN
    while "is halted" not in attic.ok("why", "place", "work"):
        assert time.monotonic() < until, attic.ok("why", "place", "work")
        attic("call", "work", "journal", "x")
    yield attic


def publish_mended(town: Town, machine: Pln, cure: str) -> None:
    shell(machine, cure.replace("FILE", str(town.folder / "work.wasm")))


@contextlib.contextmanager
def a_seed_too_large_for_every_node(town: Town) -> Iterator[Pln]:
    town["attic"].ok("seed", example("echo"), "huge", "--memory", "900MiB")
    yield town["attic"]


def publish_smaller(town: Town, machine: Pln, cure: str) -> None:
    shell(machine, cure.replace("FILE", example("echo")).replace("SIZE", "64MiB"))


STAGED = (
    Staged(
        a_node_that_was_not_started,
        "doctor",
        cause="the node is down",
        cure=r"pln up -d",
        heal=here,
    ),
    Staged(
        a_pid_file_that_is_stale,
        "doctor",
        cause="the last daemon did not end in order",
        cure=r"pln up -d",
        heal=here,
    ),
    Staged(
        a_port_that_is_taken,
        "doctor",
        cause="cannot be bound: Address already in use",
        cure=r"pln set listen 127\.0\.0\.1:\d+",
        heal=here,
    ),
    Staged(
        a_store_that_is_damaged,
        "doctor",
        cause="state.db is damaged: file is not a database",
        cure=r"pln purge --yes, then pln join TOKEN",
        heal=purge_and_join,
    ),
    Staged(
        a_disk_that_is_full,
        "doctor",
        cause=r"failure  disk +[\d.]+ [KM]?i?B free",
        cure=r"du -xk .* \| sort -n \| tail",
        heal=remove_the_largest,
    ),
    Staged(
        a_folder_that_others_can_read,
        "doctor",
        cause="is open to other users",
        cure=r"chmod 700 \S+",
        heal=here,
    ),
    Staged(
        a_key_that_others_can_read,
        "doctor",
        cause=r"root\.key is open to other users",
        cure=r"chmod 600 \S+",
        heal=here,
    ),
    Staged(
        a_membership_that_ended,
        "doctor",
        cause="this node's membership has ended",
        cure=r"pln invite; then here: pln down, pln join TOKEN",
        heal=invite_and_join_again,
    ),
    Staged(
        a_node_that_is_offline,
        "doctor",
        cause="node shed is offline",
        cure=r"node shed is offline\s+there: (pln up -d)",
        heal=there,
    ),
    Staged(
        a_seed_that_no_node_may_host,
        "why place picky",
        cause="0 of . live nodes may host it",
        cure=r"pln invite --prop gpu=yes, then there: pln join TOKEN",
        heal=invite_one_more,
    ),
    Staged(
        a_caller_without_the_property_of_a_gate,
        "why call vault",
        cause="this node may not call it: it lacks team=red",
        cure=r"pln invite --prop team=red, then there: pln join TOKEN",
        heal=invite_one_more,
    ),
    Staged(
        a_version_that_is_halted_after_traps,
        "why place work",
        cause=r"the newest version \w{8} is halted",
        cure=r"pln seed FILE work",
        heal=publish_mended,
    ),
    Staged(
        a_seed_too_large_for_every_node,
        "why place huge",
        cause="no room: needs 900 MiB",
        cure=r"pln seed FILE huge --memory SIZE",
        heal=publish_smaller,
    ),
)


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """A cluster of two, whose guests have 512 MiB each."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        made = Town(Path(folder))
        try:
            made.up("attic")
            made.join("shed", "--publisher")
            yield made
        finally:
            made.close()


@pytest.fixture
def fresh(town: Town) -> Iterator[Town]:
    """The town; the machine ``alone`` is a new one."""
    yield town
    if alone := town.machines.pop("alone", None):
        alone("down", "--force")
        shutil.rmtree(alone.home)


def told(machine: Pln, look: str) -> str:
    """What a person reads; a doctor that found a failure ends with 1."""
    done = machine(*look.split())
    assert done.returncode in (0, 1), done.stderr.decode()
    return done.stdout.decode()


def awaited(machine: Pln, look: str, is_so: Callable[[str], bool]) -> str:
    """What is told once it is so; fails with what was told last."""
    until = time.monotonic() + CURED_WITHIN
    text = told(machine, look)
    while not is_so(text):
        assert time.monotonic() < until, f"pln {look}:\n{text}"
        text = told(machine, look)
    return text


@pytest.mark.parametrize("staged", STAGED, ids=str)
def test_a_failure_is_told_with_its_cause_and_cured_by_the_command(
    fresh: Town, staged: Staged
) -> None:
    with staged.stage(fresh) as machine:
        text = awaited(machine, staged.look, lambda text: bool(re.search(staged.cause, text)))
        cures = re.findall(staged.cure, text)
        assert len(cures) == 1, text
        cured = staged.heal(fresh, machine, cures[0]) or machine
        awaited(cured, staged.look, lambda text: not re.search(staged.cause, text))


def test_there_are_twelve_of_them() -> None:
    """Done-when 8: each another cause."""
    assert len({staged.cause for staged in STAGED}) >= 12
