"""``pln upgrade`` refused: each bad wheel, environment and moment has its own words."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pollen import lock
from pollen.errors import SLUGS
from pollen.paths import Paths
from pollen.runtime.upgrade.site import Journal, Site, Version
from pollen.runtime.upgrade.steps import Before
from pollen.testing import until
from tests.cli.badwheels import (
    cut,
    of_another_machine,
    of_another_python,
    of_somebody_else,
    that_cannot_be_imported,
    that_lies,
    with_another_file,
)
from tests.cli.conftest import EXAMPLES, SYSTEMCTL, Done, Host, Pln, mount_small
from tests.wheels import CRASH, NEW, Environment, environment, repacked

pytestmark = pytest.mark.timeout(120)
OLD = "9.0.0"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as made:
        (Path(made) / "wheels").mkdir()
        yield Path(made)


@pytest.fixture(scope="module")
def store(folder: Path) -> Path:
    return folder / "wheels"


@pytest.fixture(scope="module")
def new(store: Path) -> Path:
    return repacked(store, NEW)


@pytest.fixture(scope="module")
def attic(folder: Path, store: Path) -> Iterator[Environment]:
    """A node on the old version."""
    with environment(folder, repacked(store, OLD)) as made:
        yield made


@pytest.fixture
def same(attic: Environment) -> Iterator[None]:
    """The same process runs the same version at the end, and nothing was left."""
    before = lock.read_pid(Paths(attic.home))
    yield
    assert lock.read_pid(Paths(attic.home)) == before is not None
    assert (attic.version, attic.leftovers()) == (OLD, [])


def fails(done: Done, slug: str) -> str:
    said = done.stderr.decode()
    assert done.returncode == SLUGS[slug].exit_code, done.stdout.decode() + said
    assert f"[{slug}]" in said and "Traceback" not in said
    return said


@pytest.mark.usefixtures("same")
@pytest.mark.parametrize(
    ("made", "said"),
    [
        (cut, "not a whole zip file"),
        (of_another_machine, "for another machine: cp311-abi3-macosx_11_0_arm64"),
        (of_another_python, "for another Python: cp39-cp39-any"),
        (of_somebody_else, "is a wheel of other, not of pollen-mesh"),
        (with_another_file, "not a whole zip file"),
        (that_cannot_be_imported, "cannot be imported"),
        (that_lies, "cannot be imported: it ended with 3"),
        (lambda _: EXAMPLES / "echo.wasm", "not a whole zip file"),
        (lambda store: store, "cannot be read: Is a directory"),
        (lambda store: store / "none.whl", "cannot be read: No such file"),
    ],
)
def test_a_bad_wheel_is_refused(
    attic: Environment, store: Path, made: Callable[[Path], Path], said: str
) -> None:
    """Before the node is touched; a dry run says the same."""
    path = made(store)
    for line in (("upgrade", str(path)), ("upgrade", "--dry-run", str(path))):
        assert said in fails(attic(*line), "wheel-invalid")


@pytest.mark.usefixtures("same")
def test_standard_input_may_be_the_wheel_and_may_be_nothing(attic: Environment, new: Path) -> None:
    assert "not a whole zip file" in fails(attic("upgrade", "-", stdin=b""), "wheel-invalid")
    done = attic("upgrade", "--dry-run", "-", stdin=new.read_bytes())
    assert done.returncode == 0 and f"to {NEW}" in done.stdout.decode()


@pytest.mark.usefixtures("same")
def test_without_a_file_and_without_pip_a_file_is_asked_for(
    attic: Environment, folder: Path
) -> None:
    """The environment has no pip of its own; what it sees of others' is hidden here."""
    hidden = folder / "hidden"
    hidden.mkdir()
    (hidden / "pip.py").write_text("raise SystemExit('No module named pip')\n")
    said = fails(attic("upgrade", "--index", PYTHONPATH=str(hidden)), "usage")
    assert "has no pip" in said and "pln upgrade FILE.whl" in said


