"""``pln upgrade`` on real daemons, each in an environment of its own: there, and back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pollen import lock
from pollen.errors import PollenError
from pollen.paths import Paths
from pollen.sdk.client import connect
from pollen.testing import until
from tests import sshd, wheels
from tests.cli.conftest import Pln
from tests.e2e.conftest import example
from tests.sshd import Sshd
from tests.wheels import (
    NEW,
    Environment,
    environment,
    files_of_ours,
    mesh,
    repacked,
    runs,
    see_each_other,
)

pytestmark = pytest.mark.timeout(240)
OLD = "9.0.0"


@pytest.fixture(scope="module")
def store() -> Iterator[Path]:
    """A folder for wheels."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def old(store: Path) -> Path:
    return repacked(store, OLD)


@pytest.fixture(scope="module")
def new(store: Path) -> Path:
    return repacked(store, NEW)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as made:
        yield Path(made)


@pytest.fixture
def attic(folder: Path, old: Path) -> Iterator[Environment]:
    """A node on the old version, with a seed."""
    with environment(folder, old) as made:
        made.ok("seed", example("echo"), "echo")
        yield made


def test_a_node_is_upgraded_and_the_same_wheel_again_changes_nothing(
    attic: Environment, new: Path
) -> None:
    """The same seeds are ready on it; a dry run and an older wheel leave it alone."""
    before = lock.read_pid(Paths(attic.home))
    assert f"would upgrade attic from {OLD} to {NEW}" in attic.ok("upgrade", "--dry-run", str(new))
    assert lock.read_pid(Paths(attic.home)) == before and runs(attic) == OLD
    assert f"upgraded attic from {OLD} to {NEW}" in attic.ok("upgrade", str(new))
    after = lock.read_pid(Paths(attic.home))
    assert runs(attic) == NEW and after != before
    assert "nothing to do" in attic.ok("upgrade", str(new))
    assert lock.read_pid(Paths(attic.home)) == after


@pytest.mark.slow
def test_other_files_of_the_same_version_are_put_in_place(attic: Environment, store: Path) -> None:
    """The content counts, not the number alone; the metadata has one name then."""
    other = repacked(store, OLD, patch={"pollen/examples/new.txt": b"new\n"})
    assert f"upgraded attic from {OLD} to {OLD}" in attic.ok("upgrade", str(other))
    assert (attic.site / "pollen" / "examples" / "new.txt").exists()
    assert "nothing to do" in attic.ok("upgrade", str(other))
    assert runs(attic) == OLD


@pytest.mark.slow
def test_an_older_wheel_needs_a_word(attic: Environment, store: Path) -> None:
    older = repacked(store, "8.0.0")
    done = attic("upgrade", str(older))
    assert done.returncode == 2 and b"--allow-downgrade" in done.stderr
    assert runs(attic) == OLD
    attic.ok("upgrade", "--allow-downgrade", str(older))
    assert runs(attic) == "8.0.0"


def test_a_version_that_crashes_at_its_start_is_taken_back(attic: Environment, store: Path) -> None:
    """The node runs on the old one again, with the flags it had, and the reason is said."""
    done = attic("upgrade", str(repacked(store, "9.2.0", patch=wheels.CRASH)))
    said = done.stderr.decode()
    assert done.returncode == 1 and "[upgrade-failed]" in said
    assert "this version is broken" in said and f"the node runs on {OLD} again" in said
    assert runs(attic) == OLD


@pytest.mark.slow
def test_a_version_that_never_sees_its_neighbours_is_taken_back(
    folder: Path, old: Path, store: Path
) -> None:
    """Its daemon starts and answers, and speaks a protocol that nobody else does."""
    limits = files_of_ours()["pollen/core/limits.py"] + b"\nMINOR_MIN = MINOR_MAX = 99\n"
    alone = repacked(store, "9.3.0", patch={"pollen/core/limits.py": limits})
    with mesh(folder, old, ("attic", "barn"), example("echo")) as (attic, barn):
        done = barn("upgrade", "--patience", "20s", str(alone))
        said = done.stderr.decode()
        assert done.returncode == 1, said
        assert "it sees 0 of 1 neighbours that it had" in said and "[upgrade-failed]" in said
        assert runs(barn) == OLD
        see_each_other(attic, barn)


