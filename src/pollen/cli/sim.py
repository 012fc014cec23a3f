"""``pln sim``: run a simulated cluster in virtual time, with drawn faults.

The simulator is imported when the verb runs, never before.
"""

from __future__ import annotations

from pathlib import Path

import click

from pollen.cli.app import with_globals, with_json


@click.command("sim")
@with_globals
@with_json
@click.option("--seed", "number", type=click.IntRange(0), help="The number that draws everything.")
@click.option("--nodes", type=click.IntRange(1, 2_000), help="How many nodes (else drawn).")
@click.option("--scenario", metavar="F", help="A scenario by name or file instead of a drawn run.")
@click.option("--full", is_flag=True, help="The whole timeline.")
@click.option("--svg", metavar="FILE", help="Write a picture of nodes and claims over time.")
@click.pass_context
def sim_command(
    ctx: click.Context,
    number: int | None,
    nodes: int | None,
    scenario: str | None,
    full: bool,
    svg: str | None,
    as_json: bool,
) -> None:
    """Run a simulated cluster: one seed draws nodes, links, users and faults.

    Nothing real is touched: no files, no network, no clock. The same seed gives the same run.
    Exit code 1 when an invariant did not hold; the last line then shows the run again.

    \b
    Examples:
      pln sim
      pln sim --seed 17 --nodes 9
      pln sim --scenario two_halves_publish_one_name
    """
    from pollen.sim import scenarios
    from pollen.sim.show import drawing, page
    from pollen.sim.verdict import trial

    if scenario is not None:
        played = scenarios.play(scenario, number or 1)
    else:
        import secrets

        drawn = trial.draw_trial(secrets.randbelow(1 << 32) if number is None else number, nodes)
        run = trial.Trial(drawn)
        played = scenarios.Played(report=run.play(), trace=run.world.trace)
    report = played.report
    if svg is not None:
        title = f"run {report.draw.number}: {report.draw.line()}"
        Path(svg).write_text(drawing.draw(played.trace, title), encoding="utf-8")
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(report))
    else:
        for line in page.page(report, played.trace, full=full):
            click.echo(line)
    ctx.exit(0 if report.is_good else 1)
