"""``python -m pollen.cli`` is ``pln``; the installed command begins here too.

Until the command itself answers Ctrl-C, the kernel ends the process. Nothing has begun by then, and
a traceback out of an import would say nothing to anybody. A signal that is ignored stays ignored.
"""

import _signal  # type: ignore[import-not-found]  # `signal` imports enum first: 2 ms more.

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from pollen.cli.app import main

if __name__ == "__main__":
    main()
