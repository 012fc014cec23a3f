"""``python -m pollen.cli`` is ``pln``."""

from pollen.cli.app import main

main()
