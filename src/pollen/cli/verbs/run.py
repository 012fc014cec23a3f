"""Try a function of a file here, without publishing it"""

from __future__ import annotations

from typing import Any

import click

from pollen.cli.app import with_globals, with_json
from pollen.cli.compute import patience
from pollen.cli.options import options_given, with_options
from pollen.errors import PollenError, error_from
from pollen.sdk import hosts
from pollen.sdk.control import Control
from pollen.sdk.python.publish import Wish, prepare, publish


@click.command("run")
@click.argument("source")
@click.argument("function", required=False)
@click.argument("texts", metavar="[INPUT]...", nargs=-1)
@with_options
@click.option("-m", "is_package", is_flag=True, help="SOURCE is the name of a Python package.")
@click.option("--kind", type=click.Choice(["module", "python"]), default=None, help="What it is.")
@click.option("--requirements", metavar="FILE", help="Packages that Python code wants, for pip.")
@click.option("--input", "raw", help="The input as it is: text, - for stdin, @file.")
@click.option("--stream", is_flag=True, help="Write the output as it comes.")
@with_json
@with_globals
@click.pass_context
def run_command(ctx: click.Context, /, source: str, **given: Any) -> None:
    """Call FUNCTION of the module or Python file SOURCE with INPUT, here and now.

    It runs in the same sandbox as on a node, with the options of pln seed, on a node of its own
    that nobody else reaches and that ends with the command. Nothing is published, and no node has
    to run here. INPUT is as for pln call. The first Python file takes some seconds.

    \b
    Examples:
      pln run hello.py greet name=world
      pln run hello.wasm greet world
      pln run ./package main --requirements requirements.txt
    """
    from pollen.cli import trial
    from pollen.cli.calling import call_command

    words = {"raw": given["raw"], "stream": given["stream"], "as_json": given["as_json"]}
    wish = Wish(source, given["kind"] or "", given["is_package"], given["requirements"] or "")
    made = prepare(wish, lambda text: click.echo(text, err=True))
    if made.blob is not None or made.site is not None:
        remedy = "name a module or a Python file; pln seed publishes any other"
        raise error_from("usage", f"{source} is not something that runs", remedy)
    options = {**options_given(given), "keep": 0, "min_replicas": 1}
    with trial.trial_node() as where:
        control = Control(where)
        with patience(made):
            seeded = publish(control, made, trial.NAME, options)
        control.wait_ready(trial.NAME, seeded["seed"])
        ctx.ensure_object(dict).update(directory=str(where.home), host=hosts.LOCAL)
        try:
            ctx.invoke(
                call_command,
                name=trial.NAME,
                function=given["function"],
                texts=given["texts"],
                timeout=options["timeout_ms"],
                retries=0,
                idempotent=False,
                head=None,
                verbose=False,
                **words,
            )
        except PollenError as error:
            raise trial.without_node(error, source) from None
        finally:
            trial.show_log(where)
