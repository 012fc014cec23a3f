"""``pln bootstrap ssh`` against real machines: made members from nothing, resumed, refused."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from pollen.testing import Cluster
from tests.e2e.conftest import running
from tests.e2e.desks import SOON, desk_of
from tests.machines import Park, fetch_wheels, park
from tests.wheels import write

pytestmark = pytest.mark.timeout(300)

# Seconds within which a run with nothing to do ends, and ten machines from nothing.
IDLE_WITHIN = 15.0
TEN_WITHIN = 120.0
ANOTHER = "ab" * 32
GONE = "pkill -9 -f '[p]ollen.runtime' || true"
LIBRARY = (
    "/usr/lib/python$(/usr/bin/python3 -c 'import sys; print(\"3.%d\" % sys.version_info[1])')"
)


@pytest.fixture(scope="module")
def wheels() -> Iterator[Path]:
    """What the machines need, fetched once."""
    with tempfile.TemporaryDirectory(prefix="pln-") as folder:
        fetch_wheels(Path(folder) / "wheels")
        yield Path(folder) / "wheels"


@pytest.fixture
def three(wheels: Path) -> Iterator[Park]:
    """A desk and three machines. The third is reached through the second only."""
    with (
        tempfile.TemporaryDirectory(prefix="pln-") as folder,
        park(Path(folder), 3, wheels) as made,
    ):
        _, jump, hidden = made.machines
        desk = made.network.address("a")
        hidden.run(
            "nft add table inet t; nft 'add chain inet t i { type filter hook input priority 0; }'"
            f"; nft add rule inet t i ip saddr {desk} tcp dport 22 drop"
        )
        made.configure(f"Host {hidden.address}\n ProxyJump root@{jump.address}\n")
        yield made


@pytest.fixture
def two(wheels: Path) -> Iterator[Park]:
    """A desk and two machines."""
    with (
        tempfile.TemporaryDirectory(prefix="pln-") as folder,
        park(Path(folder), 2, wheels) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def one(wheels: Path) -> Iterator[Park]:
    """A desk and a machine that is refused, again and again."""
    with (
        tempfile.TemporaryDirectory(prefix="pln-") as folder,
        park(Path(folder), 1, wheels) as made,
    ):
        yield made


def errors_of(told: list[dict[str, object]]) -> list[tuple[str, str]]:
    """Slug and remedy of each machine's error."""
    found = [error for held in told if isinstance(error := held["error"], dict)]
    return [(str(error["slug"]), f"{error['title']} | {error['remedy']}") for error in found]


def lines_now() -> set[bytes]:
    """Command lines and environments of all processes, those of the machines too."""
    found: set[bytes] = set()
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                found.add((process / name).read_bytes())
    return found


