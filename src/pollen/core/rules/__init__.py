"""The per-request rules: what the muscles decide call by call, as pure functions.

Decides: which replica gets a call, whether it runs, waits or goes elsewhere, and what a child may
    spend.
Does not know: tables, links, guests; every input is an argument.
Invariants: the crate of the muscles computes the same; vectors hold both.
Source: docs/internals/seam.md#the-rules-of-a-request.
"""

from pollen.core.rules.routing import match_gate

__all__ = ["match_gate"]
