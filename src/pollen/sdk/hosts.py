"""Which machine is meant: what a user may write for a host, and the file of contexts.

Decides: what a host's text may hold, and what is asked first: a flag, the environment, the context
in use. Does not know: ssh's own names for hosts; those are in the user's ~/.ssh/config.
Invariants: no text that this accepts is an option of ssh or can leave its place in a shell's line.
The file is replaced as a whole, and only its owner may read it.
Source: docs/design/cli.md#other-machines.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pollen.errors import PollenError, error_from
from pollen.paths import Paths, contexts_file, cure, resolve

LOCAL: Final = "local"
DEFAULT_FOLDER: Final = "~/.pln"
_SCHEME: Final = "ssh://"
# What a proxy command of the user's configuration could hand to a shell; OpenSSH refuses the same.
_UNSAFE: Final = re.compile(r"[\s\x00-\x20\x7f'`\"$\\;&<>|(){}\[\]/@?#%*!]")
_ADDRESS: Final = re.compile(r"[0-9a-fA-F.]*(?::[0-9a-fA-F.]*){2,}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FORMS: Final = "give user@host, ssh://user@host:port/folder, or a name of: pln context list"


def parse(text: str, folder: str = "") -> Paths:
    """The node that ``user@host`` or ``ssh://user@host[:port][/dir]`` names; ``folder`` replaces
    its folder. Raises ``usage``."""
    if not text.startswith(_SCHEME):
        return _made(text, text, "", folder)
    from urllib.parse import unquote

    place, _, rest = text.removeprefix(_SCHEME).partition("/")
    target, port = place, ""
    if found := re.fullmatch(r"((?:.*@)?[^:@]*|.*\]):(\d*)", place):
        target, port = found[1], found[2]
        if not port or not 0 < int(port) < 65_536:
            raise _bad(text, "its port is not a number from 1 to 65535")
    elif place.rpartition("@")[2].count(":") > 1 and not place.endswith("]"):
        raise _bad(text, "an address with colons stands in brackets here")
    rest = unquote(rest)
    if rest and not rest.startswith("~"):
        rest = f"/{rest}"
    return _made(text, target, port, folder or rest.rstrip("/"))


def _made(text: str, target: str, port: str, folder: str) -> Paths:
    user, at, host = target.rpartition("@")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    for part, what in ((bare, "host"), (user, "user")):
        if part.startswith("-"):
            raise _bad(text, f"the {what} begins with -, which ssh takes for an option")
        if _UNSAFE.search(part) or not part.isprintable():
            raise _bad(text, f"the {what} holds a blank or a sign that a shell reads")
    if ":" in bare and not _ADDRESS.fullmatch(bare):
        raise _bad(text, "a port has the form ssh://user@host:port")
    if not bare or (at and not user):
        raise _bad(text, "a part of it is empty")
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in folder):
        raise _bad(text, "the folder holds a control character")
    address = f"[{bare}]" if ":" in bare else bare
    where = f"{_SCHEME}{user}{at}{address}{f':{port}' if port else ''}"
    return Paths(Path(folder or DEFAULT_FOLDER), host=where, is_given=bool(folder))


def _bad(text: str, why: str) -> PollenError:
    return error_from("usage", f"{text!r} is not a host: {why}", _FORMS)


def read() -> tuple[str, dict[str, str]]:
    """The context in use (``local``: none) and the host of each. Raises ``state-unusable``."""
    import tomllib

    path = contexts_file()
    try:
        held = tomllib.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return LOCAL, {}
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror}"
        remedy = f"{cure(path, error)}\nthis machine is meant: -H {LOCAL}"
        raise error_from("state-unusable", reason, remedy) from None
    except ValueError as error:
        reason = f"{path} is not TOML: {error}"
        raise error_from("state-unusable", reason, f"correct it, or remove {path}") from None
    hosts, use = held.get("hosts", {}), held.get("use", LOCAL)
    is_fine = isinstance(hosts, dict) and all(isinstance(host, str) for host in hosts.values())
    if not is_fine or not isinstance(use, str):
        reason = f'{path} is not a file of contexts: use = "NAME", and a table hosts of texts'
        raise error_from("state-unusable", reason, f"correct it, or remove {path}")
    return use, hosts


def write(use: str, hosts: Mapping[str, str]) -> None:
    """Replace the file, comments of its user kept. Raises ``state-unusable``."""
    import tomlkit

    path = contexts_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        held: Any = tomlkit.parse(text)
        held["use"] = use
        table = held.setdefault("hosts", tomlkit.table())
        for name in [name for name in table if name not in hosts]:
            del table[name]
        for name, host in hosts.items():
            table[name] = host
        _replace(path, tomlkit.dumps(held))
    except OSError as error:
        reason = f"{path} cannot be written: {error.strerror}"
        raise error_from("state-unusable", reason, cure(path, error)) from None


def _replace(path: Path, text: str) -> None:
    """The file is the old one or the new one, and nobody else may read either."""
    import tempfile

    descriptor, made = tempfile.mkstemp(dir=path.parent, prefix=".contexts-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(made).replace(path)
    except BaseException:
        Path(made).unlink(missing_ok=True)
        raise


def check_name(name: str) -> None:
    """Raise ``usage`` for what is not a context's name."""
    if not _NAME.fullmatch(name) or name == LOCAL:
        reason = f"{name!r} is not a name for a context"
        raise error_from("usage", reason, "use letters, digits, . _ -; local is this machine")


def named(text: str, folder: str = "") -> Paths:
    """What ``-H`` or PLN_HOST says: ``local``, a context's name, or a host. Raises ``usage``."""
    if text == LOCAL:
        return resolve(folder or None)
    if _NAME.fullmatch(text):
        host = read()[1].get(text)
        if host is not None:
            return parse(host, folder)
        if "." not in text:
            reason = f"there is no context named {text!r}"
            raise error_from("usage", reason, f"see: pln context list\n{_FORMS}")
    return parse(text, folder)


def in_use() -> Paths | None:
    """The context in use; None is this machine. Raises ``usage`` when its host was removed."""
    use, hosts = read()
    if use == LOCAL:
        return None
    if use not in hosts:
        reason = f"the context in use, {use!r}, is not in {contexts_file()}"
        raise error_from("usage", reason, "pln context use local")
    return parse(hosts[use])


def chosen(flag: str | None, directory: str | None) -> Paths:
    """The node of a command. The first of these that is given: ``-H``, with ``--dir`` for a folder
    there; ``--dir``; PLN_HOST; PLN_DIR; the context in use; ``~/.pln`` here."""
    if flag is not None:
        return named(flag, directory or "")
    if directory is not None:
        return resolve(directory)
    if host := os.environ.get("PLN_HOST"):
        return named(host)
    if os.environ.get("PLN_DIR"):
        return resolve()
    return in_use() or resolve()


def connecting(given: str | os.PathLike[str] | None) -> Paths:
    """The node that ``connect`` means: a context's name or ``ssh://`` when it is a text, else a
    folder; without one that of PLN_HOST, of PLN_DIR, or of this user here."""
    if given is None:
        host = os.environ.get("PLN_HOST")
        return named(host) if host else resolve()
    if isinstance(given, str):
        if given.startswith(_SCHEME):
            return parse(given)
        if _NAME.fullmatch(given) and (host := read()[1].get(given)) is not None:
            return parse(host)
    return resolve(os.fspath(given))
