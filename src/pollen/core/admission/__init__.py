"""Who is let in, how one becomes a member, and how membership is renewed.

Decides: the answer to a token, the verdict on a Hello, who signs which lease and when.
Does not know: what makes a document good (``trust``), placement, tables.
Invariants: a nonce is good once; whose membership ends is cut in the turn in which that is seen.
Source: docs/internals/trust.md.
"""
