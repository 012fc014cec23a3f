"""Carry an upgrade out, step by step, from a copy of our own files.

Decides: how each step is done, and how long it may take.
Does not know: which step is next (``steps``), where files lie (``site``).
Invariants: the journal is on the disk before the step that it allows. Nothing that fails here ends
    this process before the node runs on one of the two versions, or neither can be started.
Source: docs/guide/upgrade.md.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from pollen import lock
from pollen.errors import PollenError, error_from
from pollen.paths import Paths, resolve
from pollen.runtime.folder import service, supervised
from pollen.runtime.upgrade.site import Journal, Site, Version
from pollen.runtime.upgrade.steps import Seen, Step, Which, lacking, next_step
from pollen.sdk.control import Control

# Seconds between two looks at a node that is starting. Guess.
_LOOK = 0.2
# Seconds that the import of another version may take on a slow machine. Guess.
_IMPORT = 120
# Steps to one goal. Without accidents there are 5; whoever starts nodes meanwhile costs 2 each.
# Beyond this somebody works against the upgrade without end. Guess.
_STEPS = 24
_TRY = """
import importlib.metadata, sys
sys.path.insert(0, sys.argv[1])
import pollen, pollen._native, pollen.cli.app, pollen.runtime.daemon, pollen.runtime.__main__
assert pollen.__file__.startswith(sys.argv[1]), f"{pollen.__file__} was found before it"
print(importlib.metadata.version("pollen-mesh"))
"""

Say = Callable[[str], None]


def try_import(folder: Path, version: str) -> None:
    """Import a version that is not installed, in a Python of its own. Raises ``wheel-invalid``."""
    from pollen.runtime.upgrade.wheel import invalid

    line = [sys.executable, "-I", "-B", "-c", _TRY, str(folder)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=_IMPORT, check=False)
    except subprocess.TimeoutExpired:
        raise invalid(f"the new version cannot be imported within {_IMPORT} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise invalid(f"the new version cannot be imported: {last[-1]}")
    if done.stdout.strip() != version:
        raise invalid(f"the new version is {done.stdout.strip()} by its metadata, not {version}")


class _Interrupts:
    """A terminal that closes does not end an upgrade; Ctrl-C and SIGTERM turn it back.

    They are noted, and looked at between steps: an exception at any moment could break a step.
    """

    def __init__(self) -> None:
        self.why = ""
        self._kept: dict[int, Any] = {}

    def __enter__(self) -> _Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._kept[number] = signal.signal(number, self._note)
        self._kept[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return self

    def __exit__(self, *error: object) -> None:
        for number, former in self._kept.items():
            signal.signal(number, former)

    def _note(self, number: int, frame: object) -> None:
        self.why = f"it was interrupted by {signal.Signals(number).name}"


def drive(site: Site, journal: Journal, say: Say) -> None:
    """Go on until the node runs on one of the two versions.

    Raises ``upgrade-failed`` when that is the old one, or neither can be started.
    """
    site.settle(journal)
    with _Interrupts() as interrupts:
        work = _Work(site, journal, say, interrupts)
        while work.step():
            pass
    old, new = journal.old.version, journal.new.version
    if work.is_forsaken:
        raise _foreign(site, work.where)
    if journal.goal is Which.NEW:
        say(f"upgraded {work.name} from {old} to {new}: {work.found}")
        return
    reason = f"the upgrade to {new} failed: {journal.fault}"
    remedy = f"the node runs on {old} again; its log has more: pln logs"
    if work.fault and site.held(journal) is Which.NEW:
        reason = f"{reason}; and {old} could not be put back: {work.fault}"
        remedy = "once that is cured, this puts it back: pln upgrade"
    elif work.fault:
        reason = f"{reason}; and {old} does not come up either: {work.fault}"
        remedy = f"{old} is installed again; see: pln doctor"
    raise error_from("upgrade-failed", reason, remedy)


class _Work:
    """The hands: what is seen, and each step."""

    def __init__(self, site: Site, journal: Journal, say: Say, interrupts: _Interrupts) -> None:
        self.site = site
        self.journal = journal
        self.say = say
        self.interrupts = interrupts
        self.where: Paths = resolve(journal.home)
        self.name = str(self.where.home)
        self.fault = ""
        self.found = ""
        self.is_forsaken = False
        self._left = _STEPS

    @property
    def goal(self) -> Version:
        return self.journal.new if self.journal.goal is Which.NEW else self.journal.old

    def step(self) -> bool:
        """Do the next step; False after the last one."""
        if self.journal.goal is Which.NEW and not self.found:
            # The way back is not turned, and what is healthy already stays.
            self.fault = self.fault or self.interrupts.why
        try:
            self._left -= 1
            if not self._left:
                raise PollenError("upgrade-failed", f"it does not end within {_STEPS} steps", "")
            return self._do(next_step(self.seen()))
        except PollenError as error:
            self.fault = error.reason
        except OSError as error:
            self.fault = str(error)
        return True

    def seen(self) -> Seen:
        """What counts for the next step."""
        pid = service.running(self.where)
        return Seen(
            goal=self.journal.goal,
            held=self.site.held(self.journal),
            is_running=pid is not None,
            is_own=pid is not None
            and _process(pid) == self.journal.started.get(self.journal.goal.value),
            is_healthy=bool(self.found),
            fault=self.fault,
        )

    def _do(self, step: Step) -> bool:
        match step:
            case Step.DRAIN:
                self.say(f"draining the node in {self.where.home}")
                self._drain()
            case Step.SWITCH:
                self.say(f"putting {self.goal.version} in place")
                self.site.switch(self.journal, self.journal.goal)
            case Step.START:
                self.say(f"starting {self.goal.version}")
                self._start()
            case Step.LOOK:
                self._look()
            case Step.TURN_BACK:
                self._turn_back()
            case Step.FORSAKE:
                self.is_forsaken = True
                self.site.remove_journal()
                self.site.clear()
                return False
            case Step.GIVE_UP if self.site.held(self.journal) is not self.journal.goal:
                # The version that is wanted waits still, for whoever tries again.
                return False
            case Step.FINISH | Step.GIVE_UP:
                self.site.remove_journal()
                self.site.clear()
                return False
        return True

    def _drain(self) -> None:
        """End the node, and have its manager leave it so."""
        # Whoever looks from here on must not take a node that ends for one that stays.
        self.journal.started = {}
        self._note()
        unit = supervised.of(self.where, is_apart=True)
        is_back = self.journal.goal is Which.OLD
        if unit is not None and unit.state() == "active" and unit.takes_grace(self.where):
            unit.do("stop")
        elif service.running(self.where) is not None:
            service.stop(self.where, 0 if is_back else -1, drain=not is_back, is_forced=is_back)
        if unit is not None:
            unit.do("stop")

    def _start(self) -> None:
        unit = supervised.of(self.where, is_apart=True)
        if unit is None:
            try:
                service.start(self.where, _options(self.journal.flags))
            except PollenError as error:
                if error.slug != "already-running":
                    raise
                # One that somebody started, or an upgrade that was cut off: it is drained next.
                self._await_other()
                return
        else:
            # One that crashed many times in a row would be refused, on the way back as well.
            unit.forget_failures()
            try:
                unit.do("start")
                self._await_pid(unit)
            except PollenError:
                # Else its manager would start it again and again.
                unit.do("stop")
                raise
        pid = service.running(self.where)
        if pid is None:
            raise PollenError("upgrade-failed", "the node ended after its start", "")
        self.journal.started[self.journal.goal.value] = _process(pid)
        self._note()

    def _await_other(self) -> None:
        """Wait until a node that is starting already says who it is."""
        end = time.monotonic() + service.START_SECONDS
        while service.running(self.where) is None:
            if time.monotonic() > end:
                reason = f"a process that uses {self.where.home} does not say that it is a node"
                raise PollenError("already-running", reason, "")
            time.sleep(_LOOK)

    def _await_pid(self, unit: supervised.Service) -> None:
        end = time.monotonic() + service.START_SECONDS
        while True:
            with contextlib.suppress(PollenError):
                Control(self.where).get("/v1/health", timeout=_IMPORT)
                return
            state = unit.state()
            if time.monotonic() > end or state in ("failed", "inactive"):
                reason = f"{unit.path.name} is {state}, and the node does not answer"
                raise error_from("daemon-not-running", reason, f"see {self.where.log_file}")
            time.sleep(_LOOK)

    def _look(self) -> None:
        """Wait until the node is what it was. Raises ``upgrade-failed`` with what it lacks."""
        end, why = time.monotonic() + self.journal.patience, ""
        while time.monotonic() < end:
            if self.interrupts.why and self.journal.goal is Which.NEW:
                return
            if service.running(self.where) is None:
                raise PollenError("upgrade-failed", f"the node ended; before that, {why}", "")
            try:
                status = Control(self.where).get("/v1/status", timeout=self.journal.patience)
                why = lacking(status, self.journal.before, self.goal.version)
            except PollenError as error:
                why = error.reason
            else:
                if not why:
                    self.name, self.found = status["name"], status["summary"]
                    return
            time.sleep(_LOOK)
        reason = f"the node is not healthy after {self.journal.patience:g} s: {why}"
        raise PollenError("upgrade-failed", reason, "")

    def _turn_back(self) -> None:
        """From here on the old version is wanted. That is known before anything is undone."""
        self.say(f"going back to {self.journal.old.version}: {self.fault}")
        _end_strays(self.where)
        self.journal.goal, self.journal.fault = Which.OLD, self.fault
        self.fault = self.found = ""
        self._left = _STEPS
        self._note()

    def _note(self) -> None:
        """Put the journal on the disk. On the way back a full disk is not a reason to stop."""
        try:
            self.site.write_journal(self.journal)
        except PollenError:
            if self.journal.goal is Which.NEW:
                raise


def _foreign(site: Site, where: Paths) -> PollenError:
    reason = f"somebody else changed the environment {site.folder} during the upgrade"
    is_up = service.running(where) is not None
    remedy = "pln restart" if is_up else "pln up -d"
    return error_from("upgrade-failed", reason, f"to run on what is there now: {remedy}")


def _end_strays(where: Paths) -> None:
    """Kill what was started as the folder's node and never said that it is: it hangs."""
    own, mark = service.running(where), ["--dir", str(where.home)]
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = service.node_of(process.cmdline()) or []
            if words[:2] == mark and process.pid != own:
                process.kill()
                found.append(process)
    psutil.wait_procs(found, timeout=service.KILL_SECONDS)


def _process(pid: int) -> str:
    return f"{pid}:{lock.start_time(pid)}"


def process_of(where: Paths) -> str:
    """The process of a folder's node, as text to compare; empty when none runs."""
    pid = service.running(where)
    return "" if pid is None else _process(pid)


def _options(flags: dict[str, Any]) -> service.StartOptions:
    known = ("listen", "http", "name", "log_level")
    return service.StartOptions(**{key: flags[key] for key in known if key in flags})
