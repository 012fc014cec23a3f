"""The brain: every decision of a node, without I/O, clock, entropy or threads."""
