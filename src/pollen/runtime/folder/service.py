"""A detached daemon without any init system: start, find, stop.

The daemon is a new process in a session of its own, started through a second fork so that no zombie
stays with a long-lived starter. It tells through a pipe when it answers, or why it does not.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pollen import lock, paths
from pollen.errors import PollenError, Unreachable, error_from_dict
from pollen.paths import Paths
from pollen.sdk import silence
from pollen.sdk.control import Control

START_SECONDS = 30.0
STOP_MARGIN_SECONDS = 15.0
KILL_SECONDS = 5.0
POLL_SECONDS = 0.02
_MODULE = ["-m", "pollen.runtime"]


@dataclass(frozen=True)
class StartOptions:
    """What ``up`` passes on; empty is the configured value."""

    listen: Sequence[str] = ()
    http: str = ""
    http_paths: str = ""
    name: str = ""
    log_level: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def arguments(self, where: Paths) -> list[str]:
        """The command line of the daemon, without the interpreter."""
        line = ["--dir", str(where.home)]
        for address in self.listen:
            line += ["--listen", address]
        flags = (
            ("--http", self.http),
            ("--name", self.name),
            ("--log-level", self.log_level),
        )
        for flag, value in flags:
            line += [flag, value] if value else []
        line += ["--http-paths"] if self.http_paths else []
        return line

    def settings(self) -> dict[str, Any]:
        """The settings that these options give; they go before the file's."""
        given = {
            "listen": list(self.listen),
            "http": self.http,
            "http_paths": self.http_paths,
            "name": self.name,
            "log_level": self.log_level,
        }
        return {key: value for key, value in given.items() if value}


def running(where: Paths) -> int | None:
    """The pid of the live daemon of this folder, or None."""
    return lock.read_pid(where)


def node_of(line: Sequence[str]) -> list[str] | None:
    """The arguments of a node whose command line this is, less interpreter and module; else
    None."""
    words = list(line[2:]) if line[1:2] == ["-P"] else list(line[1:])
    return words[2:] if words[:2] == _MODULE else None


def options_of(where: Paths) -> StartOptions:
    """How the daemon that runs here was started, or the one that did not end in order."""
    held = lock.read_flags(where)
    listen, known = held.pop("listen", ()), ("http", "http_paths", "name", "log_level")
    return StartOptions(listen=listen, **{key: held[key] for key in known if key in held})


def start(where: Paths, options: StartOptions = StartOptions()) -> int:
    """Start a detached daemon and wait until it answers; returns its pid.

    Raises what the daemon's start raised: ``already-running``, ``port-in-use``, …
    """
    pid = running(where)
    if pid is not None:
        raise PollenError(
            "already-running", f"the daemon of {where.home} runs with pid {pid}", "pln status"
        )
    paths.make_home(where)
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        _spawn(where, [*options.arguments(where), "--ready-fd", str(writer)], options.environment)
    finally:
        os.close(writer)
    try:
        return _await_ready(where, reader)
    finally:
        os.close(reader)


def _spawn(where: Paths, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """fork, setsid, fork, exec: what runs then belongs to init."""
    line = [sys.executable, "-P", *_MODULE, *arguments]
    env = {**os.environ, **environment}
    middle = os.fork()
    if middle == 0:
        # Only async-signal-safe calls from here on: the starter may have threads.
        try:
            os.setsid()
            if os.fork() == 0:
                quiet = os.open(os.devnull, os.O_RDWR)
                # Appending: the file is moved aside when it is full (stderr.py).
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
                log = os.open(where.last_words, flags, 0o600)
                os.dup2(quiet, 0)
                os.dup2(quiet, 1)
                os.dup2(log, 2)
                os.execve(sys.executable, line, env)
        finally:
            os._exit(0)
    os.waitpid(middle, 0)


def _await_ready(where: Paths, reader: int) -> int:
    deadline = time.monotonic() + START_SECONDS
    heard = b""
    while not heard.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            raise Unreachable(
                "daemon-not-running",
                f"the daemon did not answer within {START_SECONDS:.0f} s",
                f"see {where.log_file}",
            )
        chunk = os.read(reader, 65_536)
        if not chunk:
            raise PollenError("internal", *_last_words(where))
        heard += chunk
    body = json.loads(heard)
    if "pid" in body:
        return int(body["pid"])
    error = error_from_dict(body)
    if error.slug == "internal" and (limit := _space()):
        # In too small a space whatever asks for memory first fails, each in its own words.
        error.reason, error.remedy = f"{error.reason}, {limit}", _SPACE_REMEDY
    raise error


_SPACE_REMEDY = "lift the limit: ulimit -v unlimited"


def _space() -> str:
    """The limit of the address space in words; empty for none."""
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    limited = space != resource.RLIM_INFINITY
    return f"in an address space of {space >> 20} MiB" if limited else ""


def _last_words(where: Paths) -> tuple[str, str]:
    words = where.last_words
    try:
        lines = words.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    last = lines[-1] if lines else "it said nothing"
    if limit := _space():
        reason = f"the daemon ended while it started, {limit}"
        return reason, f"{_SPACE_REMEDY}\nor see {words} and {where.log_file}"
    return f"the daemon ended while it started: {last}", f"see {words} and {where.log_file}"


def stop(where: Paths, grace_ms: int = -1, *, drain: bool = True, is_forced: bool = False) -> None:
    """End the daemon in order, by the API, else by signals.

    Raises ``daemon-not-running`` and, for one that is silent, ``daemon-not-answering``: it runs on.
    ``is_forced`` kills a silent one.
    """
    pid = running(where)
    if pid is None:
        paths.check_home(where)
        raise Unreachable("daemon-not-running", f"no daemon runs for {where.home}", "pln up -d")
    try:
        _ask_to_stop(where, pid, grace_ms, drain)
    except PollenError as error:
        if error.slug != "daemon-not-answering":
            # It lives and its socket does not: a signal also ends it in order.
            _signal(pid, signal.SIGTERM)
        elif is_forced:
            _signal(pid, signal.SIGKILL)
        else:
            raise
    grace_ms = configured_grace(where) if grace_ms < 0 else grace_ms
    patience = max(grace_ms, 5_000) / 1000 + STOP_MARGIN_SECONDS
    if _gone_within(where, pid, patience):
        return
    _signal(pid, signal.SIGKILL)
    if not _gone_within(where, pid, KILL_SECONDS):
        raise PollenError("internal", f"the process {pid} does not end", f"see {where.log_file}")


def configured_grace(where: Paths) -> int:
    """Milliseconds for calls by the settings; 0 where they cannot be read."""
    from pollen.runtime.folder.config import read_config

    try:
        return read_config(where.config_file).grace_ms
    except PollenError:
        return 0


def _ask_to_stop(where: Paths, pid: int, grace_ms: int, drain: bool) -> None:
    if silence.is_stopped(pid):
        raise silence.not_answering(where, 0)
    Control(where).request("POST", "/v1/shutdown", {"grace_ms": grace_ms, "drain": drain})


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _gone_within(where: Paths, pid: int, seconds: float) -> bool:
    """Wait for the process, by its start time: a recycled pid is another process."""
    began = lock.start_time(pid)
    deadline = time.monotonic() + seconds
    while began and lock.start_time(pid) == began:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
