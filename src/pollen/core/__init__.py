"""The brain: every decision of a node that is not made for a single call, without I/O, clock,
entropy or threads."""
