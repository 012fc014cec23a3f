"""Finding the first peer, and peers again: strategies that yield addresses, never trust."""
