"""Look after the root key: see it, seal it, sign with it"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any

import click

from pollen.cli import output, paper
from pollen.cli.app import control_of, paths_of, with_globals, with_json
from pollen.cli.membership import may_go_on, until_text
from pollen.cli.rootkeys import opened, passphrase_of, sheet_of, succeed_away, tell, with_passphrase
from pollen.errors import PollenError, error_from
from pollen.paths import Paths
from pollen.plain import escaped

# Where there is nobody to ask.
_ASKS = "the root signs nothing unasked"


@click.group("root")
@with_globals
def root_command() -> None:
    """Look after the root key, which alone makes and unmakes admins.

    \b
    Examples:
      pln root status
      pln root export root.age
      pln root sign request.txt --key root.age
    """


# -- status -------------------------------------------------------------------------------------


@root_command.command("status")
@with_json
@with_globals
@click.pass_context
def status_command(ctx: click.Context, as_json: bool) -> None:
    """Show where the root key is, what it signed, and what would go on without it.

    \b
    Example:
      pln root status
    """
    view = control_of(ctx).get("/v1/root")
    if as_json:
        output.print_json(view)
        return
    for line in _status_lines(view, paths_of(ctx)):
        click.echo(line)


def _status_lines(view: dict[str, Any], where: Paths) -> list[str]:
    newest, held = view["line"][-1]["root"], view["held"]
    key = f"here, {where.root_key}" if held else "not on this node"
    if held and held != newest:
        key = f"here is that of {held[:8]}, which has a successor"
    lines = [f"cluster  {view['cluster']}", f"root     {newest}", f"key      {key}"]
    for link in view["line"]:
        since = time.strftime("%Y-%m-%d", time.localtime(link["since_unix_ms"] / 1000))
        begins = f"since {since}" if link["since_unix_ms"] else "the first root"
        signed = ", ".join(link["members"]) or "nobody"
        lines.append(f"line     {link['root'][:8]}, {begins}; it certified: {signed}")
    lines += displaced_lines(view)
    lines.append(f"admins   {', '.join(view['admins']) or 'none'}")
    return [*lines, *without_lines(view)]


def displaced_lines(view: dict[str, Any]) -> list[str]:
    """The successors that do not count, with whom they denied in vain."""
    lines = []
    for root in view.get("displaced", ()):
        since = time.strftime("%Y-%m-%d", time.localtime(root["since_unix_ms"] / 1000))
        lines.append(
            f"void     {root['root'][:8]}, signed by {root['before'][:8]} on {since}: another"
            " successor stands in its place, and nothing that it signed counts"
        )
        for name, peer in zip(root["denied"], root["ids"], strict=True):
            lines.append(f"void     its deny of {name}, which is a member; to keep it out:")
            lines.append(f"         pln deny {peer[:8]}")
    return lines


_NO_ADMIN_REMEDY = (
    "pln grant PEER --admin --request FILE; where the root key is: pln root sign FILE"
)


def without_lines(view: dict[str, Any]) -> list[str]:
    """What would go on if the key were lost, with the machine that it is on."""
    if not view["admins"]:
        remedy = f"pln grant {view['here']} --admin" if view["held"] else _NO_ADMIN_REMEDY
        return ["lost     nobody is an admin: the members end with their leases", f"hint: {remedy}"]
    left = [name for name in view["admins"] if not (view["held"] and name == view["here"])]
    if not left:
        return [
            "lost     with this machine and no copy nobody could invite, grant, deny or renew: the"
            " members end with their leases",
            "hint: pln root export FILE; another admin: pln grant PEER --admin",
        ]
    many = f"{len(left)} admin{'s' if len(left) > 1 else ''}"
    return [
        f"lost     without it {many} could invite, renew, and grant and deny those below them;"
        " nobody could make or unmake an admin"
    ]


# -- export and import --------------------------------------------------------------------------


@root_command.command("export")
@click.argument("file", default="-", required=False)
@with_passphrase
@click.option("--remove", is_flag=True, help="Take the key off this machine afterwards; asks.")
@click.option("--yes", is_flag=True, help="Do not ask before it is removed.")
@with_globals
@click.pass_context
def export_command(
    ctx: click.Context,
    file: str,
    passphrase_file: str | None,
    passphrase_fd: int | None,
    remove: bool,
    yes: bool,
) -> None:
    """Write the root key to FILE, sealed with a passphrase, as text that can be printed.

    Without FILE it goes to standard output. With --remove the file is read back and opened first.

    \b
    Examples:
      pln root export root.age
      pln root export /media/stick/root.age --remove
    """
    from pollen.runtime.folder import identity, rootkey
    from pollen.runtime.loop.native import RealNative

    if remove and file == "-":
        raise error_from("usage", "--remove wants a file to read back", "pln root export FILE")
    where, native = paths_of(ctx), RealNative()
    paper.check_new(file)
    held = rootkey.here(where, native)
    if held.cluster is None:
        reason = f"{where.home} is in no cluster, so whose key that is cannot be said"
        raise error_from("root-file-foreign", reason, "run it in the folder of a node: --dir DIR")
    passphrase = rootkey.check_passphrase(
        passphrase_of(passphrase_file, passphrase_fd, is_new=True)
    )
    block = rootkey.seal(rootkey.text_of(where.root_key), held.cluster, passphrase)
    paper.write_new(file, sheet_of(held.cluster, held.root, block))
    if file == "-":
        return
    back = paper.read(file)
    again = rootkey.read(paper.between(back, rootkey.AGE), back, lambda: passphrase, native)
    if again.root != held.root:
        reason = f"{file} does not hold what was written to it"
        raise error_from("state-unusable", reason, "write it to another disk")
    click.echo(f"sealed the root key {held.root.hex()[:8]} in {file}, and opened it again")
    if not remove:
        return
    if may_go_on(f"remove {where.root_key} from this machine?", yes, "pln root export --remove"):
        where.root_key.unlink()
        told = tell(control_of(ctx))
        click.echo(f"removed {where.root_key}{told}")
        for half in identity.half_written_root_keys(where):
            half.unlink(missing_ok=True)
            click.echo(f"removed {half}, which a cut-off write left")
        for other in where.former_root_keys():
            click.echo(f"hint: {other} is a key of another root, and still here")


@root_command.command("import")
@click.argument("file")
@with_passphrase
@with_globals
@click.pass_context
def import_command(
    ctx: click.Context, file: str, passphrase_file: str | None, passphrase_fd: int | None
) -> None:
    """Bring the root key in FILE to this node, which from then on signs with it.

    FILE is that of pln root export, or a plain copy of root.key; - is standard input. The key must
    be a root of this node's cluster.

    \b
    Example:
      pln root import root.age
    """
    from pollen.runtime.folder import identity, rootkey
    from pollen.runtime.loop.native import RealNative

    where, native = paths_of(ctx), RealNative()
    member = identity.read(where)
    if member is None:
        reason = f"{where.home} is in no cluster, so that no root key belongs there"
        remedy = "join first: pln join TOKEN; to sign only: pln root sign REQUEST --key FILE"
        raise error_from("root-file-foreign", reason, remedy)
    roots = _roots(ctx, identity.roots_of(member, native))
    held = opened(file, passphrase_file, passphrase_fd)
    rootkey.check_roots(held, member.cluster, roots)
    is_new, kept = rootkey.bring(where, held, roots, native)
    told = tell(control_of(ctx))
    verb = "brought" if is_new else "has already"
    click.echo(f"{verb} the root key {held.root.hex()[:8]}: {where.root_key}{told}")
    if kept is not None:
        click.echo(f"hint: the key of the root before is {kept}")


def _roots(ctx: click.Context, known: Sequence[bytes]) -> list[bytes]:
    """The line of roots as the running node knows it, or as the folder holds it."""
    try:
        view = control_of(ctx).get("/v1/root")
    except PollenError as error:
        if error.slug != "daemon-not-running":
            raise
        return list(known)
    return [bytes.fromhex(link["root"]) for link in view["line"]]


# -- signing elsewhere --------------------------------------------------------------------------


@root_command.command("sign")
@click.argument("request")
@click.option("--key", metavar="FILE", help="A sealed root key; else the one in the folder.")
@click.option("--out", default="-", metavar="FILE", help="Where the answer goes (standard output).")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_passphrase
@with_globals
@click.pass_context
def sign_command(
    ctx: click.Context,
    request: str,
    key: str | None,
    out: str,
    yes: bool,
    passphrase_file: str | None,
    passphrase_fd: int | None,
) -> None:
    """Sign what REQUEST asks of the root, on a machine that needs neither a network nor a node.

    It says what it would sign, and asks. A request is made by grant, deny, undeny and set-policy
    with --request FILE.

    \b
    Example:
      pln root sign request.txt --key root.age --out answer.txt
    """
    from pollen.runtime.folder import rootkey
    from pollen.runtime.loop.native import RealNative

    native = RealNative()
    paper.check_new(out)
    raw = paper.bytes_of(paper.read(request), paper.REQUEST)
    where = paths_of(ctx)
    held = opened(key, passphrase_file, passphrase_fd) if key else rootkey.here(where, native)
    asked = rootkey.read_request(raw, held, native)
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(asked.asked / 1e9))
    click.echo(
        f"cluster {asked.cluster.hex()[:8]}, asked by node {asked.asker.hex()[:8]}, {at}", err=True
    )
    said = [escaped(p.sentence()) + until_text(p.access_until_unix_ms()) for p in asked.papers]
    for sentence in said:
        click.echo(f"to be signed: {sentence}", err=True)
    if not may_go_on("sign this?", yes, "pln root sign", _ASKS):
        return
    words = ["What the root of a pollen cluster signed. On an admin's node: pln root apply FILE"]
    words += said
    paper.write_new(out, paper.sheet(words, paper.ANSWER, rootkey.answer(raw, held, native)))


@root_command.command("apply")
@click.argument("answer")
@with_json
@with_globals
@click.pass_context
def apply_command(ctx: click.Context, answer: str, as_json: bool) -> None:
    """Publish the ANSWER of the root, on an admin's node. All nodes follow.

    It is refused when something else was decided about the member meanwhile.

    \b
    Example:
      pln root apply answer.txt
    """
    raw = paper.bytes_of(paper.read(answer), paper.ANSWER)
    body = {"answer": base64.b64encode(raw).decode()}
    done = control_of(ctx).request("POST", "/v1/roots/answers", body)
    if as_json:
        output.print_json(done)
        return
    for sentence in done["done"]:
        click.echo(sentence if done["changed"] else f"it is so already: {sentence}")


@root_command.command("succeed")
@click.option("--key", metavar="FILE", help="The sealed old key, on a machine without a node.")
@click.option("--export", "export", metavar="FILE", help="With --key: where the new one goes.")
@click.option("--out", default="-", metavar="FILE", help="With --key: where the answer goes.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_passphrase
@with_globals
@click.pass_context
def succeed_command(
    ctx: click.Context,
    key: str | None,
    export: str | None,
    out: str,
    yes: bool,
    passphrase_file: str | None,
    passphrase_fd: int | None,
) -> None:
    """Make a new root key, which the old one signs. What the old one signed goes on to count.

    On the node with the root key it takes effect at once. With --key and --export it needs no
    node; an admin's node then publishes the answer: pln root apply. The new key gets the same
    passphrase.

    \b
    Examples:
      pln root succeed
      pln root succeed --key root.age --export new.age --out answer.txt
    """
    if bool(key) != bool(export):
        raise click.UsageError("--key and --export go together")
    if key and export:
        passphrase = passphrase_of(passphrase_file, passphrase_fd, is_new=False)
        succeed_away(key, export, out, passphrase, yes=yes)
        return
    from pollen.runtime.folder import rootkey
    from pollen.runtime.loop.native import RealNative

    where, native = paths_of(ctx), RealNative()
    if not where.next_root_key.exists():
        rootkey.here(where, native)
    question = "make a new root key? the old one stays in the folder, and still signs"
    if not may_go_on(question, yes, "pln root succeed", _ASKS):
        return
    fresh = rootkey.begin_successor(where, native)
    body = {"successor": fresh.public.hex()}
    control_of(ctx).request("POST", "/v1/roots/successor", body)
    kept = rootkey.end_successor(where, native)
    tell(control_of(ctx))
    click.echo(f"the root is {fresh.public.hex()[:8]} now: {where.root_key}")
    if kept is not None:
        click.echo(f"hint: the old key is {kept}; seal the new one: pln root export FILE")
