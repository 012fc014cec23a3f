"""``python -m pollen.runtime``: the daemon in the foreground; ``pln up -d`` starts it detached.

With ``--ready-fd N`` one line of JSON tells the starter how it went: ``{"pid": n}`` when the
control API answers, else the problem. The exit code is that of the error's slug.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from pollen import paths
from pollen.errors import PollenError
from pollen.plain import escaped, escaped_lines
from pollen.runtime.folder.config import read_config

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, report."""
    options = _parser().parse_args(arguments)
    tell = _Teller(options.ready_fd)
    try:
        where = paths.resolve(options.dir)
        flags = _flags(options)
        config = msgspec.structs.replace(read_config(where.config_file), **flags)
        # Imported here, so that a wrong option is told without loading the engine's friends.
        from pollen.runtime import daemon

        with_text = sys.stderr.isatty() and options.ready_fd < 0
        return daemon.run_daemon(
            where, config, with_text=with_text, on_ready=tell.ready, flags=flags
        )
    except PollenError as error:
        tell.failed(error)
        return error.exit_code
    except KeyboardInterrupt:
        # Ctrl-C before the node was up, or the second one: nobody waits for calls any more.
        _let_the_kernel_end_it()
        print("stopped at once; calls under way were cut off", file=sys.stderr)
        return EXIT_INTERRUPTED


def _let_the_kernel_end_it() -> None:
    """One more Ctrl-C ends the process and says nothing."""
    with contextlib.suppress(ValueError):  # not the main thread: a test drives us
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class _Teller:
    """Says once how the start went: to the starter's pipe, else to the terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def ready(self) -> None:
        self._write({"pid": os.getpid()})

    def failed(self, error: PollenError) -> None:
        if self._descriptor >= 0:
            self._write(error.to_dict())
            return
        print(f"error: {escaped(error.reason)}", file=sys.stderr)
        for line in escaped_lines(error.remedy) if error.remedy else ():
            print(f"  {line}", file=sys.stderr)
        print(f"  [{error.slug}]", file=sys.stderr)

    def _write(self, body: object) -> None:
        if self._descriptor < 0:
            return
        line = json.dumps(body).encode() + b"\n"
        try:
            os.write(self._descriptor, line)
            os.close(self._descriptor)
        except OSError:
            pass  # the starter is gone: nobody listens
        self._descriptor = -1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pollen.runtime", description=__doc__)
    parser.add_argument("--dir", default=None, help="the node's folder (PLN_DIR, ~/.pln)")
    parser.add_argument("--listen", action="append", default=[], metavar="ADDRESS:PORT")
    parser.add_argument("--http", default="", metavar="ADDRESS:PORT")
    parser.add_argument("--http-paths", action="store_const", const="on", default="")
    parser.add_argument("--name", default="")
    parser.add_argument("--log-level", default="", choices=["", "debug", "info", "warning"])
    parser.add_argument("--ready-fd", type=int, default=-1, help=argparse.SUPPRESS)
    return parser


def _flags(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line gives; they go before the file's."""
    given = {
        "listen": options.listen,
        "http": options.http,
        "http_paths": options.http_paths,
        "name": options.name,
        "log_level": options.log_level,
    }
    return {key: value for key, value in given.items() if value}


if __name__ == "__main__":
    sys.exit(main())
