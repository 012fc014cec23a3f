"""From a Python source to its bundle, and from words to arguments."""
