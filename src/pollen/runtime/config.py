"""``<dir>/config.toml``: what a daemon is told about its machine.

Unknown keys and wrong types are ``config-invalid``, naming the key and the known ones.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path

import msgspec
import psutil

from pollen.errors import BadRequest

DEFAULT_PORT = 60611
DEFAULT_LISTEN = (f"0.0.0.0:{DEFAULT_PORT}", f"[::]:{DEFAULT_PORT}")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings; a command line option goes before the file.

    ``listen``: addresses to bind. ``http``: the TCP door of the gateway, none by default.
    ``memory_bytes``: for guests; 0 is half of the machine's. ``grace_ms``: for calls at shutdown.
    ``discovery``: words of specs/discovery, as in ``"static:192.0.2.7:60611 multicast"``.
    """

    listen: list[str] = msgspec.field(default_factory=lambda: list(DEFAULT_LISTEN))
    http: str = ""
    name: str = ""
    memory_bytes: int = 0
    log_level: str = "info"
    grace_ms: int = 5_000
    discovery: str | list[str] = ""

    def guest_memory(self) -> int:
        """Bytes that guests may use."""
        return self.memory_bytes or int(psutil.virtual_memory().total) // 2

    def guest_slots(self) -> int:
        """Cores that guests share."""
        return psutil.cpu_count() or 1


def read_config(path: Path) -> Config:
    """The settings in ``path``, or the defaults when there is no file."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Config()
    except PermissionError:
        if not os.access(path.parent, os.X_OK):
            return Config()  # the folder itself is the trouble; who uses it says so
        raise BadRequest(
            "config-invalid", f"{path} cannot be read", "give it back: chown"
        ) from None
    except (OSError, ValueError) as error:
        raise BadRequest("config-invalid", f"{path}: {error}", "mend or remove the file") from error
    known = [field.name for field in msgspec.structs.fields(Config)]
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean: {near[0]}" if near else f"known keys: {', '.join(known)}"
            raise BadRequest("config-invalid", f"{path}: unknown key {key!r}", hint)
    try:
        return msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        raise BadRequest("config-invalid", f"{path}: {error}", "mend the value") from error
