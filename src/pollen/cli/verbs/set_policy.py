"""Show or set who may publish which names, for all nodes"""

from __future__ import annotations

import time
from typing import Any

import click

from pollen.cli import output
from pollen.cli.app import control_of, with_globals, with_json
from pollen.cli.membership import may_go_on, with_request, write_request
from pollen.cli.paper import check_new


@click.command("set-policy")
@click.argument("which", required=False, metavar="[publish]")
@click.argument("expression", required=False, metavar="[EXPR]")
@click.option("--clear", is_flag=True, help="Take the policy away.")
@click.option("--dry-run", is_flag=True, help="Only say what would fall.")
@click.option("--yes", is_flag=True, help="Do not ask when names fall.")
@with_request
@with_json
@with_globals
@click.pass_context
def set_policy_command(
    ctx: click.Context,
    which: str | None,
    expression: str | None,
    clear: bool,
    dry_run: bool,
    yes: bool,
    request_file: str | None,
    as_json: bool,
) -> None:
    """Have the root say in EXPR who may publish which names. Without EXPR it shows what is set.

    EXPR is in the language of `pln seed --allow`. `caller` is who publishes, `seed.name` the name.
    Names of publishers that it refuses stop counting on all nodes; it shows them first, and asks.

    \b
    Examples:
      pln set-policy publish 'has(caller.props.lab) || caller.tier == "admin"'
      pln set-policy publish 'seed.name.startsWith("lab-")' --request request.txt
      pln set-policy publish --clear
      pln set-policy
    """
    asked = control_of(ctx)
    if not expression and not clear:
        if expression == "" or dry_run or request_file is not None:
            raise click.UsageError("give an expression, or --clear")
        _show(asked.get("/v1/policies")["policies"], which, as_json=as_json)
        return
    if not which:
        raise click.UsageError("say which policy: pln set-policy publish --clear")
    body = {"about": which, "expression": expression or "", "clear": clear}
    if request_file is not None:
        check_new(request_file)
        answer = asked.request("POST", "/v1/policies", {**body, "by_root": True})
        for line in [*_moved_lines(answer), *([] if answer["changed"] else [_SO])]:
            click.echo(line, err=True)
        if answer["changed"]:
            write_request(answer, request_file, f"to set the policy {which}")
        return
    planned = asked.request("POST", "/v1/policies", {**body, "dry_run": True})
    if not as_json:
        for line in _moved_lines(planned):
            click.echo(line, err=True)
    is_asked = bool(planned["falls"] or planned["gains"])
    if not dry_run and (not is_asked or may_go_on("set this?", yes, "pln set-policy")):
        planned = asked.request("POST", "/v1/policies", {**body, "dry_run": False})
    if as_json:
        output.print_json(planned)
    else:
        click.echo(_line(planned, dry_run=dry_run))


_SO = "it is so already"


def _moved_lines(planned: dict[str, Any]) -> list[str]:
    """What the policy does to names: which fall, which count again, which go to another node."""
    lines = [
        f"stops counting: {name['name']} of {name['node_name']} {name['node'][:8]}, {name['why']}"
        for name in planned["falls"]
    ]
    lines += _more_lines("stop counting", planned["falls_more"])
    for name in planned["gains"]:
        who = f"{name['node_name']} {name['node'][:8]}"
        if name["from_node"]:
            before = f"{name['from_name']} {name['from_node'][:8]}"
            lines.append(f"goes to another node: {name['name']} from {before} to {who}")
        else:
            lines.append(f"counts again: {name['name']} of {who}")
    return lines + _more_lines("count again or go to another node", planned["gains_more"])


def _more_lines(does: str, more: int) -> list[str]:
    return [f"names that also {does}: {more}"] if more else []


def _line(planned: dict[str, Any], *, dry_run: bool) -> str:
    policy = planned["policy"]
    if not planned["changed"]:
        return _SO
    does = "would be" if dry_run else "is"
    what = f"set: {policy['text']}" if policy["text"] else "taken away"
    return f"policy {policy['about']} {does} {what} (number {policy['number']})"


def _show(policies: list[dict[str, Any]], which: str | None, *, as_json: bool) -> None:
    known = [policy["about"] for policy in policies]
    if which is not None and which not in known:
        raise click.UsageError(f"there is no policy {which!r}; there is: {', '.join(known)}")
    shown = [policy for policy in policies if which in (None, policy["about"])]
    if as_json:
        output.print_json(shown)
        return
    for policy in shown:
        for line in _policy_lines(policy):
            click.echo(line)


def _policy_lines(policy: dict[str, Any]) -> list[str]:
    about = policy["about"]
    if not policy["text"] and policy["readable"]:
        return [f"{about}: none; every publisher and admin publishes any free name"]
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(policy["since_unix_ms"] / 1000))
    lines = [f"{about}: {policy['text']}", f"  number {policy['number']}, since {at}"]
    if not policy["readable"]:
        lines.append("  this node cannot read it and counts no name: a newer Pollen wrote it")
    lines += [
        f"  does not count: {name['name']} of {name['node_name']} {name['node'][:8]}, {name['why']}"
        for name in policy["refused"]
    ]
    return lines + _more_lines("do not count", policy["refused_more"])
