"""Sites: a folder becomes one archive, and an archive a folder.

Decides: which files of a folder belong to a site, their media types, what is packed beforehand,
    and where each stands in the archive.
Does not know: how an archive travels (``files``), what a path of a request comes to (the doors).
Invariants: the same folder is the same archive, byte for byte, where zlib and brotli are the same.
    A name that some system could take for another file is refused, when a folder is read and when
    it is written. A folder that is fetched appears whole or not at all.
Source: docs/internals/content.md#sites; POSIX.1-2001 pax interchange format; RFC 1952, 7932.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, Final, Protocol, cast

from pollen.errors import error_from

# Where the archive's first member has the table, and where the packed files are.
TABLE: Final = ".pollen/site.json"
_OWN: Final = ".pollen"
# How files are packed, by the names in HTTP; the packed ones stand below a folder of that name.
_CODINGS: Final = ("gzip", "br")
_BLOCK: Final = 512
_PIECE: Final = 1 << 20
# A table of so many has about 14 MiB, and a node reads 16.
FILES_MAX: Final = 100_000
_TABLE_MAX: Final = 16 << 20
# What is smaller is not packed: the answer fits into one packet as it is.
_PACK_LEAST: Final = 1024
# The packer of brotli takes 1.4 s for 1 MB at its best, and 0.06 s at 9 for 10 % more (measured on
# the Python files of this package). So a folder with more text than this is packed at 9.
_BEST_MOST: Final = 2 << 20
# What is packed stays when it has at most so much of the file. Guess: less is not worth a copy.
_PACK_GAIN: Final = 0.9
_TEXTS: Final = ("text/", "application/json", "application/javascript", "image/svg+xml")
_TEXTS_TOO: Final = ("application/wasm", "application/xml", "application/manifest+json")
# The tables of Python's versions and of systems differ: these stand for themselves.
_TYPES: Final = {
    ".avif": "image/avif",
    ".css": "text/css",
    ".gif": "image/gif",
    ".htm": "text/html",
    ".html": "text/html",
    ".ico": "image/x-icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".ogg": "audio/ogg",
    ".otf": "font/otf",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
    ".zip": "application/zip",
}
# What helps against a hidden file, and against an archive that is none.
_HIDDEN: Final = "remove it, or say that it belongs to the site: --dot-files"
_AGAIN: Final = "its publisher seeds it again: pln seed FOLDER"
# Names that mean a device on Windows, with any ending.
_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
)


# What a name of a header may be (RFC 9110, 5.6.2), and those that say how an answer is framed, what
# it is of, or what only this machine may say.
_TOKEN: Final = re.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_FOR_SITES: Final = frozenset(
    {"accept-ranges", "connection", "content-encoding", "content-length", "content-range", "date"}
    | {"etag", "keep-alive", "location", "proxy-authenticate", "proxy-authorization", "set-cookie"}
    | {"te", "trailer", "transfer-encoding", "upgrade", "vary"}
)
HEADERS_MAX: Final = 32
_HEADER_MAX: Final = 4096


@dataclass(frozen=True)
class Manner:
    """How a folder is a site. ``spa``: a path without a file and without an ending is the first
    page; ``dot_files``: files with a leading dot belong to it; ``links``: a link is what it names
    within the folder; ``headers``: ``NAME: VALUE``, each said with every file."""

    spa: bool = False
    dot_files: bool = False
    headers: tuple[str, ...] = ()
    links: bool = False

    @property
    def flag(self) -> str:
        """The first flag that is set, as it is typed; empty for none."""
        flags = {"--spa": self.spa, "--dot-files": self.dot_files, "--links": self.links}
        flags["--header"] = bool(self.headers)
        return next((flag for flag, is_set in flags.items() if is_set), "")


class Readable(Protocol):
    """What is read once, from its beginning to its end."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, and none at the end."""


