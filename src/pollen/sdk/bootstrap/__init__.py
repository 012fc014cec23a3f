"""Machines that have nothing yet, made members over the user's own ssh: ``pln bootstrap ssh``."""
