"""Verbs that show one thing whole, or why it is so: inspect, why."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import click

from pollen.cli import output
from pollen.cli.app import (
    complete_either,
    complete_functions,
    complete_nodes,
    complete_seeds,
    complete_services,
    control_of,
    with_globals,
    with_json,
)
from pollen.cli.proposals import here
from pollen.errors import error_from
from pollen.options import OPTIONS, Kind, flag_of, text_of
from pollen.plain import escaped
from pollen.sdk.python.kinds import HELD
from pollen.units import human_bytes


@click.command("inspect")
@click.argument("target", shell_complete=complete_either)
@with_json
@with_globals
@click.pass_context
def inspect_command(ctx: click.Context, target: str, as_json: bool) -> None:
    """Show all that this node knows of TARGET, a seed or a node: a name, an id or its first digits.

    seed/NAME and node/NAME say which is meant when both exist.

    \b
    Examples:
      pln inspect hello
      pln inspect node/attic
    """
    control = control_of(ctx)
    kind, found = find(control.get("/v1/status"), target)
    described: dict[str, Any] = {}
    if kind == "seed":
        state = control.get(f"/v1/seeds/{quote(found['name'], safe='')}")
        described = state.get("description", {})
    if as_json:
        noun = found["kind"] if found.get("kind", "module") != "module" else kind
        output.print_json({**found, "kind": noun, "description": described})
        return
    click.echo(f"{kind} {found['name']}")
    for line in detail_lines(kind, found):
        click.echo(f"  {line}")
    for line in function_lines(described):
        click.echo(line)


def function_lines(described: dict[str, Any]) -> list[str]:
    """The functions that published a signature, with the first line of what each says of itself:
    words of the seed's author, shown as such."""
    lines = []
    for name, function in described.get("functions", {}).items():
        lines.append(f"  {escaped(name + str(function.get('signature', '')))}")
        doc = str(function.get("doc", "")).strip().partition("\n")[0]
        if doc:
            lines.append(f"    {escaped(doc)}")
    return ["", "functions, as their author describes them", *lines] if lines else []


def find(status: dict[str, Any], target: str) -> tuple[str, dict[str, Any]]:
    """The one seed or node that a user means. Raises ``ambiguous``, ``peer-not-found``."""
    prefix, slash, text = target.partition("/")
    kinds = (prefix,) if slash and prefix in ("seed", "node") else ("seed", "node")
    text = text if len(kinds) == 1 else target
    held = [(kind, thing) for kind in kinds for thing in status[f"{kind}s"]]
    exact = [(kind, thing) for kind, thing in held if thing["name"] == text]
    begun = [(k, thing) for k, thing in held if len(text) >= 4 and thing[k].startswith(text)]
    for found in (exact, begun):
        if len(found) == 1:
            return found[0]
        if found:
            lines = "\n".join(
                f"pln inspect {k}/{thing[k][:16]}  # {thing['name']}" for k, thing in found
            )
            raise error_from("ambiguous", f"{target} may be one of {len(found)}", lines)
    raise error_from("peer-not-found", f"no {' or '.join(kinds)} {text[:80]!r}", _near(held, text))


def _near(held: list[tuple[str, dict[str, Any]]], text: str) -> str:
    import difflib

    near = difflib.get_close_matches(text, [thing["name"] for _, thing in held], n=3)
    return f"did you mean: {', '.join(near)}" if near else "see what there is: pln status"


def detail_lines(kind: str, thing: dict[str, Any]) -> list[str]:
    """What there is to say of a seed or a node, a fact a line."""
    lines = _seed_lines(thing) if kind == "seed" else _node_lines(thing)
    return [f"{label:<12} {text}" for label, text in lines if text not in ("", "-")]


def _seed_lines(seed: dict[str, Any]) -> list[tuple[str, str]]:
    options = seed["options"]
    flags = [
        flag_of(name, options[name])
        for name, option in OPTIONS.items()
        if option.kind in (Kind.SWITCH, Kind.CHOICE)
    ]
    is_blob = seed["kind"] in HELD
    ready = f"{seed['ready']} of {seed['wanted']}"
    here = f"{seed['calls']}, {seed['failures']} failed, {seed['in_flight']} under way"
    memory, seconds = human_bytes(options["memory_bytes"]), options["timeout_ms"] / 1000
    # A node of an older version has no such option.
    unused_ms = options.get("withdraw_unused_ms", 0)
    unused = text_of("withdraw_unused_ms", unused_ms) if unused_ms else ""
    return [
        ("kind", seed["kind"] if is_blob else ""),
        ("hash", seed["seed"]),
        ("content", seed["content"]),
        ("size", human_bytes(seed["size_bytes"])),
        ("functions", ", ".join(seed["functions"])),
        ("publisher", f"{seed['publisher_name']} ({seed['publisher'][:8]})"),
        ("version", str(seed["name_epoch"])),
        (
            "halted",
            seed["halted"]
            and f"a newer version, {seed['halted'][:8]}; pln why place {seed['name']}",
        ),
        ("answers", _before_text(seed.get("before"))),
        ("copies" if is_blob else "replicas", ready),
        *(("", text) for text in replica_texts(seed)),
        ("limits", "" if is_blob else f"{memory}, {seconds:g}s a call"),
        ("check", options["check"]),
        ("callers", _pairs(options["allow"])),
        ("callers if", escaped(options["allow_if"])),
        ("sealed for", escaped(", ".join(sorted(seed.get("recipients", {}).values())))),
        ("hosts", _pairs(options["host"])),
        ("hosts if", escaped(options["host_if"])),
        ("reaches", ", ".join(options["allow_hosts"])),
        ("asks", ", ".join(f"service/{name}" for name in options["allow_services"])),
        ("flags", ", ".join(filter(None, flags))),
        ("unused", f"withdrawn after {unused}" if unused else ""),
        ("calls here", here),
        ("cancelled", f"{seed['cancelled']} that began here" if seed["cancelled"] else ""),
        ("runs", output.human_us(seed["run_us"])),
        ("shadows", ", ".join(owner[:8] for owner in seed["shadowed"])),
    ]


