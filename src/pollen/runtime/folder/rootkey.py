"""The root key as a file: sealed with a passphrase, brought back, replaced, used away from a node.

A sealed key is an age file (scrypt and ChaCha20-Poly1305) in letters that can be printed; any age
program opens it. No sealed or unsealed key is ever in an argument, in the environment or in a file
that others may read. This module and ``keys.rs`` are the only places that see a private key.
Source: docs/decisions/the-root-key-on-paper.md; https://age-encryption.org/v1.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pollen.core.codec import Refusal
from pollen.core.ids import ClusterId, KeyRole, PeerId, is_hash_text, short
from pollen.core.trust.papers import RootRequest
from pollen.errors import PollenError, error_from
from pollen.paths import Paths, cure, sync_folder, trouble_at
from pollen.runtime.folder import identity
from pollen.runtime.loop.native import Key, Native, make_verify

# Guess: five or six words of a list are longer; who can guess a shorter one has the cluster.
PASSPHRASE_MIN_CHARS = 12
# How often a machine is measured that seems too slow for a sealed key.
_MEASURES = 8
AGE = "AGE ENCRYPTED FILE"
_INSIDE = "pollen-root-export 1"
_PLAIN = "pollen-key-1 "

Ask = Callable[[], str]


@dataclass(frozen=True)
class Held:
    """A root key in memory. ``cluster`` is None for a plain key file, which names none."""

    key: Key
    cluster: ClusterId | None

    @property
    def root(self) -> PeerId:
        """Its id."""
        return PeerId(self.key.public)

    def sign(self, role: KeyRole, message: bytes) -> bytes:
        """As the core is given it, for a machine that is the root and nothing else."""
        return self.key.sign(message)


def check_passphrase(passphrase: str) -> str:
    """A passphrase that may seal a key. Raises ``usage``."""
    if len(passphrase) < PASSPHRASE_MIN_CHARS:
        reason = f"the passphrase has {len(passphrase)} characters"
        remedy = f"take {PASSPHRASE_MIN_CHARS} or more, as in five words that have no sense"
        raise error_from("usage", reason, remedy)
    return passphrase


def text_of(path: Path) -> str:
    """What a key file holds. Raises ``state-unusable``."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise PollenError("state-unusable", f"the key {path} cannot be read: {error}") from None


def seal(text: str, cluster: ClusterId, passphrase: str) -> str:
    """The text of a key file, sealed: lines of letters."""
    inside = f"{_INSIDE}\ncluster {cluster.hex()}\n{text}"
    sealed: bytes = _age().passphrase.encrypt(inside.encode(), passphrase, armored=True)
    return sealed.decode()


def fresh(native: Native) -> tuple[Key, str]:
    """A new key, and the text of its file, which is on no disk."""
    text = f"{_PLAIN}{secrets.token_hex(32)}\n"
    return _load(text, native), text


def words(cluster: bytes, root: bytes) -> list[str]:
    """What stands above a sealed key, for who finds the sheet."""
    return [
        f"This is the root key of the pollen cluster {cluster.hex()[:8]}, sealed with a"
        " passphrase.",
        f"cluster  {cluster.hex()}",
        f"root     {root.hex()}",
        "",
        "It makes and unmakes admins. Keep it off the machines of the cluster. Without the"
        " passphrase it is worth nothing; nobody can tell you the passphrase again.",
        "To bring it back, type or scan the lines below into a file, then on a machine of the"
        " cluster: pln root import FILE. To sign on a machine without a network: pln root sign"
        " REQUEST --key FILE. Any age program opens it as well.",
    ]


def read(block: str | None, text: str, ask: Ask, native: Native) -> Held:
    """The key in a sealed block, or in a plain copy of ``root.key`` where there is none.

    ``ask`` gives the passphrase. Raises ``root-file-invalid``, ``passphrase-wrong``.
    """
    if block is None:
        if not text.startswith(_PLAIN):
            reason = (
                f"the file holds no root key: neither -----BEGIN {AGE}----- nor a key of pollen"
            )
            raise error_from("root-file-invalid", reason, "give the file of pln root export")
        return Held(_load(text, native), None)
    inside = _unsealed(block, ask())
    first, named, rest = [*inside.split("\n", 2), "", ""][:3]
    digits = named.removeprefix("cluster ")
    if first != _INSIDE or not is_hash_text(digits):
        reason = "what is sealed in the file is not a root key of pollen"
        raise error_from("root-file-invalid", reason, "give the file of pln root export")
    return Held(_load(rest, native), ClusterId(bytes.fromhex(digits)))


def _unsealed(block: str, passphrase: str) -> str:
    age, opened = _age(), b""
    try:
        opened = _decrypted(age, block.encode(), passphrase)
    except age.DecryptError as error:
        if str(error) == "Decryption failed":
            reason = "the passphrase is wrong, or the file was altered"
            raise error_from("passphrase-wrong", reason, "type it again") from None
        said = str(error).splitlines()[0].rstrip(".").lower()
        reason = f"the sealed key cannot be read: {said}"
        raise error_from("root-file-invalid", reason, "copy the file again, whole") from None
    return opened.decode("utf-8", "replace")


def _decrypted(age: Any, block: bytes, passphrase: str) -> bytes:
    """The library measures how much work this machine does in a second, and refuses a file that
    asks for sixteen times as much. A machine that is busy for a moment is measured again."""
    for _ in range(_MEASURES - 1):
        try:
            opened: bytes = age.passphrase.decrypt(block, passphrase)
        except age.DecryptError as error:
            if "excessive work" not in str(error).lower():
                raise
        else:
            return opened
    last: bytes = age.passphrase.decrypt(block, passphrase)
    return last