@contextlib.contextmanager
def packed(folder: Path, manner: Manner | None = None) -> Iterator[BinaryIO]:
    """The archive of a folder, as an open file without a name.

    Raises ``bad-request`` for a folder that is no site, with the file at fault and a remedy;
    ``usage`` for a header that a site may not say.
    """
    manner = manner or Manner()
    headers = headers_of(manner.headers)
    with contextlib.ExitStack() as stack:
        try:
            files = _files_of(folder, manner)
            archive = stack.enter_context(tempfile.TemporaryFile())
            variants = {how: stack.enter_context(tempfile.TemporaryFile()) for how in _CODINGS}
            quality = _quality(files)
            entries = [_Entry(path, files[path], variants, quality) for path in sorted(files)]
            about = {"spa": manner.spa, "headers": headers}
            _write(archive, entries, variants, about)
        except OSError as error:
            where = error.filename or f"a temporary file in {tempfile.gettempdir()}"
            remedy = "make room there, or name another folder for temporary files: TMPDIR=…"
            raise error_from("bad-request", f"{where}: {error.strerror}", remedy) from None
        archive.seek(0)
        yield archive


def unpack(archive: Readable, folder: Path) -> int:
    """Write the files of an archive into a new folder; how many there are.

    Raises ``bundle-invalid`` for an archive that is no site, or has a name that is unsafe here.
    """
    count = 0
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", archive), mode="r|") as members:
            seen: dict[str, str] = {}
            for number, member in enumerate(members):
                if (member.name == TABLE) != (number == 0):
                    raise error_from("bundle-invalid", "it does not begin with a table", _AGAIN)
                # Packed forms, also those of a later version.
                if number == 0 or member.name.startswith(f"{_OWN}/"):
                    continue
                check_path(member.name, seen, slug="bundle-invalid")
                body = members.extractfile(member) if member.isreg() else None
                if body is None:
                    raise error_from("bundle-invalid", f"{member.name!r} is not a file", _AGAIN)
                place = folder / member.name
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("xb") as file:
                    shutil.copyfileobj(body, file, _PIECE)
                    os.fchmod(file.fileno(), 0o755 if member.mode & 0o100 else 0o644)
                count += 1
    except (tarfile.TarError, EOFError, ValueError) as error:
        reason = f"the archive cannot be read: {error}"
        raise error_from("bundle-invalid", reason, _AGAIN) from None
    if not count:
        raise error_from("bundle-invalid", "it has no file", _AGAIN)
    return count


def check_path(path: str, seen: dict[str, str], *, slug: str = "bad-request") -> None:
    """Refuse a path that some system reads as another one, or that it cannot hold. ``seen``: the
    paths before it, by what they are to a system that ignores case and form."""
    why = _odd(path)
    if why:
        raise error_from(slug, f"the path {path!r} {why}", "rename the file")
    alike = unicodedata.normalize("NFC", path).casefold()
    other = seen.setdefault(alike, path)
    if other != path:
        reason = f"the paths {other!r} and {path!r} are one where case or form do not count"
        raise error_from(slug, reason, "rename one of them")


def _odd(path: str) -> str:
    """What is wrong with a path, in words, or nothing."""
    parts = path.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "is not UTF-8"
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in path):
        return "has a control character"
    if "\\" in path or path.startswith("/") or PurePosixPath(path).is_absolute():
        return "has a backslash" if "\\" in path else "begins with a slash"
    if any(part in ("", ".", "..") for part in parts):
        return "has a part that is empty, . or .."
    if max(sizes) > 255:
        return "has a part of over 255 bytes"
    if parts[0] == _OWN:
        return f"begins with {_OWN}, where the table is"
    if any(part.split(".")[0].rstrip(" ").casefold() in _DEVICES for part in parts):
        return "has the name of a device on Windows"
    return ""


