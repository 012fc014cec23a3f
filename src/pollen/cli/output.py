"""What a person reads: errors, tables, quantities. Colour only on a terminal, and only on words.

Text of guests and peers never steers a terminal: ``Terminal`` shows every control that is not one
of our own, and all text leaves through it. Ends of lines are escaped before, where the text enters.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

from pollen.errors import PollenError, is_command
from pollen.plain import escaped, escaped_lines

_CODES = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}


# What follows a control of ours on its way to a terminal; nobody else can know it.
_OURS = f"\ue000{os.urandom(8).hex()}"
_CONTROLS = re.compile("[\x1b\r]")
# Own controls, ends of lines and tabs; between them stands what is escaped.
_KEPT = re.compile(f"([\x1b\r]{_OURS}|[\n\t])")


class Terminal(io.TextIOWrapper):
    """A standard stream that is a terminal: what is not ours and would steer it is escaped."""

    @classmethod
    def over(cls, stream: io.TextIOWrapper) -> Terminal:
        """In place of ``stream``, which is of no more use."""
        encoding = stream.encoding
        return cls(stream.detach(), encoding, errors="backslashreplace", line_buffering=True)

    def write(self, text: str) -> int:
        parts = _KEPT.split(text)
        parts[::2] = [escaped(part) for part in parts[::2]]
        super().write("".join(parts).replace(_OURS, ""))
        return len(text)


def steering(text: str, stream: TextIO) -> str:
    """Our own text with controls in it, to be obeyed by ``stream``; never text from elsewhere."""
    if not isinstance(stream, Terminal):
        return text
    return _CONTROLS.sub(lambda found: found[0] + _OURS, text)


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """The text in a colour, when ``stream`` is a terminal and NO_COLOR is not set."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    begin, end = (steering(f"\x1b[{code}m", stream) for code in (_CODES[colour], "0"))
    return f"{begin}{text}{end}"


def can_ask() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def can_move() -> bool:
    """Whether stdout is a terminal on which lines can be written over."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


def print_error(error: PollenError, *, as_json: bool) -> None:
    """An error on stderr: what happened, what to do, its slug; or the object of the HTTP doors."""
    if as_json:
        print(json.dumps(error.to_dict()), file=sys.stderr)
        return
    reason = escaped_lines(error.reason.rstrip("\n"))
    # What goes on below is set off: a reason cannot look like the lines that follow it.
    lines = [f"{coloured('error', 'red', sys.stderr)}: {reason[0]}"]
    lines += [f"    | {line}" for line in reason[1:]]
    remedy = escaped_lines(error.remedy) if error.remedy else []
    proposal = "try: " if is_command(error.remedy) else ""
    lines += [f"  {proposal}{line}" for line in remedy]
    if error.node:
        lines.append(f"  said by node {escaped(error.node[:8])}")
    if error.may_have_executed:
        lines.append("  the function may have run")
    if error.retry_after:
        lines.append(f"  try again after {error.retry_after:g} s")
    lines.append(f"  [{escaped(error.slug)}]")
    print("\n".join(lines), file=sys.stderr)


# Controls that JSON leaves as they are.
_JSON_LEFT = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def print_json(value: Any) -> None:
    """One JSON document on stdout, indented on a terminal."""
    text = json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False)
    print(_JSON_LEFT.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def width() -> int:
    """Columns to fill: those of COLUMNS or the terminal, else 80."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def redrawn(lines: list[str]) -> list[str]:
    """This screen over the one before, with no flicker; what does not fit is cut."""
    import shutil

    columns, rows = shutil.get_terminal_size()
    # The first line may hold a colour, and is short.
    cut = [lines[0], *(x if len(x) <= columns else f"{x[: columns - 1]}…" for x in lines[1:])]
    # One row to clear what is below, one for the cursor.
    room = max(rows - 2, 2)
    if len(cut) > room:
        cut = [*cut[: room - 1], f"… {len(cut) - room + 1} more lines"]
    home, rest, below = (steering(f"\x1b[{key}", sys.stdout) for key in "HKJ")
    return [f"{home}{cut[0]}{rest}", *(f"{line}{rest}" for line in cut[1:]), below]


# The narrowest that the last column of a table becomes.
_LAST_LEAST = 20


def table_lines(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    drop: Sequence[str] = (),
    columns: int = 80,
) -> list[str]:
    """Aligned columns; those named in ``drop`` go, in that order, until the rest fits.

    What is still too long goes on below its own column; a word is never cut.
    """
    kept = list(range(len(head)))
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    for name in drop:
        if sum(widths[at] + 2 for at in kept) - 2 <= columns:
            break
        kept = [at for at in kept if head[at] != name]
    lines = []
    for row in (head, *rows):
        *first, last = kept
        before = "".join(row[at].ljust(widths[at]) + "  " for at in first)
        room = max(columns - len(before), _LAST_LEAST)
        wrapped = textwrap.wrap(row[last], room, break_long_words=False, break_on_hyphens=False)
        lines.append((before + (wrapped[0] if wrapped else "")).rstrip())
        lines += [" " * len(before) + rest for rest in wrapped[1:]]
    return lines


def human_us(micros: int) -> str:
    """``75 us``, ``1.2 ms``, ``3.4 s``; ``-`` for none."""
    if micros <= 0:
        return "-"
    if micros < 1_000:
        return f"{micros} us"
    if micros < 1_000_000:
        return f"{micros / 1_000:.1f} ms"
    return f"{micros / 1_000_000:.1f} s"


def human_cost(cost: int, least: int) -> str:
    """How many times the least cost: ``1.00``, ``3.21``; ``-`` for none."""
    return "-" if cost <= 0 else f"{cost / least:.2f}" if cost < 1000 * least else "over 1000"


def human_age(millis: int) -> str:
    """``0.4 s``, ``12 s``, ``5 m``, ``3 h``, ``2 d``."""
    seconds = millis / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, per, unit in ((120, 1, "s"), (7_200, 60, "m"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / per:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
