"""Files that a person carries between machines: words on top, signed bytes between two lines.

The words are for who finds the sheet. What counts stands between the lines and proves itself, so
that a changed word changes nothing. Ends of lines and white space may suffer on the way.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from pollen.errors import PollenError, error_from
from pollen.paths import cure, sync_folder
from pollen.plain import escaped

REQUEST = "POLLEN ROOT REQUEST"
ANSWER = "POLLEN ROOT ANSWER"
# No file of these is longer. Bytes. The largest answer in base64 has 256 KiB
# (``RootRequest.BYTES_MAX``); its words repeat 184 KiB, four times that as escapes.
FILE_MAX = 1024 * 1024


def sheet(words: Sequence[str], label: str, raw: bytes) -> str:
    """The text of a file: the words, then the bytes."""
    # No word looks like the line that begins what counts.
    said = [escaped(text).replace("---", "- -") for text in words]
    lines = [line for text in said for line in textwrap.wrap(text, 76) or [""]]
    block = textwrap.wrap(base64.b64encode(raw).decode(), 64)
    return "\n".join([*lines, "", f"-----BEGIN {label}-----", *block, f"-----END {label}-----", ""])


def between(text: str, label: str) -> str | None:
    """What stands between the two lines of a label, with them; None when they are not there."""
    begin, end = f"-----BEGIN {label}-----", f"-----END {label}-----"
    _, found, rest = text.partition(begin)
    inner, closed, _ = rest.partition(end)
    return f"{begin}{inner}{end}\n" if found and closed else None


def bytes_of(text: str, label: str) -> bytes:
    """The bytes of a file. Raises ``root-file-invalid`` when it is of another kind or damaged."""
    block = between(text, label)
    if block is None:
        reason = f"the file holds no line -----BEGIN {label}----- with its end"
        raise error_from("root-file-invalid", reason, _kind_remedy(text, label))
    inner = "".join("".join(block.split("-----")[2:3]).split())
    try:
        return base64.b64decode(inner, validate=True)
    except (binascii.Error, ValueError):
        reason = "the file is damaged: between its lines stands what is not base64"
        raise error_from("root-file-invalid", reason, "copy it again, whole") from None


def _kind_remedy(text: str, label: str) -> str:
    if label == REQUEST and between(text, ANSWER):
        return "it is an answer of the root; on an admin's node: pln root apply FILE"
    if label == ANSWER and between(text, REQUEST):
        return "it is a request; where the root key is: pln root sign FILE"
    return "give the file as it was made, whole"


def read(name: str) -> str:
    """The text of a file, or of standard input for ``-``. Raises ``usage``."""
    try:
        if name == "-":
            raw = sys.stdin.buffer.read(FILE_MAX + 1)
        else:
            with Path(name).expanduser().open("rb") as file:
                raw = file.read(FILE_MAX + 1)
    except OSError as error:
        reason = f"{name} cannot be read: {error.strerror}"
        raise error_from("usage", reason, "name a file, or - for standard input") from None
    if len(raw) > FILE_MAX:
        reason = f"{name} is over {FILE_MAX >> 10} KiB, which no such file is"
        raise error_from("root-file-invalid", reason, "give the file as it was made")
    return raw.decode("utf-8", "replace")


def check_new(name: str) -> None:
    """Raise ``file-exists`` where a file would be written over, before there is work to lose."""
    if name != "-" and os.path.lexists(Path(name).expanduser()):
        raise _exists(name)


def write_new(name: str, text: str) -> None:
    """Write a file that was not there, for its owner only; ``-`` is stdout.

    The file and its name in the folder are on the disk when this returns.

    Raises ``file-exists``; ``state-unusable`` when the disk does not take it: then nothing is left.
    """
    if name == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    path = Path(name).expanduser()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise _exists(name) from None
    except OSError as error:
        raise _unwritten(path, error) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise _unwritten(path, error) from None


def _exists(name: str) -> PollenError:
    reason = f"{name} exists, and is not written over"
    return error_from("file-exists", reason, "give another name, or move it away")


def _unwritten(path: Path, error: OSError) -> PollenError:
    reason = f"{path} cannot be written: {error.strerror}"
    return error_from("state-unusable", reason, cure(path, error))