class Stream:
    """Calls one after another, a few at a time, through the door of a node that may change."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.answered: dict[Path, int] = {}
        self.failed: list[str] = []
        self._is_over = False

    async def run(self) -> None:
        """Until it is ended."""
        while not self._is_over:
            home = self.home
            async with connect(home) as mesh:
                while home == self.home and not self._is_over:
                    await asyncio.gather(*(self._one(mesh, home, n) for n in range(4)))

    async def _one(self, mesh: object, home: Path, number: int) -> None:
        try:
            text = f"call {number}"
            reply = await mesh.call("echo", "echo", text, idempotent=True)  # type: ignore[attr-defined]
            assert reply.text == text
            self.answered[home] = self.answered.get(home, 0) + 1
        except PollenError as error:
            self.failed.append(f"through {home.name}: {error.slug}: {error}")

    def end(self) -> None:
        self._is_over = True


async def test_no_call_fails_while_four_nodes_are_upgraded_one_by_one(
    folder: Path, old: Path, new: Path
) -> None:
    """Two versions are in one cluster meanwhile. Calls go through a node that is not the one."""
    with await asyncio.to_thread(stacked, folder, old) as (_, nodes):
        stream = Stream(nodes[3].home)
        running = asyncio.create_task(stream.run())
        for node in nodes:
            if node is nodes[3]:
                stream.home = nodes[0].home

                async def goes_there() -> bool:
                    return stream.answered.get(nodes[0].home, 0) > 20

                await until(goes_there, 30, "calls go through the other node")
            said = await asyncio.to_thread(node.ok, "upgrade", str(new))
            assert f"from {OLD} to {NEW}" in said
        stream.end()
        await running
        print(stream.answered)
        assert stream.failed == []
        assert len(stream.answered) == 2 and min(stream.answered.values()) > 100
        assert [await asyncio.to_thread(runs, node) for node in nodes] == [NEW] * 4


class stacked:  # noqa: N801 - a context manager
    """``mesh`` of four, entered in a thread and left at once."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self._mesh = mesh(folder, wheel, ("attic", "barn", "cellar", "den"), example("echo"))
        self._nodes = self._mesh.__enter__()

    def __enter__(self) -> tuple[None, list[Environment]]:
        return None, self._nodes

    def __exit__(self, *error: object) -> None:
        self._mesh.__exit__(None, None, None)


@dataclasses.dataclass(frozen=True)
class Moment:
    """When ``pln upgrade`` is killed: at a line that it prints; ``is_up``: once its node begins.

    ``crashes``: with a version that does. ``helps``: somebody starts the node afterwards.
    """

    line: str
    crashes: bool = False
    is_up: bool = False
    helps: bool = False


MOMENTS = [
    Moment(f"putting {NEW}"),
    Moment(f"starting {OLD}", crashes=True),
    *(
        pytest.param(moment, marks=pytest.mark.slow)
        for moment in (
            Moment("checked"),
            Moment("draining"),
            Moment("draining", helps=True),
            Moment(f"putting {NEW}", helps=True),
            Moment(f"starting {NEW}"),
            Moment(f"starting {NEW}", is_up=True),
            Moment(f"starting {NEW}", helps=True),
            Moment("going back", crashes=True),
            Moment(f"putting {OLD}", crashes=True),
            Moment(f"putting {OLD}", crashes=True, helps=True),
            Moment(f"starting {OLD}", crashes=True, is_up=True),
        )
    ),
]


