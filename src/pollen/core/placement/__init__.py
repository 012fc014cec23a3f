"""Who should host what, what this node does about it, and what the muscles are told.

Decides: ranks, claims, loads and drains, and the rows of the tables.
Does not know: how records spread; who is alive is told to it.
Invariants: the plan is a function of the records: the same on every node that holds the same.
Source: docs/internals/placement.md.
"""
