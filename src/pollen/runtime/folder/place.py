"""The folder of a service of the system, and the user whom the folder is given to.

Decides: which folder a service of the system may have, and when it changes hands.
Does not know: units and managers (``supervised``).
Invariants: a folder that holds something else than a node is refused, and so is a link. What
    changes hands is one tree, its links are not followed, and no node runs in it meanwhile.
Source: docs/guide/as-a-service.md.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from pollen.errors import PollenError, error_from
from pollen.paths import Paths, cure
from pollen.runtime.folder import service, units

_STATE = Path("/var/lib")
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHER = f"leave out --dir: it is {units.SYSTEM_HOME}"


def check(home: Path) -> None:
    """Raise ``usage`` for a folder that a service of the system cannot keep its state in."""
    if sys.platform == "darwin":
        return
    inside = Path(os.path.realpath(home.parent)).is_relative_to(os.path.realpath(_STATE))
    if not home.is_relative_to(_STATE) or home == _STATE or not inside:
        reason = f"a service of the system keeps its state in a folder below {_STATE}, not {home}"
        raise error_from("usage", reason, _OTHER)


def look(where: Paths) -> None:
    """Raise ``usage`` for a folder that is there and is neither empty nor of a node."""
    home = where.home
    try:
        held, names = home.lstat(), set()
        if stat.S_ISDIR(held.st_mode):
            names = {path.name for path in home.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise unwritten(home, error) from None
    if not stat.S_ISDIR(held.st_mode):
        raise error_from("usage", f"{home} is not a folder, or a link to one", _OTHER)
    if names & {where.node_key.name, where.member_file.name}:
        return
    strange = sorted(names - {path.name for path in (*where.state(), where.config_file)})
    if strange:
        reason = f"{home} holds no node, and something else: {strange[0]}"
        raise error_from("usage", reason, _OTHER)
    if held.st_uid not in (0, _user_id()):
        reason = f"{home} belongs to user id {held.st_uid}"
        raise error_from("usage", reason, _OTHER)


def _user_id() -> int:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(units.USER).pw_uid
    return 0


def give(where: Paths, user: int, group: int) -> None:
    """Make the folder, and give it to a user with all that is in it.

    Raises ``already-running`` when a node runs there as another user, and ``state-unusable``.
    """
    home = where.home
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            home.mkdir(mode=0o700)
        top = os.open(home, _OPEN)
    except OSError as error:
        raise unwritten(home, error) from None
    try:
        if service.running(where) is not None and _is_others(top, user):
            reason = f"a node runs in {home}, and what it keeps is not the user {units.USER}'s"
            raise error_from("already-running", reason, f"stop it: sudo pln --dir {home} down")
        for folder, name, held in _tree(top):
            if not stat.S_ISDIR(held.st_mode) and held.st_nlink > 1:
                reason = f"{name} in {home} is a file that has another name elsewhere"
                raise PollenError(
                    "state-unusable", reason, f"remove that link: find {home} -links +1"
                )
            if (held.st_uid, held.st_gid) != (user, group):
                os.chown(name, user, group, dir_fd=folder, follow_symlinks=False)
        os.fchown(top, user, group)
        os.fchmod(top, 0o700)
    except OSError as error:
        raise unwritten(home, error) from None
    finally:
        os.close(top)


def _is_others(top: int, user: int) -> bool:
    """Whether something there is not this user's."""
    is_top = os.fstat(top).st_uid != user
    return is_top or any(held.st_uid != user for _, _, held in _tree(top))


def _tree(top: int) -> Iterator[tuple[int, str, os.stat_result]]:
    """What is below an open folder: the folder that holds it, its name, and what it is."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for _, folders, files, held in os.fwalk(".", dir_fd=top, onerror=refuse):
        for name in (*folders, *files):
            # A node that runs takes files away.
            with contextlib.suppress(FileNotFoundError):
                yield held, name, os.stat(name, dir_fd=held, follow_symlinks=False)


def unwritten(path: Path, error: OSError) -> PollenError:
    """The error of a path that could not be written."""
    reason = f"{path} cannot be written: {error.strerror}"
    return PollenError("state-unusable", reason, cure(path.parent, error))
