"""The Python half of a Python seed: what runs inside the sandbox, around the user's module.

``app`` in the folder above ties it to the component's exports. Everything here but ``stdlib`` also
runs on plain CPython 3.11, where tests/unit/runner tries it with a host of its own.
Source: docs/design/python.md.
"""
