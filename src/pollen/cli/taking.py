"""``pln _upgrade``: what a node starts beside itself for an upgrade over the mesh. Nobody types it.

Decides: the order: what was cut off before, then the wheel, then what ``pln upgrade`` does here.
Does not know: whether the release is good; the node's brain judged it before.
Invariants: no code of a wheel runs before its hash is the one that was signed. However this ends,
    the node can tell who asked; a kill too.
Source: docs/decisions/an-upgrade-over-the-mesh.md.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from pollen.cli.app import with_globals
from pollen.errors import PollenError, error_from
from pollen.paths import Paths, cure, resolve


@click.command("_upgrade", hidden=True)
@with_globals
@click.pass_context
def _upgrade_command(ctx: click.Context) -> None:
    """Upgrade the node here to what was taken over the mesh.

    \b
    Example:
      pln _upgrade --dir ~/.pln
    """
    from pollen.runtime.upgrade import taken

    where = resolve(ctx.ensure_object(dict).get("directory"))
    box = taken.Box(where)
    box.note(process=taken.process_of(os.getpid()))
    try:
        _speak_into(box.output)
        _take(where)
    except PollenError as error:
        box.fail(error)
        raise
    except OSError as error:
        path = Path(error.filename or where.home)
        reason = f"{path} cannot be used: {error.strerror or error}"
        box.fail(PollenError("state-unusable", reason, cure(path, error)))
        raise


def _speak_into(path: Path) -> None:
    """What is printed from here on is kept, for whoever asks why."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _take(where: Paths) -> None:
    from pollen.cli import upgrader
    from pollen.cli.verbs import upgrade
    from pollen.runtime.upgrade import begin, shelf, taken

    box = taken.Box(where)
    wish, home = box.wish(), str(where.home)
    site = begin.site_of_ours()
    site.installed()
    site.check_writable()
    upgrade.resume(site, False, ["_upgrade", "--dir", home], home)
    with contextlib.ExitStack() as held:
        try:
            shelf.fetch(
                where, wish.wheel, wish.size, box.wheel, lambda text: box.note(said=f"has {text}")
            )
            box.note(step=taken.WORKING, said="")
            descriptor = held.enter_context(site.lock())
            is_ready = upgrade.prepared(
                site,
                where,
                (f"the wheel of {wish.version}", box.wheel),
                begin.Wish(wish.patience, wish.allow_older),
                False,
            )
        except PollenError as error:
            if error.slug == "usage" and "--allow-downgrade" in error.remedy:
                remedy = "if that is meant: pln upgrade --mesh --allow-downgrade FILE.whl"
                raise error_from("usage", error.reason, remedy) from None
            raise
        finally:
            box.wheel.unlink(missing_ok=True)
        if is_ready:
            upgrader.go_on(site, descriptor, [], home)
        box.note(step=taken.DONE)
