"""The signed facts of which everything else is a function.

Decides: which record replaces which, what spreads to whom, what is forgotten.
Does not know: what a record of any kind means.
Invariants: an owner speaks for itself alone; nothing acknowledged is lost, nothing deleted comes
    back.
Source: docs/internals/records.md.
"""
