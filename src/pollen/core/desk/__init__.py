"""What a user reads and asks: screens, explanations, news, what an admin has others do.

Decides: the words and figures of an answer.
Does not know: how anything comes to be; it reads the other rooms and changes none.
Invariants: nothing here publishes a record or moves a seed.
Source: docs/internals/control-api.md.
"""
