"""Put another version under the node here; a bad one is taken back"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from pollen.cli.app import complete_nodes, paths_of, with_globals
from pollen.cli.values import DURATION
from pollen.errors import error_from
from pollen.paths import Paths

# In the place of a wheel's name: no file has such a name.
INDEX = "\0index"
_NAME_ONE = "name one: pln upgrade FILE.whl, or take the newest of the index: pln upgrade --index"


@click.command("upgrade")
@click.argument("wheel", required=False, metavar="[WHEEL]")
@click.argument("nodes", nargs=-1, metavar="[NODE]...", shell_complete=complete_nodes)
@click.option("--all", "is_all", is_flag=True, help="Each node of pln context, one by one.")
@click.option("--mesh", is_flag=True, help="Over the mesh: each NODE, or with --all every node.")
@click.option("--index", "is_index", is_flag=True, help="The newest of the package index.")
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
    nodes: tuple[str, ...],
    is_all: bool,
    mesh: bool,
    is_index: bool,
    dry_run: bool,
    allow_downgrade: bool,
    patience: int,
) -> None:
    """Upgrade the node here to WHEEL, a file, or with --index to the newest of your package index.

    The node drains, starts again on the new version, and must be what it was before: a member that
    sees its neighbours and has its seeds. Otherwise the old version comes back by itself. An
    upgrade that was cut off goes on when the command runs again; then WHEEL is not needed.

    With --mesh the root key here signs WHEEL, and other nodes of the cluster fetch it over the
    mesh: those with `pln set upgrade.from root`.

    \b
    Examples:
      pln upgrade pollen_mesh-0.2.0-cp311-abi3-manylinux_2_28_x86_64.whl
      pln upgrade --index
      pln upgrade --all FILE.whl
      pln upgrade --mesh FILE.whl barn cellar
    """
    from pollen.cli import remote, rollout
    from pollen.runtime.upgrade.begin import Wish

    if nodes and not mesh:
        raise error_from("usage", "a NODE is reached over the mesh", "add --mesh")
    if mesh:
        if wheel is None or is_index or bool(nodes) == is_all:
            remedy = "pln upgrade --mesh FILE.whl NODE…, or for every node: --mesh --all FILE.whl"
            raise error_from("usage", "--mesh takes a wheel file, and nodes or --all", remedy)
        from pollen.cli import overmesh

        asked = overmesh.Asked(wheel, nodes, patience, dry_run, allow_downgrade)
        overmesh.upgrade(paths_of(ctx), asked)
        return
    if is_index and wheel is not None:
        raise error_from("usage", "both a wheel and --index are given", "leave one of them out")
    options = ["--index"] * is_index + ["--dry-run"] * dry_run
    options += ["--allow-downgrade"] * allow_downgrade
    options += ["--patience", f"{patience}ms"]
    if is_all:
        rollout.all_contexts(ctx, wheel, options)
        return
    where = paths_of(ctx)
    if where.host:
        remote.say_where(ctx.ensure_object(dict)["label"])
        ctx.exit(rollout.far(where, wheel, options))
    wish = Wish(patience / 1000, allow_downgrade)
    _here(where, INDEX if is_index else wheel, wish, dry_run)


def _here(where: Paths, source: str | None, wish: Any, dry_run: bool) -> None:
    from pollen.cli import upgrader
    from pollen.runtime.upgrade import begin

    site = begin.site_of_ours()
    site.installed()
    site.check_writable()
    resume(site, dry_run, sys.argv[1:] if source is not None else [])
    if source is None:
        raise error_from("usage", "no wheel is named, and no upgrade was cut off here", _NAME_ONE)
    with contextlib.ExitStack() as held:
        with tempfile.TemporaryDirectory(prefix="pln-") as folder:
            # Before the lock: nobody waits for a slow sender.
            path = _file_of(source, Path(folder))
            descriptor = held.enter_context(site.lock())
            is_ready = prepared(site, where, (source, path), wish, dry_run)
        if is_ready:
            upgrader.go_on(site, descriptor, [])


def resume(site: Any, dry_run: bool, then: list[str], home: str = "") -> None:
    """Go on with an upgrade that was cut off, then with the line ``then``. Comes back when there
    is none, or what it left is of no use any more. ``home`` as for ``upgrader.go_on``."""
    from pollen.cli import upgrader
    from pollen.paths import resolve
    from pollen.runtime.upgrade import begin

    if site.read_journal() is None:
        return
    with site.lock() as descriptor:
        if (journal := site.read_journal()) is None:
            return
        new = journal.new.version
        if dry_run:
            reason = f"an upgrade to {new} was cut off here"
            raise error_from("usage", reason, "go on with it: pln upgrade")
        if site.held(journal) is None:
            since = f"since an upgrade to {new} was cut off"
            click.echo(f"somebody else changed the environment {since}, which is dropped")
            site.remove_journal()
            site.clear()
            return
        begin.check_user(resolve(journal.home))
        click.echo(f"going on with an upgrade to {new}, which was cut off")
        # The copy that was made then may not have reached the disk.
        site.keep_driver()
        # What was asked for is done by whichever version is here by then.
        upgrader.go_on(site, descriptor, then, home)


def prepared(site: Any, where: Paths, given: tuple[str, Path], wish: Any, dry_run: bool) -> bool:
    """Whether everything is ready for another version. ``given`` is a wheel as the user named it,
    and our copy of it. The caller holds the lock of the environment."""
    from pollen.runtime.upgrade import begin, wheel

    if site.read_journal() is not None:
        reason = "another upgrade was cut off here meanwhile"
        raise error_from("usage", reason, "go on with it: pln upgrade")
    status = begin.look(where, site)
    name, path = given
    new = wheel.check(path, Path(name) if name not in ("-", INDEX) else None)
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


def _file_of(source: str, folder: Path) -> Path:
    from pollen.runtime.upgrade import begin

    return begin.fetch(folder) if source == INDEX else begin.receive(source, folder)