@pytest.mark.usefixtures("same")
def test_an_index_that_has_nothing_is_told_in_the_words_of_pip(attic: Environment) -> None:
    said = fails(attic("upgrade", "--index", PIP_NO_INDEX="1"), "wheel-invalid")
    assert "pip fetched no wheel of pollen-mesh" in said


@pytest.mark.usefixtures("same")
def test_nothing_is_fetched_unless_that_is_said(attic: Environment, new: Path) -> None:
    """A bare ``pln upgrade`` goes on with what was cut off, and with nothing else."""
    said = fails(attic("upgrade", PIP_NO_INDEX="1"), "usage")
    assert "no wheel is named" in said and "pln upgrade --index" in said
    assert "leave one of them out" in fails(attic("upgrade", "--index", str(new)), "usage")


@pytest.mark.usefixtures("same")
def test_a_slow_sender_keeps_nobody_else_out(attic: Environment, new: Path) -> None:
    """The wheel is here before the environment is locked."""
    line, pipe = attic.line("upgrade", "--dry-run", "-"), subprocess.PIPE
    with subprocess.Popen(line, env=attic.environment, stdin=pipe, stderr=pipe) as slow:
        assert slow.stdin is not None and slow.stderr is not None
        raw = new.read_bytes()
        # More than a pipe holds, so it is being read by then.
        slow.stdin.write(raw[: 1 << 20])
        slow.stdin.flush()
        assert f"to {NEW}" in attic.ok("upgrade", "--dry-run", str(new))
        slow.kill()


@pytest.mark.usefixtures("same")
def test_what_lies_in_the_current_folder_is_not_run(
    attic: Environment, folder: Path, new: Path
) -> None:
    """Python puts it before its own modules, unless it is told not to."""
    trap = folder / "trap"
    trap.mkdir()
    for name in ("pip.py", "psutil.py", "msgspec.py"):
        (trap / name).write_text(f"open({str(folder / 'sprung')!r}, 'w')\nraise SystemExit(9)\n")
    line = [str(attic.python), "-P", *attic.line("upgrade", "--index")[1:]]
    env = {**attic.environment, "PIP_NO_INDEX": "1"}
    done = subprocess.run(line, cwd=trap, env=env, capture_output=True, check=False)
    assert "pip fetched no wheel" in fails(done, "wheel-invalid")
    assert not (folder / "sprung").exists()


def test_a_node_is_started_without_what_lies_in_the_current_folder(
    attic: Environment, folder: Path, tmp_path: Path
) -> None:
    home = folder / "trapped"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('listen = ["127.0.0.1:0"]\n')
    (tmp_path / "psutil.py").write_text("raise SystemExit('sprung')\n")
    line = [str(attic.python), "-P", *attic.line("--dir", str(home), "up", "-d")[1:]]
    env = attic.environment
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, check=False)
    try:
        assert done.returncode == 0, done.stderr
    finally:
        attic("--dir", str(home), "down")


@pytest.mark.usefixtures("same")
def test_no_node_is_no_upgrade(attic: Environment, folder: Path, new: Path) -> None:
    said = fails(attic("--dir", str(folder / "nobody"), "upgrade", str(new)), "daemon-not-running")
    assert "pln --dir" in said and "up -d" in said


@pytest.mark.usefixtures("same")
def test_a_second_node_of_the_environment_forbids_it(
    attic: Environment, folder: Path, new: Path
) -> None:
    """It would meet new files while old ones are in its memory."""
    home = folder / "barn"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('listen = ["127.0.0.1:0"]\n')
    # Another name of the same interpreter is no other environment.
    line = [f"{attic.python}3", *attic.line("--dir", str(home), "up", "-d")[1:]]
    subprocess.run(line, env=attic.environment, check=True, capture_output=True)
    pid = lock.read_pid(Paths(home))
    try:
        for options in ([], ["--dry-run"]):
            said = fails(attic("upgrade", str(new), *options), "usage")
            node = f"that of {home} with pid {pid}"
            assert f"another node runs from this environment: {node}" in said
            assert f"end it first: pln --dir {home} down\n" in said
    finally:
        attic.ok("--dir", str(home), "down")