def _before_text(before: dict[str, Any] | None) -> str:
    """The version that answers in the place of one that is ready nowhere."""
    if before is None:
        return ""
    functions = ", ".join(before["functions"])
    return f"the version before, {before['seed'][:8]}, until this one is ready: {functions}"


def replica_texts(seed: dict[str, Any]) -> list[str]:
    """A line a host; while a version is halted, each says which one it has."""
    lines = []
    for held in sorted(
        seed["replicas"], key=lambda r: (r["seed"] != seed["seed"], r["state"], r["name"])
    ):
        version = f" version {held['seed'][:8]}" if seed["halted"] else ""
        reason = f": {held['reason']}" if held["reason"] else ""
        lines.append(f"{held['state']:<8} on {held['name']}{version}{reason}")
    return lines


def _pairs(pairs: list[list[str]]) -> str:
    return ", ".join(f"{key}={value}" for key, value in pairs)


def _node_lines(node: dict[str, Any]) -> list[tuple[str, str]]:
    path = node["path"] or ("direct" if node["direct"] else "relayed")
    moved = f"{human_bytes(node['bytes_out'])} out, {human_bytes(node['bytes_in'])} in"
    is_linked = node["rtt_us"] > 0
    return [
        ("id", node["node"]),
        ("state", "this node" if node["state"] == "self" else node["state"]),
        ("tier", node["tier"]),
        ("properties", "" if node["properties"] == "{}" else node["properties"]),
        ("version", node["version"]),
        ("addresses", ", ".join(node["addresses"])),
        ("memory", human_bytes(node["memory_bytes"])),
        ("disk", f"{human_bytes(node['disk_bytes'])} free" if node["disk_bytes"] else ""),
        ("replicas", f"{node['ready']} ready"),
        ("link", f"{path}, {output.human_us(node['rtt_us'])} away, {moved}" if is_linked else ""),
    ]


class Questions(click.Group):
    """Who names a seed at once is shown what there is to ask about it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            reason = f"{args[0]!r} is not a question"
            ways = [shlex.join(["pln", "why", name, *args]) for name in self.commands]
            raise error_from("usage", reason, "\n".join(ways))
        return super().resolve_command(ctx, args)


@click.group("why", cls=Questions, invoke_without_command=True)
@click.pass_context
def why_command(ctx: click.Context) -> None:
    """Explain a decision of the mesh, with its numbers.

    \b
    Examples:
      pln why place hello
      pln why call hello greet
      pln why path attic
      pln why service web
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@why_command.command("place")
@click.argument("seed", shell_complete=complete_seeds)
@click.argument("node", required=False, shell_complete=complete_nodes)
@with_json
@with_globals
@click.pass_context
def place_command(ctx: click.Context, seed: str, node: str | None, as_json: bool) -> None:
    """Why SEED runs where it does, or why it runs on NODE or not.

    \b
    Examples:
      pln why place hello
      pln why place hello attic
    """
    control = control_of(ctx)
    told = control.get(f"/v1/why/place/{quote(seed, safe='/')}")
    if node is not None:
        status = control.get("/v1/status")
        _, meant = find({"nodes": status["nodes"], "seeds": []}, node)
        told["nodes"] = [held for held in told["nodes"] if held["node"] == meant["node"]]
    if as_json:
        output.print_json(told)
        return
    ready = f"{told['ready']} of {told['wanted']} replicas ready"
    click.echo(f"seed {told['name']} ({told['seed'][:8]}): {ready}")
    _print_sentences(told["why"])
    least = min((held["cost"] for held in told["nodes"] if held["cost"]), default=1)
    rows = [
        (
            held["name"],
            str(held["rank"] or "-"),
            held["claim"] or "-",
            output.human_cost(held["cost"], least),
            ", ".join(held["bonus"]) or "-",
            held["reason"],
        )
        for held in told["nodes"]
    ]
    head = ("NODE", "RANK", "CLAIM", "BID", "BONUS", "WHY")
    _table(head, rows, drop=("BONUS", "BID"))
    if node is not None:
        for held in told["nodes"]:
            _print_policy(held["policy"], f"--host-if for {held['name']}:")
    if any(held["cost"] for held in told["nodes"]):
        click.echo("a bid of 1 serves: the lowest draw of seed and node over free memory")


