"""Tracebacks for people: the frames of the seed's own files, with their names and lines."""

from __future__ import annotations

import traceback

from pollen_runner.bundle import DEPENDENCIES, ROOT

# What an answer of a node carries of a reason, and more than anybody reads. Guess.
TEXT_MAX = 8_000


def told(error: BaseException) -> str:
    """An exception as it would be printed, without the frames of the runner and the libraries."""
    held = traceback.TracebackException.from_exception(error)
    _trim(held, set())
    text = "".join(held.format()).strip().replace(f'File "{ROOT}', 'File "')
    if len(text) > TEXT_MAX:
        text = f"{text[: TEXT_MAX // 2]}\n  ...\n{text[-TEXT_MAX // 2 :]}"
    return text


def _trim(held: traceback.TracebackException, seen: set[int]) -> None:
    if id(held) in seen:
        return
    seen.add(id(held))
    held.stack[:] = [frame for frame in held.stack if is_own(frame.filename)]
    for below in (held.__cause__, held.__context__, *(held.exceptions or ())):
        if below is not None:
            _trim(below, seen)


def is_own(filename: str) -> bool:
    """Whether a file is the seed's own, not a dependency's and not the library's."""
    return filename.startswith(ROOT) and not filename.startswith(ROOT + DEPENDENCIES)
