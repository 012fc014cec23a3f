"""The next step of a machine on its way to be a member, from what it said of itself; no I/O.

Decides: the step that comes next, that nothing is left to do, or why a machine cannot be taken.
Does not know: how a step is done (``remote``), and how the machine is reached.
Invariants: the same facts give the same step, so it does not matter who was killed when: the next
run goes on where the machine stands. Nothing is changed on a machine that will be refused. Software
that a node has run from stays: another version is for the verb ``upgrade``.
Source: docs/internals/bootstrap.md#steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pollen.errors import PollenError, error_from
from pollen.sdk.bootstrap.facts import Facts

# What pyproject.toml says in requires-python.
PYTHON_LEAST: Final = (3, 11)
# Bytes of disk for one of the archive: it, what it unpacks to, and compiled code. Measured on
# x86_64 with Python 3.11: 19 MB become 64 MB, and 19 MB lie beside them meanwhile.
ROOM_FACTOR: Final = 5
# Bytes beside that for the node's store and log. Guess.
ROOM_BESIDE: Final = 64 << 20


class Step(Enum):
    """What is done next; the value is the word that a user reads while it lasts."""

    INSTALL = "installing"
    SERVICE = "making a service"
    KEY = "making its key"
    JOIN = "joining"
    START = "starting"
    WAIT = "waiting to see it"
    DONE = "done"


@dataclass(frozen=True)
class Wanted:
    """What the desk wants of one machine. ``digest`` and ``size`` are those of the archive for its
    platform: empty and 0 until that is known. ``is_own``: for the login's user alone."""

    host: str
    cluster: str
    is_own: bool = False
    digest: str = ""
    size: int = 0


def next_step(facts: Facts, wanted: Wanted, *, is_seen: bool) -> Step:
    """The step that comes next. Raises what ``check`` raises."""
    check(facts, wanted)
    is_foreign = runs_another(facts)
    is_kept = keeps_software(facts)
    if not is_foreign and not is_kept and facts.software != wanted.digest:
        return Step.INSTALL
    starts = facts.unit.startswith(f"{facts.base}/{wanted.digest}/")
    is_unit_good = is_ours(facts, facts.unit) if is_kept else starts
    if needs_unit(facts) and not is_foreign and not is_unit_good:
        return Step.SERVICE
    if not facts.node:
        if is_foreign:
            reason = f"{wanted.host}: the node of {facts.running} does not say its key"
            raise _unfit(reason, "ask it there: pln id")
        return Step.KEY
    if not member_of(facts):
        return Step.JOIN
    if not facts.running:
        return Step.START
    return Step.DONE if is_seen else Step.WAIT


def member_of(facts: Facts) -> str:
    """The cluster that the folder in use belongs to; empty for none."""
    is_system = facts.folder.startswith("/var/lib/")
    return facts.system_member if is_system else facts.home_member


def is_ours(facts: Facts, python: str) -> bool:
    """Whether an interpreter is that of an archive, of whatever version."""
    return re.match(rf"{re.escape(facts.base)}/[0-9a-f]{{16}}/", python) is not None


def runs_another(facts: Facts) -> bool:
    """Whether a node runs there from a pollen that somebody else installed: it is left alone."""
    return bool(facts.running) and not is_ours(facts, facts.running)


def needs_unit(facts: Facts) -> bool:
    """Whether a service of the system is to keep the node up."""
    return facts.has_systemd and facts.folder.startswith("/var/lib/")


def keeps_software(facts: Facts) -> bool:
    """Whether what is installed there stays, whatever the desk has: a node runs or ran from it,
    this one or that of another login. Only what never came up is replaced."""
    has_come_up = bool(facts.running) or (facts.has_run and bool(member_of(facts)))
    return bool(facts.software) and (has_come_up or facts.is_used)


def uses_home(facts: Facts, wanted: Wanted) -> bool:
    """Whether the login's own folder is used although the machine's would be: a node of this
    cluster lives there already."""
    return facts.home_member == wanted.cluster != facts.system_member


def check(facts: Facts, wanted: Wanted) -> None:
    """Raise why the machine cannot be taken: ``host-unfit``, ``denied``, ``already-in-cluster`` or
    ``state-unusable`` for a full disk."""
    host = wanted.host
    if facts.system != "Linux":
        what = facts.system or "what it is"
        raise _unfit(f"{host} runs {what}, not Linux", "install it there by hand: pln join")
    _check_cluster(facts, wanted)
    if runs_another(facts) and member_of(facts) == wanted.cluster:
        return
    if facts.root == "none" and not wanted.is_own:
        reason = f"{host}: the login is not root, and sudo asks for a password or is not there"
        remedy = "log in as root@, or allow sudo without a password (NOPASSWD), or: --user"
        raise error_from("denied", reason, remedy)
    if needs_unit(facts) and facts.unit and not is_ours(facts, facts.unit):
        reason = f"{host}: pln.service there starts another pollen, {facts.unit}, and is left alone"
        remedy = "there: systemctl start pln\nor take it away, there: pln service uninstall"
        raise _unfit(reason, remedy)
    if keeps_software(facts):
        return
    _check_python(facts, host)
    room = wanted.size * ROOM_FACTOR + ROOM_BESIDE
    if wanted.digest and facts.software != wanted.digest and facts.free_bytes < room:
        free, need = facts.free_bytes >> 20, room >> 20
        reason = f"{host}: {free} MiB are free at {facts.base}, and {need} MiB are needed"
        raise error_from("state-unusable", reason, f"make room on the disk of {host}")


def _check_cluster(facts: Facts, wanted: Wanted) -> None:
    held = {facts.home_member, facts.system_member} - {"", wanted.cluster}
    if wanted.is_own:
        held = {facts.home_member} - {"", wanted.cluster}
    if not held or wanted.cluster in (facts.home_member, facts.system_member):
        return
    reason = f"{wanted.host} is a member of another cluster, {min(held)[:8]}"
    remedy = "it is left as it is; to take it out of that one, there: pln down, then pln purge"
    raise error_from("already-in-cluster", reason, remedy)


def _check_python(facts: Facts, host: str) -> None:
    least = ".".join(map(str, PYTHON_LEAST))
    if not facts.python_path:
        remedy = f"install Python {least} or newer there, for all users"
        if facts.other_python:
            raise _unfit(f"{host} has only Python {facts.other_python}: {least} is needed", remedy)
        raise _unfit(f"{host} has no Python", remedy)
    if not facts.has_venv:
        reason = f"{facts.python_path} on {host} cannot make environments: it has no module venv"
        raise _unfit(reason, "install that module there (Debian: apt-get install python3-venv)")


def _unfit(reason: str, remedy: str) -> PollenError:
    return error_from("host-unfit", reason, remedy)
