"""What Python sees of the muscles is what the stub says; keys stay where they are."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pollen import _native

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)
def test_the_stub_is_what_the_module_has() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "pollen._native"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_key_file_is_for_its_owner_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    key = _native.KeyPair.generate()
    key.save(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(_native.NativeError) as refused:
        _native.KeyPair.generate().save(str(path))
    assert refused.value.slug == "state-unusable"
    assert path.read_bytes() == before
    assert _native.KeyPair.load(str(path)).public == key.public


def test_a_key_signs_and_others_can_check(tmp_path: Path) -> None:
    key = _native.KeyPair.generate()
    signature = key.sign(b"message")
    items = [
        (key.public, b"message", signature),
        (key.public, b"another", signature),
        (b"short", b"message", signature),
        (key.public, b"message", b"short"),
    ]
    assert _native.verify_signatures(items) == [True, False, False, False]


# draft-irtf-cfrg-xchacha-03, A.3.1; its tag is over associated data, which we have none of.
SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)
SEALED = (
    "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39"
    "ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
    "21f9664c97637da9768812f615c68b13b52e"
)


def test_the_seal_is_the_published_cipher() -> None:
    """A program of somebody else can take part in surveys."""
    key, nonce = bytes(range(0x80, 0xA0)), bytes(range(0x40, 0x58))
    sealed = _native.seal(key, nonce, SUNSCREEN)
    assert sealed[:-16].hex() == SEALED
    assert _native.unseal(key, nonce, sealed) == SUNSCREEN


@pytest.mark.parametrize("at", [0, 50, -1])
def test_what_was_altered_does_not_open(at: int) -> None:
    """And nothing else does that was not sealed under this key and nonce."""
    key, nonce = b"k" * 32, b"n" * 24
    sealed = bytearray(_native.seal(key, nonce, SUNSCREEN))
    assert _native.unseal(b"K" * 32, nonce, bytes(sealed)) is None
    assert _native.unseal(key, b"N" * 24, bytes(sealed)) is None
    assert _native.unseal(key, b"short", bytes(sealed)) is None
    sealed[at] ^= 1
    assert _native.unseal(key, nonce, bytes(sealed)) is None
    with pytest.raises(_native.NativeError, match="32 bytes"):
        _native.seal(b"short", nonce, b"")


@pytest.mark.parametrize(
    "content", [b"", b"pollen-key-1 ", b"pollen-key-1 " + b"zz" * 32, b"\xff\xfe", b"x" * 100_000]
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(content)
    with pytest.raises(_native.NativeError) as refused:
        _native.KeyPair.load(str(path))
    assert refused.value.slug == "state-unusable"
    assert str(path) in refused.value.reason


def test_a_key_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(_native.NativeError) as refused:
        _native.KeyPair.load(str(tmp_path / "none"))
    assert refused.value.slug == "state-unusable"


def test_a_private_key_shows_nowhere(tmp_path: Path) -> None:
    key = _native.KeyPair.generate()
    key.save(str(tmp_path / "node.key"))
    secret = (tmp_path / "node.key").read_text().split()[-1]
    assert secret not in repr(key) + str(key) + str(dir(key))
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_content_is_named_by_its_blake3() -> None:
    """The published vector of the empty input (what b3sum prints)."""
    empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert _native.hash_content(b"").hex() == empty


def test_muscles_that_are_not_started_say_so() -> None:
    muscles = _native.Muscles(
        key=_native.KeyPair.generate(), boot=os.urandom(16), directory="/tmp", memory_bytes=1 << 20
    )
    with pytest.raises(_native.NativeError) as refused:
        muscles.beat()
    assert refused.value.args == (refused.value.slug, refused.value.reason)
    assert refused.value.slug == "daemon-not-running"
    muscles.close(0)
    muscles.close(0)