def _load(text: str, native: Native) -> Key:
    """A key from its text, which takes no way over a disk: the native module reads a pipe."""
    reader, writer = os.pipe()
    try:
        with os.fdopen(writer, "wb") as file:
            file.write(text.encode()[:1024])
        return native.load_key(f"/dev/fd/{reader}")
    except PollenError:
        reason = "what the file holds is not a key of pollen"
        raise error_from("root-file-invalid", reason, "copy the file again, whole") from None
    finally:
        os.close(reader)


def _age() -> Any:
    """The library, which only those who seal or unseal pay for."""
    try:
        import pyrage
    except ImportError as error:
        reason = f"the library pyrage cannot be loaded: {error}"
        raise PollenError("internal", reason, "install it: pip install pyrage") from None
    return pyrage


# -- in the folder ------------------------------------------------------------------------------


def here(where: Paths, native: Native) -> Held:
    """The key in the folder. Raises ``root-not-here``."""
    key = identity.key_of_root(where, native)
    if key is None:
        reason = f"there is no root key in {where.home}"
        raise error_from("root-not-here", reason, "give a sealed one: --key FILE, or import it")
    held = identity.read(where)
    return Held(key, None if held is None else held.cluster)


def check_roots(held: Held, cluster: bytes, roots: Sequence[bytes]) -> None:
    """Raise ``root-file-foreign`` for a key that is not a root of this cluster."""
    remedy = "compare them with: pln root status"
    if held.cluster is not None and held.cluster != cluster:
        reason = f"the key is of cluster {held.cluster.hex()[:8]}, not of {cluster.hex()[:8]}"
        raise error_from("root-file-foreign", reason, remedy)
    if held.root not in roots:
        known = ", ".join(short(PeerId(root)) for root in roots)
        reason = (
            f"the key {short(held.root)} is not a root of this cluster, whose roots are {known}"
        )
        raise error_from("root-file-foreign", reason, remedy)


def bring(
    where: Paths, held: Held, roots: Sequence[bytes], native: Native
) -> tuple[bool, Path | None]:
    """Put a root key of the line into the folder: whether it is new there, and where an older
    root's key is now that was in its place.

    At each moment a root key is in its place. Raises ``file-exists`` for a newer or a strange one;
    ``state-unusable`` when the disk does not take it, and all is as it was then.
    """
    there = identity.key_of_root(where, native)
    if there is not None and there.public == held.root:
        return False, None
    if there is None:
        save(held.key, where.root_key)
        return True, None
    is_older = there.public in roots and roots.index(there.public) < roots.index(held.root)
    if not is_older:
        reason = f"{where.root_key} exists, and holds the key {there.public.hex()[:8]}"
        raise error_from("file-exists", reason, "move it away, if it is not wanted here")
    kept = where.former_root_key(there.public.hex()[:8])
    was_kept = kept.exists()
    save(there, kept)
    try:
        save(held.key, where.root_key)
    except PollenError:
        if not was_kept:
            kept.unlink(missing_ok=True)
        raise
    return True, kept


def save(key: Key, path: Path) -> None:
    """Write a key file in one step, for its owner only. Raises ``state-unusable``."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.unlink(missing_ok=True)
        key.save(str(temporary))
        temporary.rename(path)
        sync_folder(path.parent)
    except Exception as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        trouble = trouble_at(path.parent) or OSError()
        said = error.args[-1] if error.args else error
        reason = f"the key {path} cannot be written: {said}"
        raise PollenError("state-unusable", reason, cure(path.parent, trouble)) from None


def begin_successor(where: Paths, native: Native) -> Key:
    """The key of the next root, beside the one that is here: made, or left by a cut-off attempt."""
    if where.next_root_key.exists():
        return native.load_key(str(where.next_root_key))
    key = native.generate_key()
    save(key, where.next_root_key)
    return key


def end_successor(where: Paths, native: Native) -> Path | None:
    """All nodes were told: the new key takes the place, the old one is kept beside it.

    Where the old one is now, or None when there was none. At each moment a root key is in its
    place. Raises ``state-unusable``; the attempt can be made again.
    """
    old = identity.key_of_root(where, native)
    kept = None
    if old is not None:
        kept = where.former_root_key(old.public.hex()[:8])
        save(old, kept)
    where.next_root_key.rename(where.root_key)
    sync_folder(where.home)
    return kept


# -- on a machine without a network -------------------------------------------------------------


def read_request(raw: bytes, held: Held, native: Native) -> RootRequest:
    """A request that this key may answer. Raises ``root-file-invalid``, ``root-file-foreign``."""
    request = RootRequest.read(raw, make_verify(native))
    if isinstance(request, Refusal):
        raise request.to_error()
    remedy = "take the key of that cluster, or the request of this one"
    if held.cluster is not None and request.cluster != held.cluster:
        reason = f"the request is of cluster {request.cluster.hex()[:8]}"
        raise error_from("root-file-foreign", f"{reason}, the key of {short(held.cluster)}", remedy)
    if request.root != held.root:
        reason = f"the request is for the root {short(PeerId(request.root))}"
        raise error_from("root-file-foreign", f"{reason}, the key is {short(held.root)}", remedy)
    return request


def answer(raw: bytes, held: Held, native: Native) -> bytes:
    """The signed answer to a request that was read."""
    signed = RootRequest.answered(raw, held.sign, make_verify(native))
    if isinstance(signed, Refusal):
        raise signed.to_error()
    return signed


def succession(held: Held, cluster: ClusterId, successor: bytes, wall: int) -> bytes:
    """A request of the root itself: that this key is its successor."""
    signed = RootRequest.succession(cluster, held.root, PeerId(successor), wall, held.sign)
    request = RootRequest.of_succession(signed, held.root, cluster, wall)
    return request.sealed(held.sign, KeyRole.ROOT)
