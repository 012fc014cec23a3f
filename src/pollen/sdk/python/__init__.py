"""From a Python file, folder or package to the bundle that a node runs."""
