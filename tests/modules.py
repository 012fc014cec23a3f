"""Modules that no compiler of ours writes, put together byte by byte."""

from __future__ import annotations

_I32, _FUNC = b"\x7f", b"\x60"
_END, _DROP = b"\x0b", b"\x1a"


def _vec(*items: bytes) -> bytes:
    return bytes([len(items)]) + b"".join(items)


def _section(number: int, *items: bytes) -> bytes:
    body = _vec(*items)
    assert len(body) < 256
    return bytes([number, *_leb(len(body))]) + body


def _leb(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7])


def _name(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _const(value: int) -> bytes:
    """``i32.const``, of a value under 64, or of 1024."""
    return b"\x41" + (b"\x80\x08" if value == 1024 else bytes([value]))


def either() -> bytes:
    """Copies up to 1 KiB of stdin to stdout in ``_start``, and exports ``own`` beside it.

    It imports WASI alone, so that it may be a program or a library.
    """
    wasi = _name("wasi_snapshot_preview1")
    load, store = b"\x28\x02\x00", b"\x36\x02\x00"
    # iovec at 0: (1024, 1024); the count of bytes at 8.
    read = _const(0) + _const(0) + _const(1) + _const(8) + b"\x10\x00" + _DROP
    write = _const(1) + _const(0) + _const(1) + _const(8) + b"\x10\x01" + _DROP
    start = (
        _const(0) + _const(1024) + store + _const(4) + _const(1024) + store + read
        + _const(4) + _const(8) + load + store + write
    )  # fmt: skip
    codes = [b"\x00" + body + _END for body in (start, b"")]
    return b"\0asm\1\0\0\0" + b"".join(
        (
            _section(1, _FUNC + _vec(*[_I32] * 4) + _vec(_I32), _FUNC + _vec() + _vec()),
            _section(2, *(wasi + _name(name) + b"\x00\x00" for name in ("fd_read", "fd_write"))),
            _section(3, b"\x01", b"\x01"),
            _section(5, b"\x00\x01"),
            _section(
                7,
                _name("memory") + b"\x02\x00",
                _name("_start") + b"\x00\x02",
                _name("own") + b"\x00\x03",
            ),
            _section(10, *(bytes(_leb(len(code))) + code for code in codes)),
        )
    )