@pytest.mark.usefixtures("same")
def test_a_node_of_another_environment_is_left_to_its_own(
    attic: Environment, folder: Path, new: Path, store: Path
) -> None:
    """The remedy has the command that is meant."""
    home = folder / "cellar"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('listen = ["127.0.0.1:0"]\n')
    other = Environment(folder / "env-other", repacked(store, OLD), home)
    try:
        other.ok("up", "-d")
        said = fails(attic("--dir", str(home), "upgrade", str(new)), "usage")
        assert f"{other.python} -P -m pollen.cli --dir {home} upgrade FILE.whl" in said
    finally:
        other.end()


@pytest.mark.usefixtures("same")
def test_a_full_disk_is_told_before_anything_is_changed(
    attic: Environment, folder: Path, new: Path, store: Path
) -> None:
    small = folder / "small"
    small.mkdir()
    mount_small(small, 130)
    made = None
    try:
        with environment(small, repacked(store, OLD), "den") as made:
            pid = lock.read_pid(Paths(made.home))
            # 40 MB of the package are in it; 38 MB more would fit, with no room to work.
            (small / "ballast").write_bytes(b"\0" * (30 << 20))
            said = fails(made("upgrade", str(new)), "state-unusable")
            assert "No space left" in said and "MiB free at" in said
            assert made.leftovers() == [] and made.version == OLD
            assert lock.read_pid(Paths(made.home)) == pid
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.usefixtures("same")
def test_an_environment_that_is_read_only_is_told(attic: Environment, new: Path) -> None:
    """Seen by a command whose environment is mounted so, for nobody else."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    fence = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(attic.folder), str(attic.folder)]
    line = [*fence, *attic.line("upgrade", str(new))]
    done = subprocess.run(line, env=attic.environment, capture_output=True, check=False)
    said = fails(done, "state-unusable")
    assert "cannot be changed: its file system is read-only" in said


@pytest.mark.usefixtures("same")
def test_an_environment_of_somebody_else_is_told(attic: Environment, new: Path) -> None:
    if os.geteuid() != 0 or shutil.which("bwrap") is None:
        pytest.skip("needs root, which becomes an ordinary user here")
    drop = ["--unshare-user", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
    fence = ["bwrap", "--dev-bind", "/", "/", *drop]
    attic.site.chmod(0o555)
    try:
        line = [*fence, *attic.line("upgrade", str(new))]
        done = subprocess.run(line, env=attic.environment, capture_output=True, check=False)
    finally:
        attic.site.chmod(0o755)
    said = fails(done, "state-unusable")
    assert "it is not yours" in said and "sudo" in said


@pytest.mark.usefixtures("same")
def test_root_does_not_go_on_in_the_folder_of_a_user(attic: Environment, folder: Path) -> None:
    """The node could not be started, and the journal would be gone. The owner can still go on."""
    if os.geteuid() != 0:
        pytest.skip("needs root, who gives the folder away")
    home = folder / "stranger"
    home.mkdir(mode=0o700)
    os.chown(home, 4711, 4711)
    site = Site(attic.site)
    old = site.installed()
    site.work.mkdir(exist_ok=True)
    before = Before(node="a", cluster="c")
    new = Version(version=NEW, content="x", info="x", inode=0)
    site.write_journal(Journal(home=str(home), old=old, new=new, before=before, patience=1.0))
    try:
        assert "belongs to user id 4711" in fails(attic("upgrade"), "state-unusable")
        assert attic.leftovers() == ["journal.json"]
    finally:
        site.remove_journal()


def test_a_checkout_is_not_upgraded(pln: Pln, new: Path) -> None:
    """It did not come as a wheel, so there is nothing that a wheel could take the place of."""
    source = Path(__file__).parents[2] / "src"
    said = fails(pln("upgrade", str(new), PYTHONPATH=str(source)), "usage")
    assert f"the Pollen in {source} was not installed from a wheel" in said
    assert not (source / ".pollen-upgrade").exists()


def test_all_needs_contexts_and_no_other_machine(pln: Pln, new: Path) -> None:
    assert "pln context add" in fails(pln("upgrade", "--all", str(new)), "usage")
    assert "have no place" in fails(pln("-H", "lab.example", "upgrade", "--all"), "usage")


@pytest.fixture
def fleet(pln: Pln, tmp_path: Path) -> Pln:
    """Two contexts, and an ssh that keeps what it is sent. It takes the wheel away behind the first
    one, and is interrupted at a third, if there is one."""
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f"#!/bin/sh\nexec 2>&1\n"
        f'case "$*" in *attic*) to=attic;; *barn*) to=barn;;\n'
        f"*) kill -INT $PPID; while kill -0 $PPID; do sleep .05; done; exit 1;; esac\n"
        f"cat > {tmp_path}/$to.got\nrm -f {tmp_path}/new.whl\n"
    )
    ssh.chmod(0o755)
    pln.environment["PLN_SSH"] = str(ssh)
    for name in ("attic", "barn"):
        pln.ok("context", "add", name, f"ssh://{name}")
    (tmp_path / "new.whl").write_bytes(b"a wheel")
    return pln


def test_all_nodes_get_the_same_wheel(fleet: Pln, tmp_path: Path) -> None:
    """Whatever becomes of the file meanwhile."""
    said = fleet.ok("upgrade", "--all", str(tmp_path / "new.whl"))
    assert "upgraded, or were so already: attic, barn" in said
    assert not (tmp_path / "new.whl").exists()
    assert (tmp_path / "barn.got").read_bytes() == b"a wheel"


def test_ctrl_c_says_who_is_upgraded_and_who_is_not(fleet: Pln, tmp_path: Path) -> None:
    for name in ("cellar", "den"):
        fleet.ok("context", "add", name, f"ssh://{name}")
    said = fails(fleet("upgrade", "--all", str(tmp_path / "new.whl")), "upgrade-failed")
    assert "cellar failed: you interrupted it here" in said
    assert "upgraded: attic, barn; not begun: den" in said


def test_the_system_s_own_python_is_left_to_its_package_manager(tmp_path: Path) -> None:
    """Where the marker of PEP 668 stands and no virtual environment is used."""
    marked = tmp_path / "lib"
    marked.mkdir()
    (marked / "EXTERNALLY-MANAGED").write_text("")
    script = (
        "import sys, sysconfig\n"
        f"sysconfig.get_path = lambda name: {str(marked)!r}\n"
        "sys.prefix = sys.base_prefix\n"
        "from pathlib import Path\n"
        "from pollen.runtime.upgrade.site import Site\n"
        "try:\n    Site(Path.cwd()).check_writable()\n"
        "except Exception as error:\n    print(error.slug, error.reason, error.remedy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.startswith("state-unusable") and "python3 -m venv" in done.stdout


class Kept(Host):
    """A machine with systemd whose node has an environment of its own."""

    def __init__(self, made: Environment, folder: Path) -> None:
        super().__init__(made.home, folder)
        self.made = made

    def line(self, *arguments: str) -> list[str]:
        return [*self.fence, *self.who, *self.made.line(*arguments)]


@pytest.fixture
def kept(folder: Path, store: Path, tmp_path: Path) -> Iterator[Kept]:
    """Its node is kept up by a service."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    home = folder / "kept"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('listen = ["127.0.0.1:0"]\n')
    made = Environment(folder / "env-kept", repacked(store, OLD), home)
    host = Kept(made, tmp_path)
    try:
        host.ok("init", "--name", "kept")
        host.ok("service", "install", "--user")
        host.ok("restart")
        yield host
    finally:
        host("service", "uninstall", "--user", "--yes")
        made.end()
        for place in (home, made.folder):
            shutil.rmtree(place)


