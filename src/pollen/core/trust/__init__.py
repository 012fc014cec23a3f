"""Who belongs to the cluster, with which authority, and until when.

Decides: whether a chain, a lease, a deny, a succession holds, and what counts of all of them.
Does not know: links, tokens, who asks.
Invariants: the certificates that count are a function of the records held, whatever their order.
Source: docs/internals/trust.md.
"""
