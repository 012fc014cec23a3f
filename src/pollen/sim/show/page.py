"""One page that shows a run: what was drawn, what happened, how it ended, how to see it again.

Decides: what of a report fits on a page of 80 columns.
Does not know: where the text goes.
Invariants: no line is longer than 80 characters; a failure always ends with the line that shows it
    again.
Source: docs/internals/simulator.md#using-it, docs/design/style.md#simulator.
"""

from __future__ import annotations

import textwrap

from pollen.core.ids import SECOND
from pollen.sim.verdict.trial import Report
from pollen.sim.world.trace import Trace

WIDTH = 80
_LINES = 24
_KINDS = ("fault", "process", "phase", "breach")


def page(report: Report, trace: Trace, *, full: bool = False) -> list[str]:
    """The lines of the page; ``full`` leaves nothing of the timeline out."""
    draw = report.draw
    head = f"run {draw.number}: {draw.line()}"
    out = [*textwrap.wrap(head, WIDTH, subsequent_indent="  "), ""]
    if report.scenario:
        out = [*textwrap.wrap(report.sentence, WIDTH), ""]
    lines = trace.timeline(WIDTH, _KINDS)
    if not full and len(lines) > _LINES:
        half = _LINES // 2
        left = len(lines) - 2 * half
        lines = [*lines[:half], f"{'...':>9}  {left} more", *lines[-half:]]
    out += lines
    out.append("")
    for label, counts in (
        ("faults", report.faults),
        ("calls", report.calls),
        ("muscles", report.counts),
        ("checks", report.checks),
    ):
        out += _counted(label, counts)
    out.append("")
    out += verdict(report)
    return out


def verdict(report: Report) -> list[str]:
    """How it ended, and how to see it again."""
    trace = f"trace {report.digest}"
    if report.is_good and report.scenario:
        return ["good: it is so", trace]
    if report.is_good:
        took = report.settled_ns / SECOND
        return [f"good: all is as it must be {took:.1f} s after everything healed", trace]
    out = [f"failed: {len(report.failures)} invariants do not hold"]
    for failure in report.failures:
        out += textwrap.wrap(failure, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return [*out, trace, report.reproduce()]


def _counted(label: str, counts: dict[str, int]) -> list[str]:
    if not counts:
        return []
    text = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    head = f"{label:<8} {sum(counts.values())}: "
    return textwrap.wrap(head + text, WIDTH, subsequent_indent=" " * 9)
