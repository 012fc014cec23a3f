"""A call whose daemon falls silent: told after a second, ended after five.

A call may take its time, so the daemon is asked another question beside it; nothing is loaded for
that before the first second is over.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from pollen.errors import PollenError
from pollen.paths import Paths
from pollen.sdk.blocking import SyncMesh

_WORD_SECONDS = 1.0
# An answer that takes longer than this is worth a word.
_PROMPT_SECONDS = 0.5


class Watch:
    """While it lasts, a silent daemon breaks the connection; ``error`` then says why."""

    def __init__(self, where: Paths, mesh: SyncMesh) -> None:
        self._where = where
        self._mesh = mesh
        self._done = threading.Event()
        self.error: PollenError | None = None

    def __enter__(self) -> Self:
        threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._done.set()

    def _look(self) -> None:
        if self._done.wait(_WORD_SECONDS):
            return
        from pollen.sdk import silence

        patience = silence.SILENT_SECONDS - _WORD_SECONDS
        while self._answers(patience):
            if self._done.wait(silence.SILENT_SECONDS):
                return
            patience = silence.SILENT_SECONDS
        if not self._done.is_set():
            seconds = silence.SILENT_SECONDS
            self.error = silence.not_answering(self._where, seconds, may_have_executed=True)
            self._mesh.interrupt()

    def _answers(self, patience: float) -> bool:
        from pollen.sdk import silence

        address = str(self._where.call_socket)
        if silence.answers(self._where, address, _PROMPT_SECONDS):
            return True
        if not self._done.is_set():
            silence.say_waiting(self._where)
        return silence.answers(self._where, address, patience - _PROMPT_SECONDS)
