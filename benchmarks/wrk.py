"""A run of wrk (Debian's package) as a figure, and ports for those that it asks."""

from __future__ import annotations

import re
import socket
import subprocess

LOOPBACK = "127.0.0.1"
_RATE = re.compile(r"Requests/sec:\s*([\d.]+)")
_FAILED = re.compile(r"Socket errors:.*|Non-2xx or 3xx responses:.*")


def rate_of(line: list[str]) -> float:
    """Requests a second of this command. Raises ``RuntimeError`` where any request failed."""
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    failed, rate = _FAILED.search(done.stdout), _RATE.search(done.stdout)
    if done.returncode or failed or rate is None:
        raise RuntimeError(f"{' '.join(line)}: {failed[0] if failed else done.stdout}{done.stderr}")
    return float(rate[1])


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
