"""A run as a picture: a row a node, a bar a claim, time from left to right; plain SVG text.

Decides: how the happenings of a trace look.
Does not know: the world; it reads a finished ``Trace``.
Invariants: the same trace gives the same picture. Nothing is fetched: one file, no scripts.
Source: docs/internals/simulator.md#using-it.
"""

from __future__ import annotations

import html

from pollen.core.ids import SECOND
from pollen.sim.world.trace import Happening, Trace

_LEFT = 70
_WIDTH = 900
_ROW = 14
_GAP = 10
_COLOURS = ["#4878a8", "#6aa84f", "#c27ba0", "#e69138", "#8e7cc3", "#45818e", "#a64d79"]
_DOWN = "#d9d9d9"
_LOADING = "#ffe599"


def draw(trace: Trace, title: str) -> str:
    """The SVG of a run."""
    end = max((entry.at for entry in trace.happenings), default=1) or 1
    nodes = list(dict.fromkeys(e.where for e in trace.happenings if e.where))
    bars = {node: _bars_of(trace.happenings, node, end) for node in nodes}
    labels = sorted({label for rows in bars.values() for label in rows if label != "down"})
    colours = {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(labels)}
    out: list[str] = []
    y = 40
    for node in nodes:
        rows = bars[node]
        lanes = [label for label in labels if label in rows]
        height = _ROW * max(1, len(lanes))
        out.append(_text(4, y + 11, node, "node"))
        out.append(_rect(_LEFT, y, _WIDTH, height, "#f6f6f6", ""))
        for i, label in enumerate(lanes):
            for start, stop, state in rows[label]:
                colour = colours[label] if state == "ready" else _LOADING
                x, width = _span(start, stop, end)
                out.append(_rect(x, y + i * _ROW + 2, width, _ROW - 4, colour, f"{label} {state}"))
        for start, stop, _ in rows.get("down", []):
            x, width = _span(start, stop, end)
            out.append(_rect(x, y, width, height, _DOWN, "down"))
        y += height + _GAP
    out += _world_lines(trace.happenings, end, y)
    out += _axis(end, y)
    out += _legend(colours, y + 34)
    height = y + 50 + 16 * (len(colours) // 6 + 1)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" height="{height}">'
        "<style>text{font:11px sans-serif;fill:#333}.node{font-weight:bold}"
        ".title{font-size:14px}</style>"
    )
    return "\n".join([head, _text(4, 20, title, "title"), *out, "</svg>"]) + "\n"


def _bars_of(
    happenings: list[Happening], node: str, end: int
) -> dict[str, list[tuple[int, int, str]]]:
    """By label (a seed, or ``down``): the times, with what it was then."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    opened: dict[str, tuple[int, str]] = {}

    def close(label: str, at: int) -> None:
        held = opened.pop(label, None)
        if held is not None:
            found.setdefault(label, []).append((held[0], at, held[1]))

    for entry in happenings:
        if entry.where != node:
            continue
        if entry.kind == "process":
            for label in list(opened):
                close(label, entry.at)
            if entry.what != "starts":
                opened["down"] = (entry.at, "down")
        elif entry.kind == "load":
            label, _, state = entry.what.partition(" ")
            close(label, entry.at)
            if state in ("loading", "ready"):
                opened[label] = (entry.at, state)
    for label in list(opened):
        close(label, end)
    return found


def _world_lines(happenings: list[Happening], end: int, bottom: int) -> list[str]:
    """What concerns everybody (cuts, phases, breaches) as lines across all rows."""
    out = []
    for entry in happenings:
        if entry.where or entry.kind not in ("fault", "phase", "breach"):
            continue
        x = _LEFT + entry.at * _WIDTH // end
        colour = "#cc0000" if entry.kind == "breach" else "#999999"
        line = f'<line x1="{x}" y1="32" x2="{x}" y2="{bottom}" stroke="{colour}" '
        out.append(f'{line}stroke-dasharray="2 3"><title>{html.escape(entry.what)}</title></line>')
    return out


def _axis(end: int, y: int) -> list[str]:
    seconds = end // SECOND or 1
    step = max(1, seconds // 12)
    out = []
    for second in range(0, seconds + 1, step):
        x = _LEFT + second * SECOND * _WIDTH // end
        out.append(f'<line x1="{x}" y1="{y}" x2="{x}" y2="{y + 4}" stroke="#333"/>')
        out.append(_text(x, y + 16, f"{second} s", ""))
    return out


def _legend(colours: dict[str, str], y: int) -> list[str]:
    entries = [*colours.items(), ("loading", _LOADING), ("down", _DOWN)]
    out = []
    for i, (label, colour) in enumerate(entries):
        x, line = _LEFT + (i % 6) * 150, y + 16 * (i // 6)
        out.append(_rect(x, line - 9, 12, 10, colour, ""))
        out.append(_text(x + 18, line, label, ""))
    return out


def _span(start: int, stop: int, end: int) -> tuple[int, int]:
    x = _LEFT + start * _WIDTH // end
    return x, max(1, _LEFT + stop * _WIDTH // end - x)


def _rect(x: int, y: int, width: int, height: int, colour: str, title: str) -> str:
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{colour}"'
    return f"{shape}><title>{html.escape(title)}</title></rect>" if title else f"{shape}/>"


def _text(x: int, y: int, text: str, kind: str) -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{style}>{html.escape(text)}</text>'