@why_command.command("call")
@click.argument("seed", shell_complete=complete_seeds)
@click.argument("function", required=False, shell_complete=complete_functions)
@with_json
@with_globals
@click.pass_context
def call_command(ctx: click.Context, seed: str, function: str | None, as_json: bool) -> None:
    """Where a call of SEED from this node goes, and why.

    \b
    Examples:
      pln why call hello
      pln why call hello greet
    """
    target = f"{quote(seed, safe='/')}?function={quote(function or '', safe='')}"
    told = control_of(ctx).get(f"/v1/why/call/{target}")
    if as_json:
        output.print_json(told)
        return
    allowed = "this node may call it" if told["allowed"] else "this node may NOT call it"
    click.echo(f"seed {told['name']}, function {told['function']}: {allowed}")
    _print_sentences(told["why"])
    _print_policy(told["policy"], "--allow for this node:")
    rows = [
        (
            way["name"],
            way["state"],
            "0 us" if way["price_source"] == "here" else output.human_us(way["price_us"]),
            way["price_source"],
            "yes" if way["linked"] else "no",
            way["reason"] or "-",
        )
        for way in told["ways"]
    ]
    if rows:
        head = ("HOST", "STATE", "PRICE", "FROM", "LINKED", "REASON")
        _table(head, rows, drop=("FROM", "REASON"))


@why_command.command("path")
@click.argument("node", shell_complete=complete_nodes)
@with_json
@with_globals
@click.pass_context
def path_command(ctx: click.Context, node: str, as_json: bool) -> None:
    """How packets from this node to NODE go, why, and what would help.

    \b
    Examples:
      pln why path attic
    """
    told = control_of(ctx).get(f"/v1/why/path/{quote(node, safe='')}")
    if as_json:
        output.print_json(told)
        return
    click.echo(f"node {told['name']}: {_way_text(told)}")
    _print_sentences(told["why"])


@why_command.command("service")
@click.argument("service", metavar="NAME[@NODE]", shell_complete=complete_services)
@with_json
@with_globals
@click.pass_context
def service_command(ctx: click.Context, service: str, as_json: bool) -> None:
    """Who serves NAME, who is tried first, whom they let in, and what they answered last.

    \b
    Examples:
      pln why service web
      pln why service web@attic
    """
    told = control_of(ctx).get(f"/v1/why/service/{quote(service, safe='')}")
    if as_json:
        output.print_json(told)
        return
    kind = "udp" if told["datagrams"] else "tcp"
    allowed = "this node may reach it" if told["allowed"] else "this node may NOT reach it"
    click.echo(f"service {told['name']} ({kind}): {allowed}")
    _print_sentences(told["why"])
    rows = [
        (
            way["name"],
            _state_text(way),
            "0 us" if way["price_source"] == "here" else output.human_us(way["price_us"]),
            way["price_source"],
            way["path"] or "-",
            "yes" if way["lets"] else "no",
            _answer_text(way["answered"]),
        )
        for way in told["providers"]
    ]
    if rows:
        head = ("PROVIDER", "STATE", "PRICE", "FROM", "PATH", "LETS IN", "LAST ANSWER")
        _table(head, rows, drop=("FROM", "PATH"))


def _state_text(way: dict[str, Any]) -> str:
    """Whether a provider is there, and how its program fares, where it is checked."""
    return f"{way['state']}, {way['health']}" if way.get("health") else str(way["state"])


def _answer_text(answered: dict[str, Any] | None) -> str:
    """What a provider said to the last client, and when."""
    if answered is None:
        return "-"
    return f"{answered['slug'] or 'took it'}, {output.human_age(answered['ago_ms'])} ago"


def _way_text(told: dict[str, Any]) -> str:
    """One line: how packets go, how far, since when."""
    if not told["path"]:
        return "no packets get there from here now"
    way = f"packets go through {told['path'].removeprefix('via ')}"
    if told["path"] == "direct":
        way = f"packets go directly to {told['address']}"
    far = f", {output.human_us(told['rtt_us'])}" if told["rtt_us"] else ""
    return f"{way}{far}, for {output.human_age(told['path_ms'])}"


def _print_policy(parts: Sequence[dict[str, Any]], title: str) -> None:
    """Each part of a policy with its value, the parts of a part further in."""
    if parts:
        click.echo(title)
    for part in parts:
        click.echo(f"  {'  ' * part['depth']}{escaped(part['text'])} -> {part['value']}")


def _print_sentences(sentences: Sequence[str]) -> None:
    """A line each; what is longer than the screen goes on below, further in."""
    import textwrap

    for sentence in sentences:
        lines = textwrap.wrap(
            here(sentence),
            output.width(),
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        click.echo("\n".join(lines))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], drop: tuple[str, ...]) -> None:
    for line in output.table_lines(head, rows, drop=drop, columns=output.width()):
        click.echo(line)
