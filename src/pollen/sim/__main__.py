"""``python -m pollen.sim``: the same as ``pln sim``, without the rest of the command."""

from __future__ import annotations

from pollen.cli.sim import sim_command

if __name__ == "__main__":
    sim_command()
