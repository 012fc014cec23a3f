"""What ``pln seed`` and ``pln rollback`` print: what was published, and where it is by now."""

from __future__ import annotations

import sys
import threading
from typing import Any

import click

from pollen.cli import arguments, output
from pollen.cli.proposals import here
from pollen.plain import escaped
from pollen.sdk.control import Control
from pollen.sdk.python.kinds import HELD
from pollen.units import human_bytes

# How long a publication waits for its hosts, and a blob for its copies besides: what comes to them
# in a second at least.
SETTLE_SECONDS = 10.0
_COPY_BYTES_S = 4 << 20
# Other nodes may have to compile Python, which takes 9 s and is no reason to wait: the first node
# that is ready answers their callers.
_REST_SECONDS = 0.4
# After so long a user is told what takes its time, on a terminal.
_WORD_SECONDS = 2.0
# The functions of a program compiled as a WASI command.
_PROGRAM = ["_start"]
# The function of a component that answers HTTP.
_HANDLER = "wasi:http/incoming-handler"


def settled(
    control: Control, answer: dict[str, Any], *, as_json: bool, is_python: bool = False
) -> dict[str, Any]:
    """``SeedState`` when what was published is where it is wanted, or the wait is over: of a blob
    the time that its copies may take, of Python a moment after the first node has it."""
    seconds, rest = SETTLE_SECONDS, _REST_SECONDS if is_python else 0.0
    if answer["kind"] in HELD:
        seconds += answer["size_bytes"] / _COPY_BYTES_S
    text = f"{answer['name']} is published; its copies are made (Ctrl-C does not stop that) ..."
    told = threading.Timer(_WORD_SECONDS, lambda: click.echo(text, err=True))
    if answer["kind"] in HELD and not as_json and sys.stderr.isatty():
        told.start()
    try:
        return control.wait_ready(answer["name"], answer["seed"], seconds, rest)
    finally:
        told.cancel()


def print_place(state: dict[str, Any], answer: dict[str, Any]) -> None:
    """Where it is ready, and what is missing. ``state`` is a ``SeedState``."""
    view, name, seed = state["seed"], answer["name"], answer["seed"]
    if view is None or seed not in (view["seed"], view["halted"]):
        return  # updated again by somebody else, or withdrawn
    if view["halted"] == seed:
        click.echo(here(f"hint: the version before serves on; see: pln why place {name}"))
        return
    ready = sorted(held["name"] for held in view["replicas"] if held["state"] == "ready")
    if ready:
        place = "held by:   " if view["kind"] in HELD else "ready on:  "
        click.echo(f"  {place}{', '.join(ready)}")
    for warning in state["warnings"]:
        click.echo(here(f"warning: {warning}"))
    if not ready and answer["replaced"] and view.get("before"):
        click.echo("hint: the version before serves on until this one is ready")
    if len(ready) < view["wanted"] and not state["warnings"]:
        what = "copies" if view["kind"] in HELD else "replicas"
        few = f"{len(ready)} of {view['wanted']} {what} are ready"
        click.echo(here(f"hint: {few}; see: pln why place {name}"))


def print_seeded(
    answer: dict[str, Any],
    python: str,
    state: dict[str, Any],
    as_json: bool,
    verb: str = "updated",
) -> None:
    """What became of the publication; the brain words the changes (``seeds.specs``). ``state`` is a
    ``SeedState``, or empty when nobody waited for it. ``python`` says what the files of a Python
    seed are, else nothing; ``verb`` what happened to the version before."""
    if as_json:
        output.print_json(answer)
        return
    verb = "unchanged" if answer["unchanged"] else verb if answer["replaced"] else "seeded"
    size = python or human_bytes(answer["size_bytes"])
    click.echo(f"{verb} {answer['name']} ({answer['seed'][:8]}, {size})")
    if answer["kind"] in HELD:
        click.echo(f"  content:   {answer['content']}")
        if sealed_for := _recipients(state):
            click.echo(escaped(f"  sealed for: {sealed_for}"))
        for change in answer["changed"]:
            click.echo(f"  changed:   {change}")
        click.echo(here(f"  fetch it:  pln fetch {answer['name']}"))
        return
    signatures = state.get("description", {}).get("functions", {})
    told = [
        name + str(signatures.get(name, {}).get("signature", "")) for name in answer["functions"]
    ]
    click.echo(f"  functions: {escaped(', '.join(told))}")
    for change in answer["changed"]:
        click.echo(f"  changed:   {change}")
    if python or signatures:
        words = " ".join([answer["name"], *arguments.example(answer["functions"], signatures)])
        click.echo(here(f"  call it:   pln call {words}"))
        return
    if _HANDLER in answer["functions"]:
        click.echo(f"  ask it:    over HTTP, at /http/{answer['name']}/")
        return
    exports = [name for name in answer["functions"] if name not in _PROGRAM]
    how = exports[0] if exports else "- < FILE"
    click.echo(here(f"  call it:   pln call {answer['name']} {how}"))
    if exports and set(_PROGRAM) & set(answer["functions"]):
        click.echo("hint: a program's exports mostly need its runtime started; in Go, build them")
        click.echo("hint: with go build -buildmode=c-shared")


def _recipients(state: dict[str, Any]) -> str:
    """The names of the nodes that a blob is sealed for; empty for one that is not."""
    view = state.get("seed") or {}
    return ", ".join(sorted(view.get("recipients", {}).values()))
