"""Write a first file of a seed, with a test"""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Final

import click

from pollen.cli.app import with_globals
from pollen.errors import error_from

_SEED: Final = Template('''"""What this seed is for, in a line: pln inspect shows it."""

from __future__ import annotations

from collections.abc import Iterator


def greet(name: str, times: int = 1) -> str:
    """Greet somebody, as often as asked. What callers give is checked against these types."""
    return "hello " * times + name


def count(to: int) -> Iterator[int]:
    """A generator streams: each item reaches its caller when it is there."""
    yield from range(1, to + 1)
''')
_TEST: Final = Template('''"""The functions of $name.py are plain Python: python -m unittest"""

import unittest

from $name import count, greet


class Test(unittest.TestCase):
    def test_greet(self) -> None:
        self.assertEqual(greet("world", times=2), "hello hello world")

    def test_count(self) -> None:
        self.assertEqual(list(count(3)), [1, 2, 3])


if __name__ == "__main__":
    unittest.main()
''')


@click.command("new")
@click.argument("kind", type=click.Choice(["python"]))
@click.argument("name")
@with_globals
def new_command(kind: str, name: str) -> None:
    """Write NAME.py, a seed with two functions, and a test of it, into this folder.

    \b
    Example:
      pln new python hello
    """
    if not name.isidentifier() or not name.isascii():
        reason = f"{name[:80]!r} is not a name for a module of Python"
        raise error_from("usage", reason, "letters, digits and _, as in: pln new python hello")
    files = {Path(f"{name}.py"): _SEED, Path(f"test_{name}.py"): _TEST}
    for path in files:
        if path.exists():
            raise error_from("file-exists", f"{path} is there already", "choose another name")
    for path, template in files.items():
        try:
            path.write_text(template.substitute(name=name))
        except OSError as error:
            reason = f"{path}: {error.strerror}"
            raise error_from("bad-request", reason, "go to a folder of your own") from None
        click.echo(f"wrote {path}")
    click.echo(f"  try it:      pln run {name}.py greet name=world")
    click.echo(f"  test it:     python -m unittest test_{name}")
    click.echo(f"  publish it:  pln seed {name}.py")
