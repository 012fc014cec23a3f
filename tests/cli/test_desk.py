"""The command line from a desk elsewhere: its tests again, over ssh, on a context in use.

Whatever a test of this folder asks of a running node by ``up`` alone holds from afar as well, but
for those in ``HERE``, each with its reason.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.cli.conftest import EXAMPLES, Done, Pln
from tests.sshd import serving

pytestmark = pytest.mark.timeout(120)

MODULES = (
    "codes",
    "doctor",
    "explain",
    "output",
    "silence",
    "steering",
    "values",
    "watch",
    "words",
)
_FIRST = "on a terminal the line that says which machine answered comes first"
_OWN_FOLDER = "it looks into the folder, or names one here"
HERE = {
    "test_init_on_a_running_node_of_its_own_cluster_changes_nothing": "init goes by hand",
    "test_joining_with_a_running_node_says_all_that_is_to_do": "join goes by hand",
    "test_two_ups_and_two_downs": "up goes by hand",
    "test_a_reader_that_has_enough_is_no_error": "stderr has the line of the machine",
    "test_status_fits_the_terminal": _FIRST,
    "test_a_watched_status_is_drawn_over_the_one_before": _FIRST,
    "test_on_a_terminal_an_error_begins_on_a_line_of_its_own": _FIRST,
    "test_an_error_begins_on_a_line_of_its_own": _FIRST,
    "test_a_changed_module_is_published_again": _FIRST,
    "test_a_load_whose_client_goes_away_ends": _OWN_FOLDER,
    "test_a_status_of_a_folder_that_was_given_names_it_in_its_hints": _OWN_FOLDER,
}


class Desk(Pln):
    """``pln`` of a user whose context in use is another machine; it is told of each time."""

    def __call__(self, *arguments: str, **more: object) -> Done:
        done = super().__call__(*arguments, **more)  # type: ignore[arg-type]
        first, _, rest = done.stderr.partition(b"\n")
        return Done(
            done.args, done.returncode, done.stdout, rest if is_arrival(first) else done.stderr
        )


def is_arrival(line: bytes) -> bool:
    """Whether it is the line that says which machine answered."""
    return line.startswith(b"on lab")


@pytest.fixture(scope="module")
def up() -> Iterator[Pln]:
    """``pln`` at a desk, and a node that it reaches by ssh."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        there = Path(folder) / "node"
        there.mkdir(mode=0o700)
        node = Pln(there)
        desk = Desk(Path(folder) / "desk")
        desk.home.mkdir()
        del desk.environment["PLN_DIR"]
        desk.environment.pop("XDG_CONFIG_HOME", None)
        with serving(Path(folder) / "ssh", PLN_DIR=str(there)) as server:
            desk.environment["PLN_SSH"] = server.ssh
            try:
                node.ok("init", "--name", "solo")
                node.ok("up", "-d", "--ips", "127.0.0.1", "--port", "0")
                desk.ok("context", "add", "lab", server.url)
                desk.ok("context", "use", "lab")
                for name in ("echo", "trap", "hog"):
                    desk.ok("seed", str(EXAMPLES / f"{name}.wasm"), name)
                yield desk
            finally:
                node("down", "--force")


def _again() -> None:
    for module in MODULES:
        held = vars(import_module(f"tests.cli.test_{module}"))
        for name, function in held.items():
            if not name.startswith("test_") or name in HERE:
                continue
            wanted = inspect.signature(function).parameters
            if "up" in wanted and not {"pln", "lied_to"} & set(wanted):
                globals()[f"{name}_from_afar"] = function


_again()


def test_what_is_left_out_exists() -> None:
    known = {name for module in MODULES for name in vars(import_module(f"tests.cli.test_{module}"))}
    assert set(HERE) <= known
