"""``pln seed --watch``: what a compiler writes is published as it comes."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

from tests.cli.conftest import EXAMPLES, Pln


def test_a_changed_module_is_published_again(up: Pln, tmp_path: Path) -> None:
    """A broken state in between is told and left; Ctrl-C ends it and leaves the seed."""
    source = tmp_path / "watched.wasm"
    shutil.copy(EXAMPLES / "echo.wasm", source)
    line = up.line("seed", str(source), "--watch")
    process = subprocess.Popen(
        line, env=up.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        assert process.stdout.readline().startswith(b"seeded watched (")
        source.write_bytes(b"half a module")
        assert b"error: " in process.stderr.readline()
        shutil.copy(EXAMPLES / "shout.wasm", source)
        said = [process.stdout.readline() for _ in range(6)]
        assert said[4].startswith(b"updated watched (")
        assert b"shout, upper" in said[5]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        assert process.returncode == 130
        assert up.ok("call", "watched", "upper", "hi") == "HI"
    finally:
        process.kill()
        up("unseed", "watched")
