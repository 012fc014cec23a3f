"""Services: what members serve under a name, and where this machine's clients find it.

Decides: who serves a name and in which order they are tried; what this node serves, to whom; which
    listeners stand here.
Does not know: sockets, tunnels; the muscles open and carry them.
Invariants: who serves a name is a function of what was published and of the certificates that
    count. Where a service really is, is known to its own node alone.
Source: docs/design/services.md.
"""

from pollen.core.services.services import Services

__all__ = ["Services"]
