"""The disk: rows by (table, key) in SQLite, written by one thread with group commit.

A batch is on disk when its token is reported. A write that fails (a full disk) is reported as well,
and tried again until it succeeds; nothing is lost or reported as done early.
Errors at opening: ``state-unusable`` when the file is not our store, damaged, of a newer schema,
or not writable; a full or read-only disk is told from damage. The file is left as it was.
Source: docs/design/protocol.md#durability. Refused: one file a record, whose fsyncs do not group.
"""

from __future__ import annotations

import errno
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pollen.core.ids import Token
from pollen.errors import PollenError
from pollen.paths import cure, trouble_at

Row = tuple[str, bytes, bytes | None]

SCHEMA = 1
APPLICATION_ID = 0x706C6E31  # "pln1"
# A store that is damaged: the keys lie beside it, and the others know the records.
REMEDY = "put a copy of it back; with none: pln purge --yes, then pln join TOKEN"
GROUP_MAX = 256
RETRY_SECONDS = 1.0

# What SQLite says of the system beneath it, not of the file's content.
_NO_DAMAGE = frozenset(
    (
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    )
)

_CREATE = (
    "CREATE TABLE IF NOT EXISTS row "
    "(tab TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (tab, key)) "
    "WITHOUT ROWID"
)
_PUT = (
    "INSERT INTO row (tab, key, value) VALUES (?, ?, ?) "
    "ON CONFLICT DO UPDATE SET value = excluded.value"
)
_DELETE = "DELETE FROM row WHERE tab = ? AND key = ?"


class Store:
    """One open store. ``start`` begins the writer; without it ``write_now`` is the only writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[tuple[Token, list[Row]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stop, self._wake = threading.Event(), threading.Event()
        self._failed: PollenError | None = None
        self._observe: Callable[[float], None] = lambda seconds: None
        self._db = _open(path)

    @property
    def free_bytes(self) -> int:
        """What is free on the disk that it stands on; 0 when the system does not say."""
        try:
            held = os.statvfs(self._path.parent)
        except OSError:
            return 0
        return held.f_bavail * held.f_frsize

    @property
    def is_failing(self) -> bool:
        """Whether the last write failed; it is being tried again."""
        return self._failed is not None

    @property
    def trouble(self) -> PollenError | None:
        """Why nothing can be written now: the last write failed, or the next one would.

        ``storage-full`` for want of room, else ``state-unusable``.
        """
        if self._failed is not None:
            return self._failed
        trouble = trouble_at(self._path.parent)
        return None if trouble is None else _troubled(self._path, trouble)

    def try_now(self) -> None:
        """Try a write that failed again at once. Without one it does nothing."""
        self._wake.set()

    def load(self) -> dict[str, list[tuple[bytes, bytes]]]:
        """All rows by table, in the order of their keys."""
        found: dict[str, list[tuple[bytes, bytes]]] = {}
        try:
            for table, key, value in self._db.execute(
                "SELECT tab, key, value FROM row ORDER BY tab, key"
            ):
                found.setdefault(table, []).append((bytes(key), bytes(value)))
        except sqlite3.Error as error:
            raise refusal(self._path, error) from error
        return found

    def write_now(self, rows: Sequence[Row]) -> None:
        """Write and sync before returning; only while the writer thread is not running."""
        try:
            self._commit(rows)
        except sqlite3.Error as error:
            raise refusal(self._path, error) from error

    def clear_now(self) -> None:
        """Forget every row; only while the writer thread is not running."""
        try:
            with self._db:
                self._db.execute("DELETE FROM row")
        except sqlite3.Error as error:
            raise refusal(self._path, error) from error

    def start(
        self,
        done: Callable[[list[Token]], None],
        failed: Callable[[str], None],
        observe: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Begin writing. The callbacks run on the writer thread: after a commit, after a failure,
        and with the seconds that a commit took."""
        self._observe = observe
        self._thread = threading.Thread(
            target=self._run, args=(done, failed), name="pollen-store", daemon=True
        )
        self._thread.start()

    def submit(self, token: Token, rows: list[Row]) -> None:
        """Queue a batch; never blocks."""
        self._queue.put((token, rows))

    def close(self) -> None:
        """Write what is queued, then close. Idempotent."""
        if self._thread is not None:
            self._stop.set()
            self._wake.set()
            self._queue.put(None)
            self._thread.join(timeout=30)
            self._thread = None
        self._db.close()

    def _run(self, done: Callable[[list[Token]], None], failed: Callable[[str], None]) -> None:
        is_last = False
        while not is_last:
            group, is_last = self._next_group()
            if not group:
                continue
            rows = [row for _, batch in group for row in batch]
            while not self._try_commit(rows, failed):
                self._wake.wait(RETRY_SECONDS)
                if self._stop.is_set():
                    return
                self._wake.clear()
            done([token for token, _ in group])

    def _next_group(self) -> tuple[list[tuple[Token, list[Row]]], bool]:
        """One batch, and whatever else is waiting: they share a commit."""
        group: list[tuple[Token, list[Row]]] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) >= GROUP_MAX or self._queue.empty():
                return group, False
            item = self._queue.get()
        return group, True

    @property
    def waiting(self) -> int:
        """How many batches wait to be written."""
        return self._queue.qsize()

    def _try_commit(self, rows: Sequence[Row], failed: Callable[[str], None]) -> bool:
        began = time.monotonic()
        try:
            self._commit(rows)
        except sqlite3.Error as error:
            self._failed = _failure(self._path, error)
            failed(str(error))
            return False
        self._failed = None
        self._observe(time.monotonic() - began)
        return True

    def _commit(self, rows: Sequence[Row]) -> None:
        with self._db:
            for table, key, value in rows:
                if value is None:
                    self._db.execute(_DELETE, (table, key))
                else:
                    self._db.execute(_PUT, (table, key, value))


