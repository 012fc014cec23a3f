"""What a seed is, what its name means, and what publishing it takes.

Decides: whether options and a module make a spec, which spec a name means, who may replace it.
Does not know: where a seed runs, links, tables.
Invariants: the meaning of a name is a function of the specs and certificates that count.
Source: docs/internals/records.md.
"""
