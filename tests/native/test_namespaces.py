"""Namespaces of test clusters: those of a process that was killed do not stay."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pollen.testing.namespaces import Spaces, sweep

pytestmark = pytest.mark.skipif(not Spaces.is_possible(), reason="these need root and namespaces")


def _spaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in listed.stdout.splitlines()}


def test_what_a_dead_process_left_is_taken_away_and_nothing_else() -> None:
    """Its namespaces go, and what runs in them; those of the living stay."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, own = f"p{ended.pid % 100_000}x0-a", f"p{os.getpid() % 100_000}x65000-a"
    for name in (left, own):
        subprocess.run(["ip", "netns", "add", name], check=True)
    inside = subprocess.Popen(["ip", "netns", "exec", left, "sleep", "600"])
    try:
        while not subprocess.run(
            ["ip", "netns", "pids", left], capture_output=True, text=True, check=True
        ).stdout:
            assert inside.poll() is None
        assert left in sweep()
        assert inside.wait(timeout=10) != 0
        assert left not in _spaces()
        assert own in _spaces()
    finally:
        inside.kill()
        inside.wait()
        for name in (left, own):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