def test_a_service_stops_and_starts_its_node(kept: Kept, store: Path, new: Path) -> None:
    """There, and back from a version that ends at once."""
    kept.asked()
    assert f"upgraded kept from {OLD} to {NEW}" in kept.ok("upgrade", str(new))
    assert kept.asked()[0] == "stop" and lock.read_pid(Paths(kept.home)) is not None
    assert kept.made.version == NEW
    said = fails(kept("upgrade", str(repacked(store, "9.2.0", patch=CRASH))), "upgrade-failed")
    assert "pln.service is inactive" in said and f"the node runs on {NEW} again" in said
    asked = kept.asked()
    assert asked.count("start") == 2 and asked[-1] == "start"
    assert kept.made.version == NEW and kept.made.leftovers() == []
    assert "healthy" in kept.ok("status")


# Waits at a verb that is held back, until it is let go once.
_HELD_BACK = """
if [ -e "$FAKE/hold-$1" ]; then
    touch "$FAKE/at-$1"
    while [ ! -e "$FAKE/go-$1" ]; do sleep .05; done
    rm "$FAKE/go-$1"
fi
"""


@pytest.mark.parametrize(
    ("verb", "times", "asked"),
    [
        ("stop", 1, ["stop", "stop", "reset-failed", "start"]),
        ("start", 2, ["stop", "stop", "reset-failed", "start"] * 2),
    ],
    ids=["drain", "the way back"],
)
def test_ctrl_c_does_not_reach_the_commands_of_the_manager(
    kept: Kept, new: Path, verb: str, times: int, asked: list[str]
) -> None:
    """A terminal sends it to the whole group. The first one turns the upgrade back, a second one
    changes nothing: the node is up at the end."""
    kept.asked()
    tool = kept.folder / "bin" / "systemctl"
    tool.write_text(SYSTEMCTL.replace('case "$1" in', f'{_HELD_BACK}case "$1" in'))
    hold, at, go = (kept.folder / f"{word}-{verb}" for word in ("hold", "at", "go"))
    hold.touch()
    line = [*kept.fence, *kept.who, "setsid", *kept.made.line("upgrade", str(new))]
    pipe = subprocess.PIPE
    process = subprocess.Popen(line, env=kept.environment, stdout=pipe, stderr=pipe)

    async def waits() -> bool:
        return at.exists() or process.poll() is not None

    for left in reversed(range(times)):
        asyncio.run(until(waits, 60, f"systemctl waits at {verb}"))
        if process.poll() is not None:
            break
        at.unlink()
        os.killpg(int((kept.made.site / ".pollen-upgrade" / "lock").read_text()), signal.SIGINT)
        if not left:
            hold.unlink()
        go.touch()
    said = process.communicate(timeout=90)[1].decode()
    assert process.returncode == 1 and "interrupted by SIGINT" in said, said
    assert f"the node runs on {OLD} again" in said, said
    assert kept.asked() == asked
    assert lock.read_pid(Paths(kept.home)) is not None
    assert kept.made.version == OLD and kept.made.leftovers() == []


