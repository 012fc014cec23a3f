"""What ssh says when it does not work, as an error with a remedy; no I/O.

Decides: which kind of failure the words and the exit code are.
Does not know: processes; ``tunnel`` and ``pollen.cli.remote`` run ssh.
Invariants: each answer is a problem object (``errors.error_from_dict``), and nothing was executed.
Source: docs/design/cli.md#other-machines; the texts are those of OpenSSH 7.4 to 9.9.
"""

from __future__ import annotations

import re
from typing import Final

from pollen.paths import Paths
from pollen.plain import escaped

# ssh ends with it when it is ssh itself that failed.
SSH_FAILED: Final = 255
_NOT_FOUND: Final = 127
_NOT_RUNNABLE: Final = 126
_UNREACHABLE: Final = (
    "could not resolve",
    "connection refused",
    "connection timed out",
    "no route to host",
    "network is unreachable",
    "operation timed out",
    "host is down",
    "connection closed by",
    "connection reset by",
    "kex_exchange_identification",
)


def problem(slug: str, title: str, remedy: str) -> dict[str, object]:
    """An error of the way, before anything was executed."""
    return {"slug": slug, "title": title, "remedy": remedy, "may_have_executed": False}


def of_ssh(paths: Paths, code: int | None, said: str, noise: str = "") -> dict[str, object]:
    """The problem of an ssh that ended with ``code``; ``said`` is its stderr, ``noise`` what came
    on stdout in place of our frames."""
    batch = paths.ssh("true", options=["-o", "BatchMode=yes"])
    looks = f"see: {paths.ssh('true', options=['-v'])}"
    host, low = paths.host.removeprefix("ssh://"), said.lower()
    if "remote host identification has changed" in low:
        title = f"the host key of {host} has changed: another machine, or somebody in between"
        remedy = f"ask who runs it. If the new key is right: ssh-keygen -R {_known_as(paths, said)}"
        return problem("unreachable", title, remedy)
    if "host key verification failed" in low or "host key is known" in low:
        title = f"the host key of {host} is not known here"
        remedy = f"connect once and compare the key: {paths.ssh('true')}"
        return problem("unreachable", title, remedy)
    if "permission denied" in low and code == SSH_FAILED:
        title = f"{host} does not let you in: {_line(said, 'permission denied')}"
        return problem("denied", title, f"see that this works: {batch}")
    if code in (_NOT_FOUND, _NOT_RUNNABLE):
        title = f"the PATH of {host} has no pln: {_last(said)}"
        remedy = f"install it there, or put it on the PATH of: {paths.ssh('command', '-v', 'pln')}"
        return problem("unreachable", title, remedy)
    if "_stdio" in low:
        title = f"{host} has an older pln, without contexts: {_last(said)}"
        return problem("unreachable", title, f"compare: {paths.ssh('pln', 'version')}")
    if code == SSH_FAILED and (what := [text for text in _UNREACHABLE if text in low]):
        title = f"{host} cannot be reached: {_line(said, what[0])}"
        return problem("unreachable", title, looks)
    told = _last(said) or _last(noise) or f"it ended with code {code}"
    return problem("unreachable", f"ssh to {host} failed: {told}", looks)


def of_socket(paths: Paths, why: str, text: str) -> dict[str, object]:
    """The problem of a socket that the far end could not open, by its word."""
    start = f"start it there: {paths.command('up -d')}"
    match why:
        case "no-folder":
            remedy = f"name another one with --dir, or {start}"
            return problem("daemon-not-running", f"there is no folder {paths.place}", remedy)
        case "no-daemon":
            return problem("daemon-not-running", f"no daemon answers in {paths.place}", start)
        case "not-ours":
            remedy = "log in there as its owner: -H owner@host"
            return problem(
                "unreachable", f"the daemon in {paths.place} belongs to somebody else", remedy
            )
        case "busy":
            title = f"the daemon in {paths.place} takes no connection"
            return problem("daemon-not-answering", title, f"see: {paths.command('doctor')}")
    title = f"the socket in {paths.place} cannot be opened: {escaped(text)}"
    return problem("unreachable", title, f"see: {paths.command('doctor')}")


def _known_as(paths: Paths, said: str) -> str:
    """The host as the file of known hosts has it."""
    found = re.search(r"host key for (\[[\w.:-]+\]:\d+|[\w.:-]+) has changed", said, re.IGNORECASE)
    name = found[1].rstrip(".") if found else paths.ssh_words[-1].rpartition("@")[2]
    return f"'{name}'" if "[" in name else name


def _lines(said: str) -> list[str]:
    return [escaped(line.strip()) for line in said.splitlines() if line.strip()]


def _line(said: str, what: str) -> str:
    return next((line for line in _lines(said) if what in line.lower()), _last(said))


def _last(said: str) -> str:
    return (_lines(said) or [""])[-1]