def _open(path: Path) -> sqlite3.Connection:
    try:
        # SQLite would make the file readable by others; its WAL takes the mode of the file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(path, check_same_thread=False, timeout=5)
    except (sqlite3.Error, OSError) as error:
        raise refusal(path, error) from error
    try:
        _prepare(db, path)
    except sqlite3.Error as error:
        db.close()
        raise refusal(path, error) from error
    except PollenError:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise _unusable(path, "it is a database of another program")
    if version > SCHEMA:
        raise PollenError(
            "state-unusable",
            f"{path} was written by a newer pollen (schema {version}, this one reads {SCHEMA})",
            "install that version again, or restore an older copy of the folder",
        )
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _unusable(path, str(verdict))
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    with db:
        db.execute(_CREATE)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA}")


def refusal(path: Path, error: sqlite3.Error | OSError) -> PollenError:
    """What the disk would not do has its own cure; only what is damaged has to be replaced."""
    if isinstance(error, OSError):
        return _unusable(path, error.strerror or str(error), cure(path, error))
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _unusable(path, str(error))
    trouble = trouble_at(path.parent)
    if trouble is None and code == sqlite3.SQLITE_FULL:
        trouble = OSError(errno.ENOSPC, str(error))
    if trouble is not None:
        return _unusable(path, f"{error}: {trouble.strerror}", cure(path, trouble))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _unusable(path, str(error), "another program has it open; end that")
    if code in _NO_DAMAGE:
        return _unusable(path, str(error), "look at the folder and its disk: pln doctor")
    return _unusable(path, str(error))


def _failure(path: Path, error: sqlite3.Error) -> PollenError:
    """What a write met: no room, or whatever else the disk said."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return _troubled(path, OSError(errno.ENOSPC, str(error)))
    trouble = trouble_at(path.parent)
    return refusal(path, error) if trouble is None else _troubled(path, trouble)


def _troubled(path: Path, trouble: OSError) -> PollenError:
    if trouble.errno not in (errno.ENOSPC, errno.EDQUOT):
        return refusal(path, trouble)
    reason = f"the disk has no room for the state of this node, {path}"
    return PollenError("storage-full", reason, f"{cure(path, trouble)}; see: pln doctor")


def _unusable(path: Path, why: str, remedy: str = REMEDY) -> PollenError:
    return PollenError(
        "state-unusable",
        f"the store {path} cannot be used: {why}",
        remedy,
    )