@pytest.mark.usefixtures("same")
def test_over_the_mesh_a_wheel_and_nodes_are_named(attic: Environment, new: Path) -> None:
    """Else nothing is signed and nothing changes; a dry run says who would be upgraded."""
    wheel = str(new)
    for line in (
        ["--mesh", wheel],
        ["--mesh", "--all"],
        ["--mesh", "--all", wheel, "attic"],
        ["--mesh", "--index", "--all"],
        [wheel, "attic"],
    ):
        assert "--mesh" in fails(attic("upgrade", *line), "usage")
    assert "no node 'shed'" in fails(attic("upgrade", "--mesh", wheel, "shed"), "peer-not-found")
    broken = attic("upgrade", "--mesh", "--all", str(EXAMPLES / "echo.wasm"))
    assert "not a whole zip file" in fails(broken, "wheel-invalid")
    said = attic.ok("upgrade", "--mesh", "--all", "--dry-run", wheel)
    assert f"would upgrade to {NEW}: attic" in said
    assert "release" not in attic.ok("audit")


@pytest.mark.usefixtures("same")
def test_a_wheel_for_another_machine_is_left_out_over_the_mesh(
    attic: Environment, store: Path
) -> None:
    """With --all it is said and the command fails at its end; by name it fails at once."""
    other = str(of_another_machine(store))
    said = fails(attic("upgrade", "--mesh", "--all", other), "upgrade-not-taken")
    assert "attic is left out: the wheel is for another machine" in said
    said = fails(attic("upgrade", "--mesh", other, "attic"), "upgrade-not-taken")
    assert "attic: the wheel is for another machine" in said