def _files_of(folder: Path, manner: Manner) -> dict[str, Path]:
    """The files below a folder by their paths in the site."""
    found: dict[str, Path] = {}
    seen: dict[str, str] = {}
    root = folder.resolve()
    # Each folder with the real ones on the way to it: a link to one of them would never end.
    waiting: list[tuple[Path, str, tuple[Path, ...]]] = [(folder, "", (root,))]
    while waiting:
        place, prefix, way = waiting.pop()
        for entry in sorted(place.iterdir()):
            path = f"{prefix}{entry.name}"
            if entry.name.startswith(".") and not manner.dot_files:
                raise error_from("bad-request", f"{entry} is a hidden file", _HIDDEN)
            if entry.is_symlink():
                _check_link(entry, root, way, manner)
            mode = entry.stat().st_mode
            if stat.S_ISDIR(mode):
                waiting.append((entry, f"{path}/", (*way, entry.resolve())))
            elif stat.S_ISREG(mode):
                check_path(path, seen)
                found[path] = entry
            else:
                reason = f"{entry} is neither a file nor a folder"
                raise error_from("bad-request", reason, "put the file itself there")
            if len(found) > FILES_MAX:
                reason = f"{folder} has over {FILES_MAX:,} files"
                raise error_from("bad-request", reason, "make several sites of it")
    if not found:
        raise error_from("bad-request", f"{folder} has no file", "name the folder of a site")
    return found


def _check_link(entry: Path, root: Path, way: tuple[Path, ...], manner: Manner) -> None:
    """Refuse a link that nobody asked for, or that names what is no part of the site."""
    if not manner.links:
        remedy = "put the file itself there, or say that links within the folder count: --links"
        raise error_from("bad-request", f"{entry} is a link", remedy)
    target = Path(os.path.realpath(entry))
    why, remedy = "", "put the file itself there"
    if not target.is_relative_to(root):
        why = "leads out of the folder"
    elif not target.exists():
        why, remedy = "names nothing that is there", "remove it"
    elif target in way:
        why, remedy = "leads to a folder that it is in", "remove it"
    elif any(part.startswith(".") for part in target.relative_to(root).parts):
        why = "" if manner.dot_files else "names a hidden file"
        remedy = _HIDDEN
    if why:
        raise error_from("bad-request", f"{entry} is a link that {why}", remedy)


class _Packer(Protocol):
    """What packs a file piece by piece; ``finish`` gives the rest."""

    def process(self, piece: bytes, /) -> bytes:
        """What is packed so far."""

    def finish(self) -> bytes:
        """What was not given yet."""


class _Gzip:
    """Without a time in its header: the same file is packed alike."""

    def __init__(self) -> None:
        made = zlib.compressobj(9, zlib.DEFLATED, 31)
        self.process, self.finish = made.compress, made.flush


def _brotli(quality: int) -> _Packer:
    import brotli

    made: _Packer = brotli.Compressor(mode=brotli.MODE_TEXT, quality=quality)
    return made


def _quality(files: dict[str, Path]) -> int:
    """Of brotli: the best, unless that would take long."""
    texts = (place.stat().st_size for path, place in files.items() if _may_pack(_media(path)))
    return 11 if sum(texts) <= _BEST_MOST else 9


class _Entry:
    """One file: its size, its tag and its packed forms, read once."""

    def __init__(
        self, path: str, place: Path, variants: Mapping[str, BinaryIO], quality: int
    ) -> None:
        self.path, self.place = path, place
        self.media = _media(path)
        self.packed: dict[str, tuple[int, int]] = {}
        digest = hashlib.sha256()
        packers: dict[str, _Packer] = {}
        if _may_pack(self.media) and place.stat().st_size >= _PACK_LEAST:
            packers = {"gzip": _Gzip(), "br": _brotli(quality)}
        begun = {how: variants[how].tell() for how in packers}
        with place.open("rb") as file:
            self.mark = _mark(file)
            while piece := file.read(_PIECE):
                digest.update(piece)
                for how, packer in packers.items():
                    variants[how].write(packer.process(piece))
        self.tag = digest.hexdigest()[:32]
        least = self.size * _PACK_GAIN
        for how, packer in packers.items():
            variants[how].write(packer.finish())
            size = variants[how].tell() - begun[how]
            if size <= least:
                self.packed[how] = begun[how], size
                # Another form is of use when it is smaller.
                least = size - 1
            else:
                variants[how].seek(begun[how])
                variants[how].truncate()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.mark[0]

    def head(self) -> tarfile.TarInfo:
        """Its header: what differs between machines is left out."""
        return _header(self.path, self.size, is_executable=bool(self.mark[2] & stat.S_IXUSR))


