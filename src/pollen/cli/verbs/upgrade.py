"""Put another version of Pollen under the node here, and take it back when it fails"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import click

from pollen.cli.app import paths_of, with_globals
from pollen.cli.values import DURATION
from pollen.errors import error_from
from pollen.paths import Paths


@click.command("upgrade")
@click.argument("wheel", required=False, metavar="[WHEEL]")
@click.option("--all", "is_all", is_flag=True, help="Each node of pln context, one by one.")
@click.option("--dry-run", is_flag=True, help="Check everything, and change nothing.")
@click.option("--allow-downgrade", is_flag=True, help="WHEEL may be older than what runs.")
@click.option(
    "--patience",
    type=DURATION,
    default="60s",
    show_default=True,
    help="For the node to be healthy again.",
)
@with_globals
@click.pass_context
def upgrade_command(
    ctx: click.Context,
    wheel: str | None,
    is_all: bool,
    dry_run: bool,
    allow_downgrade: bool,
    patience: int,
) -> None:
    """Upgrade the node here to WHEEL, a file, or to the newest version of the package index.

    The node drains, starts again on the new version, and must be what it was before: a member that
    sees its neighbours and has its seeds. Otherwise the old version comes back by itself. An
    upgrade that was cut off goes on when the command runs again.

    \b
    Examples:
      pln upgrade pollen_mesh-0.2.0-cp311-abi3-manylinux_2_28_x86_64.whl
      pln upgrade
      pln upgrade --all FILE.whl
    """
    from pollen.cli import remote, rollout
    from pollen.runtime.upgrade.begin import Wish

    options = ["--dry-run"] * dry_run + ["--allow-downgrade"] * allow_downgrade
    options += ["--patience", f"{patience}ms"]
    if is_all:
        rollout.all_contexts(ctx, wheel, options)
        return
    where = paths_of(ctx)
    if where.host:
        remote.say_where(ctx.ensure_object(dict)["label"])
        ctx.exit(rollout.far(where, wheel, options))
    _here(where, wheel, Wish(patience / 1000, allow_downgrade), dry_run)


def _here(where: Paths, source: str | None, wish: Any, dry_run: bool) -> None:
    from pollen.cli import upgrader
    from pollen.runtime.upgrade import begin

    site = begin.site_of_ours()
    site.installed()
    site.check_writable()
    with site.lock() as descriptor:
        if (journal := site.read_journal()) is not None:
            if site.held(journal) is not None:
                _resume(site, descriptor, journal, dry_run)
            click.echo(
                f"the environment was changed since an upgrade to {journal.new.version} "
                "was cut off: that one is dropped"
            )
            site.remove_journal()
            site.clear()
        if _prepared(site, where, source, wish, dry_run):
            upgrader.go_on(site, descriptor, [])


def _resume(site: Any, descriptor: int, journal: Any, dry_run: bool) -> NoReturn:
    """Go on with an upgrade that was cut off, then with what was asked for."""
    from pollen.cli import upgrader

    if dry_run:
        reason = f"an upgrade to {journal.new.version} was cut off here"
        raise error_from("usage", reason, "go on with it: pln upgrade")
    click.echo(f"going on with an upgrade to {journal.new.version}, which was cut off")
    # By whichever version is here by then.
    upgrader.go_on(site, descriptor, sys.argv[1:])


def _prepared(site: Any, where: Paths, source: str | None, wish: Any, dry_run: bool) -> bool:
    """Whether everything is ready for another version."""
    from pollen.runtime.upgrade import begin, wheel

    status = begin.look(where, site)
    with tempfile.TemporaryDirectory(prefix="pln-") as folder:
        new = wheel.check(_file_of(source, Path(folder)))
        old = site.installed()
        click.echo(f"checked {wheel.DISTRIBUTION} {new.said} ({new.tags}, {new.size} bytes)")
        if begin.is_done(status, old, new):
            click.echo(f"nothing to do: {status['name']} runs {old.version}, the same files")
            return False
        begin.compare(old, new, wish)
        if dry_run:
            begin.rehearse(site, new)
            click.echo(f"would upgrade {status['name']} from {old.version} to {new.said}")
            return False
        begin.prepare(site, where, new, status, wish)
    return True


def _file_of(source: str | None, folder: Path) -> Path:
    from pollen.runtime.upgrade import begin

    if source is None:
        return begin.fetch(folder)
    return begin.from_input(folder) if source == "-" else Path(source)
