"""The process that carries an upgrade out: from a copy of our files, since the package changes.

Decides: what it is handed, what it prints, how it ends.
Does not know: the steps (``pollen.runtime.upgrade``).
Invariants: the lock of the environment is held without a gap, and no node inherits it. Whoever
    listened may be gone: the upgrade goes on.
Source: docs/guide/upgrade.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from pollen.errors import PollenError
from pollen.paths import resolve
from pollen.runtime.upgrade import drive, taken
from pollen.runtime.upgrade.site import Site

_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from pollen.cli.upgrader import main; main()"


def go_on(site: Site, descriptor: int, then: list[str], home: str = "") -> NoReturn:
    """Replace this process by one that runs from the copy, and holds the lock still.

    ``then`` is the line of ``pln`` to run after an upgrade that was cut off before. ``home`` is
    the folder of a node that was asked over the mesh, which is told how it ends.
    """
    os.set_inheritable(descriptor, True)
    told = json.dumps({"site": str(site.folder), "lock": descriptor, "then": then, "home": home})
    line = [sys.executable, "-P", "-c", _CODE, str(site.driver), told]
    sys.stdout.flush()
    # Until the other process takes it, Ctrl-C would end it with a trace.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.execv(sys.executable, line)


def main() -> NoReturn:
    """Go on from the journal, and end as ``pln upgrade`` does."""
    from pollen.cli import output

    told = json.loads(sys.argv[2])
    os.set_inheritable(told["lock"], False)
    site = Site(Path(told["site"]))
    box = taken.Box(resolve(told["home"])) if told["home"] else None
    try:
        journal = site.read_journal()
        assert journal is not None, "it is written before this process begins"
        drive.drive(site, journal, _say)
    except PollenError as error:
        if box is not None:
            box.fail(error)
        with contextlib.suppress(OSError):
            output.print_error(error, as_json=False)
        sys.exit(error.exit_code)
    if box is not None and not told["then"]:
        box.note(step=taken.DONE)
    if told["then"]:
        os.close(told["lock"])
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execv(sys.executable, [sys.executable, "-P", "-m", "pollen.cli", *told["then"]])
    sys.exit(0)


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:
        # Else what is left in the buffer would fail again at the end, and be our exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
