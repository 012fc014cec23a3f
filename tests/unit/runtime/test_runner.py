"""The node's own runner: handed to the content store once, and again when it was let go."""

from __future__ import annotations

import asyncio
import lzma
from pathlib import Path

import msgspec
import pytest

from pollen.core.commands import SeedChecked, SeedCommand
from pollen.errors import NotFound, PollenError
from pollen.paths import Paths
from pollen.runtime.runner import Runner, read_runner
from pollen.sdk.control import Control

BUNDLE, HELD = "ab" * 32, "cd" * 32


class Desk:
    """Answers as the brain does; ``lost`` times it says that the store has no such module."""

    def __init__(self, lost: int = 0) -> None:
        self.lost = lost
        self.asked: list[str] = []

    async def __call__(self, command: SeedCommand, timeout: float) -> msgspec.Struct:
        self.asked.append(command.content)
        if len(self.asked) <= self.lost:
            raise NotFound("blob-not-found", "no module with that hash")
        return SeedChecked(name=command.name)


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    held: list[bytes] = []

    def upload(self: Control, data: bytes, *, for_anybody: bool) -> str:
        assert for_anybody
        held.append(data)
        return HELD

    monkeypatch.setattr(Control, "upload", upload)
    return held


def runner_in(folder: Path) -> Runner:
    asset = folder / "runner.wasm.xz"
    asset.write_bytes(lzma.compress(b"component"))
    return Runner(Paths(folder), asset)


async def test_a_bundle_gets_the_runner_which_is_handed_over_once(
    tmp_path: Path, uploads: list[bytes]
) -> None:
    runner, desk = runner_in(tmp_path), Desk()
    command = SeedCommand(name="a", content="", bundle=BUNDLE)
    await asyncio.gather(*[runner.publish(command, desk) for _ in range(5)])
    assert desk.asked == [HELD] * 5
    assert uploads == [b"component"]


async def test_a_runner_that_the_store_let_go_is_handed_over_again(
    tmp_path: Path, uploads: list[bytes]
) -> None:
    runner, desk = runner_in(tmp_path), Desk(lost=1)
    await runner.publish(SeedCommand(name="a", content="", bundle=BUNDLE), desk)
    assert desk.asked == [HELD, HELD]
    assert uploads == [b"component"] * 2


async def test_what_names_its_module_is_asked_as_it_is(
    tmp_path: Path, uploads: list[bytes]
) -> None:
    runner, desk = runner_in(tmp_path), Desk()
    for content, bundle in (("ef" * 32, ""), ("ef" * 32, BUNDLE), ("", "")):
        await runner.publish(SeedCommand(name="a", content=content, bundle=bundle), desk)
    assert desk.asked == ["ef" * 32, "ef" * 32, ""]
    assert uploads == []


def test_a_pollen_without_runner_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(PollenError, match="has no Python runner") as caught:
        read_runner(tmp_path / "absent")
    assert "make native" in caught.value.remedy
    (tmp_path / "damaged").write_bytes(b"no xz")
    with pytest.raises(PollenError, match="cannot be read"):
        read_runner(tmp_path / "damaged")
