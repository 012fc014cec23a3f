"""The Python half of a seed, on plain CPython with a node of its own."""