def killed(held: Environment, wheel: Path, moment: Moment) -> None:
    """Begin an upgrade, and kill it at a moment."""
    process = subprocess.Popen(
        held.line("upgrade", str(wheel)),
        env={**held.environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    while (line := process.stdout.readline()) and not line.decode().startswith(moment.line):
        pass

    async def is_up() -> bool:
        return nodes_of(held) != []

    if moment.is_up:
        asyncio.run(until(is_up, 30, "the node's process is there"))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was over before"


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_killed_upgrade_is_finished_by_the_next(
    attic: Environment, store: Path, new: Path, moment: Moment
) -> None:
    """At each step, there and back: a working version is there, and a bare ``pln upgrade`` ends it
    and does nothing else."""
    bad = repacked(store, NEW, patch=wheels.CRASH) if moment.crashes else new
    killed(attic, bad, moment)
    assert attic.version in (OLD, NEW) or len(list(attic.site.glob("*.dist-info"))) == 2
    assert attic("version").returncode == 0, "whatever is there works"
    is_begun = moment.line != "checked"
    assert ("journal.json" in attic.leftovers()) == is_begun
    if moment.helps:
        attic("up", "-d")
    if is_begun:
        assert "is under way, or was cut off" in attic("doctor").stdout.decode()
        for path in (attic.site / ".pollen-upgrade" / "driver").rglob("*.py"):
            # As a power cut leaves what was not on the disk.
            os.truncate(path, 0)
        done = attic("upgrade", PIP_NO_INDEX="1")
        said = done.stdout.decode() + done.stderr.decode()
        assert "going on with an upgrade" in said
        assert (done.returncode, "[upgrade-failed]" in said) == (moment.crashes,) * 2, said
        assert runs(attic) == (OLD if moment.crashes else NEW)
    if not moment.crashes:
        attic.ok("upgrade", str(new))
        assert runs(attic) == NEW


@pytest.mark.slow
def test_a_version_that_pip_installed_after_a_kill_stays(attic: Environment, new: Path) -> None:
    """It is neither of the two of the journal, which is dropped."""
    named = new.parent / f"pollen_mesh-{NEW}-{wheels.tag_of(new)}.whl"
    os.link(new, named)
    killed(attic, new, Moment(f"starting {NEW}"))
    pip = [str(attic.python), "-P", "-m", "pip", "install", "--no-index", "--no-deps"]
    line = [*pip, "--force-reinstall", str(named)]
    subprocess.run(line, env=attic.environment, check=True, capture_output=True)
    named.unlink()
    done = attic("upgrade")
    assert b"somebody else changed the environment" in done.stdout and done.returncode == 2
    assert attic.leftovers() == []
    attic("up", "-d")
    assert "nothing to do" in attic.ok("upgrade", str(new)) and runs(attic) == NEW


@pytest.mark.slow
def test_an_upgrade_that_is_interrupted_goes_back(attic: Environment, new: Path) -> None:
    """Ctrl-C after the switch: the old version runs again, and it is said why."""
    process = subprocess.Popen(
        attic.line("upgrade", str(new)),
        env={**attic.environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    while line := process.stdout.readline():
        if line.startswith(b"starting"):
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and b"interrupted by SIGINT" in said, said
    assert runs(attic) == OLD


@pytest.mark.slow
def test_two_upgrades_do_not_meet(attic: Environment, new: Path) -> None:
    """The second one says who is at it, and the first one ends well."""
    process = subprocess.Popen(
        attic.line("upgrade", str(new)), env=attic.environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None

    async def has_lock() -> bool:
        path = attic.site / ".pollen-upgrade" / "lock"
        return path.exists() and path.read_text().strip() == str(process.pid)

    asyncio.run(until(has_lock, 30, "the first one has the lock"))
    done = attic("upgrade", str(new))
    assert done.returncode == 1 and b"[already-running]" in done.stderr
    assert str(process.pid).encode() in done.stderr
    process.communicate(timeout=120)
    assert process.returncode == 0 and runs(attic) == NEW


@pytest.mark.slow
def test_the_newest_wheel_of_the_index_is_taken(attic: Environment, new: Path) -> None:
    """Without a file, pip fetches it; here from a folder, which is an index to pip."""
    shelf = new.parent / "shelf"
    shelf.mkdir()
    named = shelf / f"pollen_mesh-{NEW}-{wheels.tag_of(new)}.whl"
    os.link(new, named)
    index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf)}
    assert f"to {NEW}" in attic.ok("upgrade", "--index", **index)
    assert runs(attic) == NEW
    named.unlink()
    done = attic("upgrade", "--index", **index)
    assert done.returncode == 2 and b"[wheel-invalid]" in done.stderr


@pytest.mark.slow
def test_a_version_that_hangs_at_its_start_is_taken_back(attic: Environment, store: Path) -> None:
    """It never says that it runs, so its process is found by its command line, and ended."""
    asleep = b"if __name__ == '__main__':\n    import threading\n    threading.Event().wait()\n"
    hangs = repacked(store, "9.4.0", patch={"pollen/runtime/__main__.py": asleep})
    said = attic("upgrade", str(hangs)).stderr.decode()
    assert "did not answer within 30 s" in said and f"the node runs on {OLD} again" in said
    assert runs(attic) == OLD
    assert nodes_of(attic) == [lock.read_pid(Paths(attic.home))]


def nodes_of(held: Environment) -> list[int]:
    """The processes that were started as a folder's node."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if "pollen.runtime" in line and str(held.home) in line:
                found.append(process.pid)
    return found


@pytest.mark.slow
def test_whoever_asked_may_go_away(attic: Environment, new: Path) -> None:
    """As when ssh breaks: nobody reads what is said, and the terminal hangs up."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        attic.line("upgrade", str(new)), env=attic.environment, stdout=writer, stderr=writer
    )
    os.close(writer)
    with os.fdopen(reader) as heard:
        while not heard.readline().startswith("draining"):
            pass
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0
    assert runs(attic) == NEW


@pytest.fixture
def desk(folder: Path, old: Path) -> Iterator[tuple[Pln, list[Environment]]]:
    """A desk with a context for each of two machines, which it reaches by ssh."""
    sshd.need()
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(mesh(folder, old, ("attic", "barn"), example("echo")))
        (folder / "desk").mkdir()
        made = Pln(folder / "desk")
        del made.environment["PLN_DIR"]
        config = []
        for node in nodes:
            name = node.home.name
            server = Sshd(folder / f"ssh-{name}", {"PLN_DIR": str(node.home)})
            (server.tools / "pln").unlink()
            (server.tools / "pln").symlink_to(node.folder / "bin" / "pln")
            server.trust()
            server.start()
            stack.callback(server.stop)
            place = f"Host {name}\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n"
            key = f" IdentityFile {server.folder / 'user_key'}\n IdentitiesOnly yes\n"
            config.append(f"{place}{key} UserKnownHostsFile {server.known_hosts}\n")
        (folder / "config").write_text("".join(config))
        made.environment["PLN_SSH"] = f"ssh -F {folder / 'config'}"
        made.environment.pop("XDG_CONFIG_HOME", None)
        for node in nodes:
            made.ok("context", "add", node.home.name, f"ssh://{node.home.name}")
        yield made, nodes


@pytest.mark.slow
def test_all_contexts_are_upgraded_one_by_one(
    desk: tuple[Pln, list[Environment]], new: Path
) -> None:
    """A dry run changes nothing; a second run passes over those that are done."""
    pln, nodes = desk
    assert "could be upgraded: attic, barn" in pln.ok("upgrade", "--all", "--dry-run", str(new))
    assert [runs(node) for node in nodes] == [OLD, OLD]
    pln.ok("context", "use", "barn")
    done = pln("upgrade", "--all", str(new))
    said = done.stdout.decode()
    assert done.returncode == 0 and done.stderr == b"", "no context in use is meant"
    assert said.index("upgraded attic") < said.index("barn: ssh") < said.index("upgraded barn")
    assert [runs(node) for node in nodes] == [NEW, NEW]
    assert pln.ok("upgrade", "--all", str(new)).count("nothing to do") == 2


def test_the_first_that_fails_ends_it_for_all(
    desk: tuple[Pln, list[Environment]], store: Path
) -> None:
    """It says who is upgraded and who is not; the others go on as they are."""
    pln, (attic, barn) = desk
    done = pln("upgrade", "--all", str(repacked(store, "9.2.0", patch=wheels.CRASH)))
    said = done.stderr.decode()
    assert done.returncode == 1 and "this version is broken" in said
    assert "attic failed" in said and "not begun: barn" in said
    assert runs(attic) == OLD and barn.version == OLD


@pytest.mark.slow
def test_a_later_one_that_fails_ends_it_too_and_can_be_made_up_for(
    desk: tuple[Pln, list[Environment]], new: Path
) -> None:
    """It says who is upgraded by then. The last one is upgraded alone, once it is up again."""
    pln, (attic, barn) = desk
    barn.ok("down")
    said = pln("upgrade", "--all", str(new)).stderr.decode()
    assert "[daemon-not-running]" in said and "barn failed" in said and "upgraded: attic" in said
    assert runs(attic) == NEW and barn.version == OLD
    barn.ok("up", "-d")
    done = pln("-H", "barn", "upgrade", str(new))
    assert (done.returncode, done.stderr) == (0, b"on barn\n") and runs(barn) == NEW


@pytest.mark.slow
def test_what_only_a_newer_node_knows_is_kept_by_an_older_one(
    folder: Path, store: Path, new: Path
) -> None:
    """The old version has never heard of what admins do ("act"). It keeps these records, and reads
    them once it is upgraded, without anybody else there."""
    kinds = files_of_ours()["pollen/core/kinds.py"]
    deaf = kinds.replace(b'ACT = "act"', b'ACT = "unheard"')
    assert deaf != kinds
    unknowing = repacked(store, "8.9.0", patch={"pollen/core/kinds.py": deaf})
    with mesh(folder, unknowing, ("attic", "barn"), example("echo")) as (attic, barn):
        attic.ok("upgrade", str(new))
        see_each_other(attic, barn)
        attic.ok("grant", "barn", "--prop", "zone=home")

        async def has_come() -> bool:
            return "home" in barn.ok("props", "barn")

        asyncio.run(until(has_come, 30, "barn has what attic wrote"))
        assert "zone" in attic.ok("audit") and "zone" not in barn.ok("audit")
        attic.ok("down")
        barn.ok("upgrade", str(new))
        assert "zone" in barn.ok("audit")