def headers_of(lines: Sequence[str]) -> list[tuple[str, str]]:
    """The headers in ``NAME: VALUE`` lines, names in lower case. Raises ``usage``."""
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = (part.strip() for part in line.partition(":"))
        lower, shown = name.lower(), f"--header {line[:80]!r}"
        if not colon or _TOKEN.fullmatch(name) is None:
            raise error_from(
                "usage", f"{shown} is not NAME: VALUE", "--header 'X-Frame-Options: DENY'"
            )
        if lower in _NOT_FOR_SITES:
            remedy = "leave it out: the node that answers says it"
            raise error_from("usage", f"{shown} is not for a site to say", remedy)
        if not value.isascii() or not value.isprintable() or len(line) > _HEADER_MAX:
            reason = f"the value of {shown} is not printable ASCII of {_HEADER_MAX} bytes at most"
            raise error_from("usage", reason, "shorten it")
        if lower in found:
            raise error_from("usage", f"{shown} is given twice", "give one, with all of its value")
        found[lower] = value
    if len(found) > HEADERS_MAX:
        raise error_from("usage", f"{len(found)} headers, over {HEADERS_MAX}", "leave some out")
    return list(found.items())


def _write(
    archive: BinaryIO,
    entries: list[_Entry],
    variants: Mapping[str, BinaryIO],
    about: dict[str, Any],
) -> None:
    """The table, each file, and each packed one."""
    files: dict[str, dict[str, Any]] = {}
    packed = [(how, entry) for how in _CODINGS for entry in entries if how in entry.packed]
    at = 0
    for entry in entries:
        at += len(_bytes_of(entry.head()))
        files[entry.path] = {
            "offset": at,
            "size": entry.size,
            "type": entry.media,
            "tag": entry.tag,
        }
        at += _filled(entry.size)
    for how, entry in packed:
        size = entry.packed[how][1]
        at += len(_bytes_of(_header(f"{_OWN}/{how}/{entry.path}", size)))
        files[entry.path][how] = [at, size]
        at += _filled(size)
    table = json.dumps(
        {"format": 1, **about, "files": files},
        ensure_ascii=False,
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    if len(table) > _TABLE_MAX:
        reason = f"the table of the site has {len(table):,} bytes, over {_TABLE_MAX:,}"
        raise error_from("bad-request", reason, "make several sites of it")
    archive.write(_bytes_of(_header(TABLE, len(table))))
    archive.write(table)
    _fill(archive, len(table))
    for entry in entries:
        archive.write(_bytes_of(entry.head()))
        with entry.place.open("rb") as file:
            shutil.copyfileobj(file, archive, _PIECE)
            if _mark(file) != entry.mark or file.tell() != entry.size:
                reason = f"{entry.place} changed while it was read"
                raise error_from("bad-request", reason, "ask again")
        _fill(archive, entry.size)
    for how, entry in packed:
        start, size = entry.packed[how]
        archive.write(_bytes_of(_header(f"{_OWN}/{how}/{entry.path}", size)))
        variants[how].seek(start)
        _copy(variants[how], archive, size)
        _fill(archive, size)
    archive.write(bytes(2 * _BLOCK))
    archive.flush()


def _header(path: str, size: int, *, is_executable: bool = False) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, 0o755 if is_executable else 0o644
    return info


def _bytes_of(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT)


def _filled(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _fill(archive: BinaryIO, size: int) -> None:
    archive.write(bytes(_filled(size) - size))


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size > 0 and (piece := source.read(min(size, _PIECE))):
        target.write(piece)
        size -= len(piece)


def _mark(file: BinaryIO) -> tuple[int, int, int]:
    """What shows that a file changed: size, time and mode."""
    held = os.fstat(file.fileno())
    return held.st_size, held.st_mtime_ns, held.st_mode


def _may_pack(media: str) -> bool:
    return media.startswith(_TEXTS) or media in _TEXTS_TOO


def _media(path: str) -> str:
    """A media type by the name's ending, the same on each machine."""
    ending = PurePosixPath(path).suffix.lower()
    media = _TYPES.get(ending) or "application/octet-stream"
    return f"{media}; charset=utf-8" if media.startswith("text/") else media