def tokens_in(line: bytes) -> bytes:
    """The bytes of all tokens in a line; each has the id of its cluster, for others run here."""
    found = re.findall(rb"pln1([A-Za-z0-9_-]{16,})", line)
    return b"".join(base64.urlsafe_b64decode(text[: len(text) // 4 * 4]) for text in found)


@contextlib.contextmanager
def watched() -> Iterator[set[bytes]]:
    """What ``lines_now`` finds meanwhile."""
    found: set[bytes] = set()
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.02):
            found.update(lines_now())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


def test_three_machines_become_members_in_one_command(three: Park) -> None:
    """Root, a user with sudo, and one behind a jump host, without pip and ensurepip, with no way
    out; then there is nothing to do."""
    user, root, hidden = three.machines
    for machine in three.machines:
        machine.run(f"mkdir /run/none; mount --bind /run/none {LIBRARY}/ensurepip")
    line = [f"attic=user@{user.address}", f"root@{root.address}", f"cellar=root@{hidden.address}"]
    given = ["--publisher", "--prop", "zone=garden"]
    with watched() as lines:
        code, told, said = three.bootstrap(*line, *given)
    assert code == 0, (errors_of(told), said)
    assert any(b"--no-up" in held for held in lines), "no join was seen"
    cluster = bytes.fromhex(json.loads(three.ok("status", "--json"))["cluster"])
    assert [held for held in lines if cluster in tokens_in(held)] == []
    names = {"attic", root.name, "cellar"}
    assert three.members() == {"desk": "self"} | dict.fromkeys(names, "online")
    assert {held["tier"] for held in told} == {"publisher"}
    assert {held["version"] for held in told} == {metadata.version("pollen-mesh")}
    props = json.loads(three.ok("status", "--json"))["nodes"]
    assert all("garden" in node["properties"] for node in props if node["name"] in names)
    assert user.run("stat -c %U /home/user/.pln").strip() == "user"
    assert user.run("stat -c %U /opt/pollen").strip() == "root"
    # The mark is the last that was written, and holds what it is the mark of.
    assert user.run("cat /opt/pollen/current/ready").strip() == metadata.version("pollen-mesh")
    began = time.monotonic()
    code, told, _ = three.bootstrap(*line, *given)
    assert code == 0 and [held["steps"] for held in told] == [[], [], []]
    assert time.monotonic() - began < IDLE_WITHIN
    done = three.pln("bootstrap", "ssh", *line, "--wheels", str(three.wheels))
    assert done.stdout.decode() == "3 machines: 3 had nothing to do\n"


def test_a_machine_that_failed_half_way_goes_on(two: Park) -> None:
    """The others are done meanwhile; a disk that fills up in the middle is told, and resumed."""
    user, root = two.machines
    root.run("mount -t tmpfs -o size=260m,nr_inodes=300 none /opt")
    line = [f"user@{user.address}", f"root@{root.address}"]
    code, told, _ = two.bootstrap(*line)
    by_host = {str(held["host"]): held for held in told}
    assert code == 1 and by_host[line[0]]["ok"]
    ((slug, words),) = errors_of(told)
    assert slug == "state-unusable" and "No space left" in words
    root.run("umount /opt")
    code, told, _ = two.bootstrap(*line)
    assert code == 0, errors_of(told)
    assert {str(held["host"]): bool(held["steps"]) for held in told} == {
        line[0]: False,
        line[1]: True,
    }


def pinned(park: Park, *arguments: str) -> tuple[int, str, str]:
    """A refusal: exit code, slug, and what is said."""
    code, told, said = park.bootstrap(*arguments)
    if not told:
        problem = json.loads(said)
        return code, problem["slug"], f"{problem['title']} | {problem['remedy']}"
    ((slug, words),) = errors_of(told)
    return code, slug, words


PYTHON = "/usr/bin/python3.1[0-9]"
REFUSED = {
    "no Python": (
        f"for one in {PYTHON}; do mount --bind /dev/null $one; done",
        f"for one in {PYTHON}; do umount $one; done",
        (1, "host-unfit", "has no Python"),
    ),
    "an old Python": (
        "printf '#!/bin/sh\\necho 3.9 /usr/bin/python3\\n' >/run/old; chmod +x /run/old;"
        f"for one in {PYTHON}; do mount --bind /run/old $one; done",
        f"for one in {PYTHON}; do umount $one; done",
        (1, "host-unfit", "has only Python 3.9"),
    ),
    "no venv": (
        f"mkdir -p /run/none; mount --bind /run/none {LIBRARY}/venv",
        f"umount {LIBRARY}/venv",
        (1, "host-unfit", "python3-venv"),
    ),
    "a full disk": (
        "mount -t tmpfs -o size=20m none /opt",
        "umount /opt",
        (1, "state-unusable", "20 MiB are free"),
    ),
    "another cluster": (
        f"mkdir -p /home/user/.pln; echo {ANOTHER} >/home/user/.pln/member",
        "rm -r /home/user/.pln",
        (4, "already-in-cluster", "abababab"),
    ),
    "no sudo": (
        "mv /etc/sudoers.d/user /etc/sudo-user",
        "mv /etc/sudo-user /etc/sudoers.d/user",
        (4, "denied", "--user"),
    ),
    "no key": (
        "mv /home/user/.ssh/authorized_keys /home/user/.ssh/gone",
        "mv /home/user/.ssh/gone /home/user/.ssh/authorized_keys",
        (4, "denied", "does not let you in"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_machine_that_cannot_be_taken_is_left_as_it_is(one: Park, case: str) -> None:
    """With a slug and words that help; the machine has nothing of pollen afterwards."""
    (machine,) = one.machines
    before, after, wanted = REFUSED[case]
    machine.run(before)
    try:
        had = machine.run("ls -A /opt /home/user")
        code, slug, words = pinned(one, f"user@{machine.address}")
        assert (code, slug) == wanted[:2] and wanted[2] in words, words
        assert machine.run("ls -A /opt /home/user") == had
    finally:
        machine.run(after)


@pytest.mark.slow
def test_a_wheel_of_another_architecture_is_refused(one: Park, tmp_path: Path) -> None:
    from pollen.sdk.bootstrap import wheels

    name, data = wheels.running_wheel()
    foreign = tmp_path / name.replace(os.uname().machine, "riscv64")
    foreign.write_bytes(data)
    host = f"user@{one.machines[0].address}"
    code, slug, words = pinned(one, host, "--wheel", str(foreign))
    assert (code, slug) == (1, "host-unfit") and "riscv64" in words


@pytest.mark.slow
def test_the_node_that_invites_may_be_another_machines(tmp_path: Path) -> None:
    """The desk has no node: the context's makes the tokens. Needs no root and no namespaces; what
    is wrong with the wheel is told, and nothing is installed."""
    from pollen.sdk.bootstrap import wheels

    name, data = wheels.running_wheel()
    foreign = tmp_path / name.replace(os.uname().machine, "riscv64")
    foreign.write_bytes(data)
    with (
        running(Cluster(1)) as cluster,
        tempfile.TemporaryDirectory(prefix="pln-") as folder,
        desk_of(Path(folder), cluster[0]) as desk,
    ):
        (desk.folder / "there").mkdir()
        desk.server.stop()
        desk.server.start(HOME=str(desk.folder / "there"))
        line = ["bootstrap", "ssh", desk.server.url, "--user", "--wheel", str(foreign)]
        done = desk(*line)
        assert done.returncode == 1 and b"[host-unfit]" in done.stderr, done.stderr.decode()
        assert b"riscv64" in done.stderr and b"on " in done.stderr
        assert list((desk.folder / "there").iterdir()) == []
        denied = desk(*line, "--prop", "broken")
        assert denied.returncode == 2 and b"[usage]" in denied.stderr


@pytest.mark.slow
def test_an_unknown_host_key_is_trusted_when_asked_for_only(one: Park) -> None:
    """A changed one is not, whatever is asked for."""
    (machine,) = one.machines
    known, host = one.desk / "known_hosts", f"user@{machine.address}"
    held = known.read_text()
    try:
        known.write_text("")
        code, slug, words = pinned(one, host)
        assert (code, slug) == (6, "unreachable") and "--accept-new-keys" in words
        code, _, _ = one.bootstrap(host, "--accept-new-keys", "--dry-run")
        assert code == 0 and machine.address in known.read_text()
        other = (one.desk / "key.pub").read_text()
        known.write_text(f"{machine.address} {other}")
        code, slug, words = pinned(one, host, "--accept-new-keys")
        assert (code, slug) == (6, "unreachable") and "has changed" in words
    finally:
        known.write_text(held)


@pytest.mark.slow
def test_what_the_desk_may_not_give_is_refused_before_any_machine_is_asked(one: Park) -> None:
    key = one.desk / ".pln" / "root.key"
    key.rename(key.with_suffix(".away"))
    try:
        one.ok("restart")
        code, slug, words = pinned(one, "--admin", "user@192.0.2.1")
        assert (code, slug) == (4, "denied") and "root key" in words
    finally:
        key.with_suffix(".away").rename(key)
        one.ok("restart")


@pytest.mark.slow
def test_a_dry_run_says_the_steps_and_changes_nothing(one: Park) -> None:
    (machine,) = one.machines
    host = f"user@{machine.address}"
    had = machine.run("ls -A /home/user")
    done = one.pln("bootstrap", "ssh", host, "--dry-run", "--wheels", str(one.wheels))
    assert done.returncode == 0, done.stderr.decode()
    assert b"would be: " in done.stderr and b"making its key, joining, starting" in done.stderr
    assert machine.run("ls -A /home/user") == had


@pytest.mark.slow
def test_ctrl_c_ends_every_ssh_and_the_next_run_goes_on(one: Park) -> None:
    (machine,) = one.machines
    host = f"user@{machine.address}"
    line = one.line("bootstrap", "ssh", host, "--wheels", str(one.wheels))
    with subprocess.Popen(
        line, env=one.environment, stderr=subprocess.PIPE, start_new_session=True
    ) as run:
        assert run.stderr is not None
        assert any(b"installing" in text for text in iter(run.stderr.readline, b""))
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=SOON) == 130
    config = str(one.desk / "config").encode()
    assert [held for held in lines_now() if config in held and held.startswith(b"ssh\0")] == []
    code, told, _ = one.bootstrap(host)
    assert code == 0, errors_of(told)
    machine.run("pkill -9 -f '[p]ollen.runtime'; rm -rf /home/user/.pln /opt/pollen")


@pytest.mark.slow
def test_a_plain_user_installs_for_itself(one: Park, tmp_path: Path) -> None:
    """Without sudo, and nothing of the system is touched; what runs is not replaced by a build
    that has the same version, or an older one: that is told, with the way to do it."""
    from pollen.sdk.bootstrap import wheels

    (machine,) = one.machines
    machine.run("mv /etc/sudoers.d/user /etc/sudo-user; pkill -9 -f '[p]ollen.runtime' || true")
    code, told, _ = one.bootstrap(f"own=user@{machine.address}", "--user")
    assert code == 0, errors_of(told)
    assert machine.run("readlink /home/user/.local/bin/pln").startswith("/home/user/.local/share/")
    assert one.members()["own"] == "online"
    name, data = wheels.running_wheel()
    newer = tmp_path / name
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {held: archive.read(held) for held in archive.namelist()}
    (record,) = [held for held in files if held.endswith("/RECORD")]
    del files[record]
    write(newer, {**files, "pollen/another.py": b""}, record.removesuffix("/RECORD"))
    before = machine.run("cat /home/user/.pln/pollen.pid; ls /home/user/.local/share/pollen")
    code, told, _ = one.bootstrap(f"own=user@{machine.address}", "--user", "--wheel", str(newer))
    assert code == 0, errors_of(told)
    after = machine.run("cat /home/user/.pln/pollen.pid; ls /home/user/.local/share/pollen")
    assert told[0]["steps"] == [] and after == before
    (_, note) = told[0]["notes"]  # type: ignore[misc]
    command = "/home/user/.local/bin/pln --dir /home/user/.pln upgrade - <FILE.whl"
    assert str(note).endswith(f"for another one: ssh user@{machine.address} {command}")


@pytest.mark.slow
def test_two_names_of_one_machine_are_told(one: Park) -> None:
    """It becomes one member, and the other name is an error."""
    (machine,) = one.machines
    machine.run("pkill -9 -f '[p]ollen.runtime' || true")
    host = f"root@{machine.address}"
    code, told, _ = one.bootstrap(f"first={host}", f"second=ssh://{host}:22")
    assert code == 2, told
    ((slug, words),) = errors_of(told)
    assert slug == "usage" and "is the same machine as" in words
    assert len({"first", "second"} & set(one.members())) == 1


# What stands for systemd: the rest of the path is the product's own, with its user and its unit.
SYSTEMCTL = r"""#!/bin/sh
echo "$@" >>/run/asked
unit=/etc/systemd/system/pln.service
pid=$(cat /run/unit.pid 2>/dev/null)
alive() { [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; }
case $1 in
start) alive && exit 0
  line=$(sed -n 's/^ExecStart=//p' $unit)
  runuser -u pln -- setsid $line </dev/null >/dev/null 2>&1 & echo $! >/run/unit.pid;;
stop|restart) alive && kill "$pid" && while alive; do :; done; [ $1 = stop ] || exec "$0" start;;
is-active) alive && echo active || echo inactive;;
esac
"""


@pytest.mark.slow
def test_where_systemd_runs_a_service_keeps_it_up(wheels: Path) -> None:
    """As the user pln in /var/lib/pln, by sudo of a user; cut off before it is enrolled as well."""
    with (
        tempfile.TemporaryDirectory(prefix="pln-") as folder,
        park(Path(folder), 1, wheels) as made,
    ):
        (machine,) = made.machines
        (machine.folder / "usr/local/bin/systemctl").write_text(SYSTEMCTL)
        machine.run("chmod +x /usr/local/bin/systemctl; mkdir -p /run/systemd/system")
        host = f"user@{machine.address}"
        code, told, _ = made.bootstrap(host)
        assert code == 0, errors_of(told)
        steps = ["installing", "making a service", "making its key", "joining", "starting"]
        assert told[0]["steps"] == [*steps, "waiting to see it"] or told[0]["steps"] == steps
        assert told[0]["notes"] == [] and made.members()[machine.name] == "online"
        assert machine.run("stat -c %U /var/lib/pln/node.key").strip() == "pln"
        asked = machine.run("cat /run/asked").splitlines()
        assert [line for line in asked if not line.startswith("is-active")] == [
            "daemon-reload",
            "enable pln.service",
            "start pln.service",
        ]
        code, told, _ = made.bootstrap(host)
        assert code == 0 and told[0]["steps"] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_machines_from_nothing_take_two_minutes(wheels: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="pln-") as folder,
        park(Path(folder), 10, wheels) as made,
    ):
        shutil.rmtree(made.desk / ".cache", ignore_errors=True)
        began = time.monotonic()
        code, told, _ = made.bootstrap(*[f"root@{machine.address}" for machine in made.machines])
        took = time.monotonic() - began
        print(f"ten machines: {took:.1f} s")
        assert code == 0, errors_of(told)
        assert took < TEN_WITHIN
        assert list(made.members().values()).count("online") == 10
