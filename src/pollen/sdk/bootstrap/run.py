"""One machine on its way to be a member: ssh for each step, until there is none left.

Decides: how long a step may take, and when one that changes nothing is given up.
Does not know: which step comes (``steps``), what a step does there (``remote``), how it is shown.
Invariants: each step is one ssh, and its answer is all that is known of the machine afterwards.
A step is done once in a run. Every ssh ends with the run, also with one that is interrupted.
Source: docs/internals/bootstrap.md#steps.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import IO, Final

from pollen.errors import PollenError, error_from, error_from_dict
from pollen.paths import Paths
from pollen.plain import escaped, name_of_machine
from pollen.sdk import diagnosis, tunnel
from pollen.sdk.bootstrap import remote, steps
from pollen.sdk.bootstrap.bundle import Bundle, Bundles
from pollen.sdk.bootstrap.desk import Desk
from pollen.sdk.bootstrap.facts import Facts, answer_in, facts_of, failure_in
from pollen.sdk.bootstrap.steps import Step, Wanted

# Seconds that one ssh may take: the archive has to get there, and slow flash to take it. Guess.
_PATIENCE: Final = 600
# Seconds until a member that has started is seen by the desk's node. Guess: a link takes one.
_SEEN: Final = 30.0
# Seconds that what ssh printed may take to come out of its pipes once it has ended: a master that
# it left behind holds them for much longer. Guess.
_LAST: Final = 0.5
# Seconds between two looks whether it is seen. Guess.
_LOOK: Final = 0.3
ACCEPT_NEW: Final = ("-o", "StrictHostKeyChecking=accept-new")
# A master that runs is used; none is started, for it would stay and hold what ssh prints to.
_NO_MASTER: Final = ("-o", "ControlMaster=no")


@dataclass(frozen=True)
class Target:
    """A machine that the user named; ``name`` is what its node is called, or empty."""

    paths: Paths
    name: str = ""

    @property
    def host(self) -> str:
        """As the user knows it."""
        return self.paths.host.removeprefix("ssh://")


@dataclass(frozen=True)
class Options:
    """What holds for all machines of a run."""

    is_own: bool = False
    is_dry: bool = False
    accepts_new_keys: bool = False


@dataclass
class Outcome:
    """What became of one machine. ``steps`` are those that were done, or would be."""

    host: str
    name: str = ""
    node: str = ""
    tier: str = ""
    version: str = ""
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    error: PollenError | None = None


class Sessions:
    """Every ssh of a run, so that all can be ended."""

    def __init__(self) -> None:
        self._held: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.is_over = threading.Event()

    def ask(self, paths: Paths, program: str, rest: bytes, more: Sequence[str]) -> dict[str, str]:
        """Run a program there, with ``rest`` on its standard input; its answer.

        Raises ``unreachable`` or ``denied`` when ssh does not get there, or the answer does not
        come back whole.
        """
        line = tunnel.ssh_line(paths, "", remote.command(program), [*_NO_MASTER, *more])
        pipe = subprocess.PIPE
        try:
            with self._lock:
                if self.is_over.is_set():
                    raise error_from("unreachable", "the run was ended", "run it again")
                ssh = subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
                self._held.add(ssh)
        except (OSError, ValueError) as error:
            reason = f"ssh cannot be started: {error}"
            raise error_from("unreachable", reason, "install OpenSSH, or set PLN_SSH") from None
        try:
            printed, said = _heard(ssh, program.encode(), rest)
        except subprocess.TimeoutExpired:
            reason = f"{paths.host.removeprefix('ssh://')} did not end within {_PATIENCE} s"
            raise error_from("unreachable", reason, "run the same line again") from None
        finally:
            self._end(ssh)
        answer = answer_in(printed.decode(errors="replace"))
        if answer is None:
            text = printed.decode(errors="replace")
            words = said.decode(errors="replace")
            raise error_from_dict(_broken(paths, ssh.returncode, words, text))
        return answer

    def _end(self, ssh: subprocess.Popen[bytes]) -> None:
        if ssh.poll() is None:
            ssh.kill()
        for pipe in (ssh.stdout, ssh.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        ssh.wait()
        with self._lock:
            self._held.discard(ssh)

    def end(self) -> None:
        """End all of them, and let no other one start."""
        with self._lock:
            self.is_over.set()
            for ssh in self._held:
                ssh.kill()


def _heard(ssh: subprocess.Popen[bytes], *given: bytes) -> tuple[bytes, bytes]:
    """What ssh printed to each of its outputs until it ended. Raises ``TimeoutExpired``."""
    end = time.monotonic() + _PATIENCE
    threading.Thread(target=_feed, args=(ssh.stdin, given), daemon=True).start()
    ssh.stdin = None  # The thread's from here on: ``communicate`` cannot go on with an input.
    while True:
        is_over = ssh.poll() is not None
        try:
            return ssh.communicate(timeout=_LAST)
        except subprocess.TimeoutExpired as late:
            if is_over:
                return late.output or b"", late.stderr or b""
            if time.monotonic() > end:
                raise


def _feed(pipe: IO[bytes], given: Sequence[bytes]) -> None:
    """Write all of it, and close. It ends with whoever reads."""
    with contextlib.suppress(OSError), pipe:
        for data in given:
            view = memoryview(data)
            while view:
                view = view[pipe.write(view) :]


def _broken(paths: Paths, code: int, said: str, printed: str) -> dict[str, object]:
    if code == diagnosis.SSH_FAILED:
        found = diagnosis.of_ssh(paths, code, said)
        if "is not known here" in str(found["title"]):
            found["remedy"] = f"{found['remedy']}\nor trust it at first sight: --accept-new-keys"
        return found
    words = (said or printed).strip().splitlines()[-1:] or [f"its shell ended with {code}"]
    title = f"{paths.host.removeprefix('ssh://')} broke off: {words[0]}"
    return diagnosis.problem("unreachable", title, "run the same line again; it goes on from there")


class Machine:
    """The run of one machine; ``show`` hears what is done now."""

    def __init__(
        self,
        target: Target,
        options: Options,
        parts: tuple[Desk, Bundles, Sessions],
        show: Callable[[str], None],
    ) -> None:
        self._target, self._options = target, options
        self._desk, self._bundles, self._sessions = parts
        self._show = show
        self._wanted = Wanted(target.host, self._desk.cluster, is_own=options.is_own)
        self._is_home = False
        self._bundle: Bundle | None = None
        self._done: list[Step] = []

    def run(self) -> Outcome:
        """Do all steps that are left. What fails is in the outcome."""
        began = time.monotonic()
        outcome = Outcome(self._target.host, self._target.name)
        try:
            facts = self._go()
            outcome.node, outcome.version = facts.node, facts.version
            outcome.notes = self._notes(facts)
            member = self._desk.member(facts.node) if facts.node else None
            if member is not None:
                outcome.name, outcome.tier = str(member["name"]), str(member["tier"])
        except PollenError as error:
            outcome.error = error
        outcome.steps = tuple(step.value for step in self._done)
        outcome.seconds = time.monotonic() - began
        return outcome

    def _go(self) -> Facts:
        self._show("looking")
        facts = self._ask(None)
        if steps.uses_home(facts, self._wanted) and not self._options.is_own:
            self._is_home = True
            facts = self._ask(None)
        steps.check(facts, self._wanted)
        self._claim(facts)
        while True:
            self._have_archive(facts)
            if facts.node and not self._options.is_dry:
                self._desk.claim(facts.node, self._target.host)
            is_seen = bool(facts.node) and self._desk.member(facts.node) is not None
            step = steps.next_step(facts, self._wanted, is_seen=is_seen)
            if step is Step.DONE or (self._options.is_dry and step in self._done):
                return facts
            self._show(step.value)
            if self._options.is_dry:
                self._done.append(step)
                facts = _as_if(facts, step, self._wanted)
            elif step is Step.WAIT:
                self._wait(facts)
                self._done.append(step)
                return facts
            elif step in self._done:
                reason = f"{self._target.host}: {step.value} changed nothing"
                raise error_from("state-unusable", reason, self._look_there(facts))
            else:
                facts = self._do(step, facts)

    def _have_archive(self, facts: Facts) -> None:
        """Make the archive once it is known that the machine needs one."""
        is_needed = not steps.runs_another(facts) and not steps.keeps_software(facts)
        if is_needed and self._bundle is None:
            self._bundle = bundle = self._bundles.of(*facts.platform)
            self._wanted = replace(self._wanted, digest=bundle.digest, size=len(bundle.data))

    def _do(self, step: Step, facts: Facts) -> Facts:
        rest = b""
        if step is Step.INSTALL:
            rest = self._bundle.data if self._bundle else b""
        elif step is Step.JOIN:
            self._desk.check_name(self._name(facts), facts.node, self._target.host)
            rest = f"{self._desk.token(facts.node)}\n".encode()
        self._done.append(step)
        return self._ask(step, rest)

    def _ask(self, step: Step | None, rest: bytes = b"") -> Facts:
        program = remote.program(
            step,
            is_own=self._options.is_own,
            is_home=self._is_home,
            digest=self._wanted.digest,
            checksum=self._bundle.checksum if self._bundle and step is Step.INSTALL else "",
            name=self._target.name,
        )
        more = ACCEPT_NEW if self._options.accepts_new_keys else ()
        answer = self._sessions.ask(self._target.paths, program, rest, more)
        if error := failure_in(answer, self._target.host):
            raise error
        return facts_of(answer)

    def _wait(self, facts: Facts) -> None:
        end = time.monotonic() + _SEEN
        while self._desk.member(facts.node) is None:
            if time.monotonic() > end:
                reason = f"{self._target.host} runs, and is not seen here after {_SEEN:.0f} s"
                raise error_from("unreachable", reason, self._look_there(facts))
            if self._sessions.is_over.wait(_LOOK):
                return

    def _name(self, facts: Facts) -> str:
        """What its node is going to be called."""
        return self._target.name or name_of_machine(facts.name) or "node"

    def _claim(self, facts: Facts) -> None:
        """Key and name are this machine's for the run, before anything is changed there."""
        host = self._target.host
        if facts.node:
            self._desk.claim(facts.node, host)
        if facts.node and steps.member_of(facts):
            self._desk.keep_name(facts.node, host)
            return
        self._desk.claim_name(self._name(facts), host)
        self._desk.check_name(self._name(facts), facts.node, host)

    def _look_there(self, facts: Facts) -> str:
        return f"see: {self._there(facts, 'doctor')}"

    def _there(self, facts: Facts, *words: str) -> str:
        """What to type here so that something is done with the node there."""
        sudo = ["sudo"] if facts.root == "sudo" and facts.folder.startswith("/var/lib/") else []
        line = [*sudo, facts.command, "--dir", escaped(facts.folder), *words]
        return self._target.paths.ssh(*line)

    def _notes(self, facts: Facts) -> tuple[str, ...]:
        notes: list[str] = []
        if not steps.needs_unit(facts):
            up = f"{facts.command} up -d"
            notes.append(f"no service keeps it up; when the machine was restarted, there: {up}")
        given = self._bundles.version
        is_asked = self._bundles.is_given or facts.version != given
        if facts.version and is_asked and Step.INSTALL not in self._done:
            other = f"{self._there(facts, 'upgrade', '-')} <FILE.whl"
            notes.append(f"it runs pollen {facts.version} and keeps it; for another one: {other}")
        return tuple(notes)


def _as_if(facts: Facts, step: Step, wanted: Wanted) -> Facts:
    """The facts after a step that goes well, to plan the ones behind it."""
    python = f"{facts.base}/{wanted.digest}/venv/bin/python"
    is_system = facts.folder.startswith("/var/lib/")
    member = "system_member" if is_system else "home_member"
    changes: dict[Step, dict[str, str]] = {
        Step.INSTALL: {"software": wanted.digest},
        Step.SERVICE: {"unit": python},
        Step.KEY: {"node": "0" * 64},
        Step.JOIN: {member: wanted.cluster},
        Step.START: {"running": python},
    }
    return replace(facts, **changes.get(step, {}))  # type: ignore[arg-type]
