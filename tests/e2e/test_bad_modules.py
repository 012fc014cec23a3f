"""Modules that are none, or that ask for what nobody has: refused at seed time, in words."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pollen.errors import PollenError
from pollen.sdk.control import Control
from pollen.sizes import MODULE_MAX_BYTES
from pollen.testing import Cluster
from tests.e2e.conftest import EXAMPLES
from tests.e2e.talk import alive, check_error

pytestmark = pytest.mark.timeout(60)

MAGIC = b"\0asm\1\0\0\0"
COMPONENT = b"\0asm\x0d\0\1\0"


def section(number: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([number, len(body)]) + body


def text(name: str) -> bytes:
    return bytes([len(name)]) + name.encode()


def importing(module: str, name: str) -> bytes:
    """A module with one import ``() -> ()`` and one export that is it."""
    kind = section(1, b"\1\x60\0\0")
    wanted = section(2, b"\1" + text(module) + text(name) + b"\0\0")
    export = section(7, b"\1" + text("run") + b"\0\0")
    return MAGIC + kind + wanted + export


def needing(pages: int) -> bytes:
    """A module whose memory has this many pages from the beginning."""
    leb = bytes([pages & 0x7F | 0x80, pages >> 7 & 0x7F | 0x80, pages >> 14])
    kind = section(1, b"\1\x60\0\0")
    code = section(10, b"\1\2\0\x0b")
    memory = section(5, b"\1\0" + leb)
    export = section(7, b"\1" + text("run") + b"\0\0")
    return MAGIC + kind + section(3, b"\1\0") + memory + export + code


MODULES = {
    "a text file": (b"hello, this is a text\n", "module-invalid", "module"),
    "an empty file": (b"", "module-invalid", "the file is empty"),
    "a truncated module": (
        (EXAMPLES / "echo.wasm").read_bytes()[:200],
        "module-invalid",
        "",
    ),
    "a header alone": (MAGIC, "module-invalid", "function"),
    "a component": (COMPONENT, "module-invalid", "component"),
    "another version": (b"\0asm\2\0\0\0", "module-invalid", "version"),
    "an import of nobody": (importing("env", "abort"), "import-unknown", "env"),
    "a near import": (importing("extism:host/env", "input_lenght"), "import-unknown", "input_len"),
    "an import of another type": (
        importing("extism:host/env", "alloc"),
        "import-unknown",
        "alloc",
    ),
}


@pytest.mark.parametrize("what", MODULES)
async def test_what_is_no_seed_is_refused(pair: Cluster, tmp_path: Path, what: str) -> None:
    content, slug, named = MODULES[what]
    path = tmp_path / "bad.wasm"
    path.write_bytes(content)
    problem = check_error(await pair[0].pln("seed", "--json", str(path), "bad"), slug)
    assert named in f"{problem['title']} {problem['remedy']}"
    assert "bad" not in {seed["name"] for seed in (await pair[0].status())["seeds"]}
    await alive(*pair)


async def test_a_module_over_its_memory_limit_is_refused(pair: Cluster, tmp_path: Path) -> None:
    """At seed time, not at the first call: 8,192 pages are 512 MiB, the limit is 64 MiB."""
    path = tmp_path / "big.wasm"
    path.write_bytes(needing(8_192))
    done = await pair[0].pln("seed", "--json", str(path), "big")
    problem = check_error(done, "config-invalid")
    assert "--memory 512MiB" in problem["remedy"]
    await alive(*pair)


def padded(size: int) -> bytes:
    """The echo seed with a custom section behind it that makes it so large."""
    module = (EXAMPLES / "echo.wasm").read_bytes()
    # The section: its number, its length in five bytes of LEB128, an empty name, the padding.
    length = size - len(module) - 6
    leb = bytes([*(length >> shift & 0x7F | 0x80 for shift in (0, 7, 14, 21)), length >> 28])
    return module + b"\0" + leb + b"\0" + bytes(length - 1)


async def test_a_module_just_under_the_limit_is_seeded_and_called(
    pair: Cluster, tmp_path: Path
) -> None:
    """Uploaded, held, fetched by the other node, compiled and run as any other."""
    path = tmp_path / "large.wasm"
    path.write_bytes(padded(MODULE_MAX_BYTES))
    done = await pair[0].pln("seed", str(path), "large", "--min-replicas", "2")
    assert done.returncode == 0, done.stderr
    for node in pair:
        called = await node.pln("call", "large", "echo", "hello")
        assert called.stdout == b"hello", called.stderr
    (await pair[0].pln("unseed", "large")).check_returncode()


async def test_a_module_over_the_limit_is_refused_unread(pair: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "huge.wasm"
    path.write_bytes(padded(MODULE_MAX_BYTES + 1))
    problem = check_error(await pair[0].pln("seed", "--json", str(path), "huge"), "module-invalid")
    assert "64 MiB" in problem["title"]
    await alive(*pair)


async def test_content_over_the_limit_of_a_module_makes_none(pair: Cluster) -> None:
    """Whoever uploads without the command line is told the same when it is to be a module."""
    huge = padded(MODULE_MAX_BYTES + 1)
    content = await asyncio.to_thread(Control(pair[0].paths).upload, huge)
    with pytest.raises(PollenError) as caught:
        await pair[0].post("/v1/seeds", {"name": "huge", "content": content})
    assert caught.value.slug == "module-invalid" and "64 MiB" in str(caught.value)
    await alive(*pair)


@pytest.mark.parametrize("name", ["NOT.a.Name", "-x", "a" * 64, "0" * 64, "slash/y"])
async def test_a_name_that_is_none_is_refused(pair: Cluster, name: str) -> None:
    line = ["seed", "--json", "--", str(EXAMPLES / "echo.wasm"), name]
    check_error(await pair[0].pln(*line), "name-invalid")
    await alive(*pair)


async def test_a_held_name_is_refused_to_others(pair: Cluster) -> None:
    """b is a publisher: it may publish, and not under the name that a holds."""
    done = await pair[1].pln("seed", "--json", str(EXAMPLES / "shout.wasm"), "echo")
    check_error(done, "name-taken")
    await alive(*pair)


@pytest.mark.parametrize(
    "options", [["--memory", "5GiB"], ["--timeout", "48h"], ["--memory", "1B"]]
)
async def test_limits_out_of_range_are_refused(pair: Cluster, options: list[str]) -> None:
    line = ["seed", "--json", str(EXAMPLES / "echo.wasm"), "limits", *options]
    check_error(await pair[0].pln(*line), "config-invalid")
