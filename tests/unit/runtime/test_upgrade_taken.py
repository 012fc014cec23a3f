"""What a node keeps of an upgrade over the mesh, and a wheel that comes through a tunnel."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pollen.errors import PollenError, error_from
from pollen.paths import Paths
from pollen.runtime import upgrades
from pollen.runtime.folder.config import Config, parse_config, read_config, value_of, write_setting
from pollen.runtime.upgrade import shelf, taken
from pollen.runtime.upgrade.taken import Box, Report, Wish

WISH = Wish(wheel="ab" * 32, size=3, version="0.2.0", allow_older=False, patience=60.0)
NOBODY = "999999999:1"


@pytest.fixture
def where() -> Iterator[Paths]:
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        yield Paths(Path(folder))


@pytest.fixture
def box(where: Paths) -> Box:
    held = Box(where)
    held.begin("cmVsZWFzZQ==", WISH)
    return held


def test_what_was_taken_is_kept_and_an_empty_folder_says_nothing(where: Paths) -> None:
    assert (Box(where).last(), Box(where).report()) == ("", Report())
    Box(where).begin("cmVsZWFzZQ==", WISH)
    assert (Box(where).last(), Box(where).wish()) == ("cmVsZWFzZQ==", WISH)
    assert where.upgrade_folder.stat().st_mode & 0o077 == 0
    assert where.upgrade_folder in where.state(), "pln purge takes it away"


def test_an_upgrade_is_under_way_while_its_process_lives(box: Box) -> None:
    """A process that was killed, or never began, has failed; one with its number is another."""
    assert box.report().step == taken.FETCHING
    box.note(process=taken.process_of(os.getpid()))
    assert box.report().step == taken.FETCHING
    box.note(process=f"{os.getpid()}:1")
    assert (box.report().step, box.report().slug) == (taken.FAILED, "upgrade-failed")
    box.note(process=NOBODY)
    assert "was cut off" in box.report().reason
    box.note(process="")
    old = msgspec.structs.replace(box.report(), step=taken.FETCHING, began=time.time() - 3_600)
    (box.folder / "report.json").write_bytes(msgspec.json.encode(old))
    assert "did not begin" in box.report().reason


def test_an_end_stays_whatever_became_of_the_process(box: Box) -> None:
    box.note(process=NOBODY, step=taken.DONE)
    assert box.report().step == taken.DONE
    box.fail(error_from("wheel-invalid", "it is none", "another"))
    held = box.report()
    assert (held.step, held.slug, held.remedy) == (taken.FAILED, "wheel-invalid", "another")


def test_a_folder_that_cannot_be_used_is_said(where: Paths) -> None:
    where.upgrade_folder.write_text("in the way")
    with pytest.raises(PollenError) as refused:
        Box(where).begin("", WISH)
    assert refused.value.slug == "state-unusable" and str(where.upgrade_folder) in str(refused)


def test_the_setting_is_nobody_until_it_is_root(where: Paths) -> None:
    """Quoted or as TOML reads a dotted key; another word is refused, and changes nothing."""
    assert value_of(Config(), "upgrade.from") == "nobody"
    for text in ('"upgrade.from" = "root"', 'upgrade.from = "root"', '[upgrade]\nfrom = "root"'):
        assert parse_config(text).takes_from == "root"
    where.config_file.write_text('# mine\nupgrade.from = "root"\n')
    assert write_setting(where.config_file, "upgrade.from", "nobody").takes_from == "nobody"
    assert read_config(where.config_file).takes_from == "nobody"
    assert "# mine" in where.config_file.read_text()
    assert write_setting(where.config_file, "upgrade.from", "root").takes_from == "root"
    assert write_setting(where.config_file, "upgrade.from", None).takes_from == "nobody"
    for text in ('"upgrade.from" = "admin"', 'upgrade.form = "root"', "upgrade.from = 1"):
        with pytest.raises(PollenError) as refused:
            parse_config(text)
        assert refused.value.slug == "config-invalid"


def test_a_manager_of_the_user_begins_what_must_outlive_its_unit(where: Paths) -> None:
    plain = upgrades.line_of(where, is_kept_by_user=False)
    kept = upgrades.line_of(where, is_kept_by_user=True)
    assert plain[1:] == ["-P", "-m", "pollen.cli", "_upgrade", "--dir", str(where.home)]
    assert kept[:2] == ["systemd-run", "--user"] and kept[-len(plain) :] == plain


# -- the wheel -----------------------------------------------------------------------------------


class Tunnel:
    """Takes the place of the mesh: each provider is a socket of this machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, providers: dict[str, Path]) -> None:
        listed = [{"node": name, "name": name} for name in providers]
        services = [{"name": taken.SERVICE, "providers": listed}]
        monkeypatch.setattr(shelf.Control, "get", lambda *_: {"services": services})
        self.providers, self.asked = providers, list[str]()
        monkeypatch.setattr(shelf.reach, "opened", self.opened)

    def opened(self, where: Paths, service: str) -> socket.socket:
        name = service.partition("@")[2]
        self.asked.append(name)
        held = socket.socket(socket.AF_UNIX)
        try:
            held.connect(str(self.providers[name]))
        except OSError:
            held.close()
            raise error_from("provider-refused", "nothing listens there") from None
        return held


def shelved(folder: Path, name: str, data: bytes, wheel: str = "") -> shelf.Shelf:
    """A holder, which says of some bytes that they are a wheel."""
    home = folder / name
    home.mkdir()
    path = home / "file"
    path.write_bytes(data)
    return shelf.Shelf(Paths(home), path, wheel or shelf.hash_of(path))


WHEEL = bytes(range(256)) * 20_000


@pytest.fixture
def wheel(where: Paths) -> str:
    path = where.home / "wheel"
    path.write_bytes(WHEEL)
    return shelf.hash_of(path)


def test_a_wheel_comes_from_the_first_holder_that_has_it(
    where: Paths, wheel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is gone, one that cuts it short, and one that lies are passed over."""
    names = ("gone", "short", "liar", "honest", "idle")
    sockets = {name: Paths(where.home / name).wheel_socket for name in names}
    tunnel = Tunnel(monkeypatch, sockets)
    target = where.home / "came"
    lie = bytes([WHEEL[0] ^ 1]) + WHEEL[1:]
    with (
        shelved(where.home, "short", WHEEL[:-1], wheel),
        shelved(where.home, "liar", lie, wheel),
        shelved(where.home, "honest", WHEEL),
    ):
        shelf.fetch(where, wheel, len(WHEEL), target)
    assert target.read_bytes() == WHEEL
    assert tunnel.asked == ["gone", "short", "liar", "honest"]


@pytest.mark.parametrize(
    ("sent", "slug"),
    [
        (bytes([WHEEL[0] ^ 1]) + WHEEL[1:], "wheel-invalid"),
        (WHEEL + b"!", "wheel-invalid"),
        (WHEEL[:-1], "unreachable"),
        (b"", "unreachable"),
    ],
)
def test_what_is_another_file_is_not_kept(
    where: Paths, wheel: str, monkeypatch: pytest.MonkeyPatch, sent: bytes, slug: str
) -> None:
    """One byte changed, one more, one less, none at all."""
    Tunnel(monkeypatch, {"liar": Paths(where.home / "liar").wheel_socket})
    target = where.home / "came"
    with shelved(where.home, "liar", sent, wheel), pytest.raises(PollenError) as refused:
        shelf.fetch(where, wheel, len(WHEEL), target)
    assert refused.value.slug == slug
    assert not target.exists()


def test_who_asks_for_another_hash_gets_nothing(
    where: Paths, wheel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tunnel(monkeypatch, {"honest": Paths(where.home / "honest").wheel_socket})
    with shelved(where.home, "honest", WHEEL), pytest.raises(PollenError) as refused:
        shelf.fetch(where, "cd" * 32, len(WHEEL), where.home / "came")
    assert "sent 0 of" in refused.value.reason


def test_a_disk_that_takes_no_wheel_is_said_at_once(
    where: Paths, wheel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other holder would help."""
    names = ("one", "other")
    tunnel = Tunnel(monkeypatch, {n: Paths(where.home / n).wheel_socket for n in names})

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with shelved(where.home, "one", WHEEL), shelved(where.home, "other", WHEEL):
        monkeypatch.setattr(shelf.os, "write", full)
        with pytest.raises(PollenError) as refused:
            shelf.fetch(where, wheel, len(WHEEL), where.home / "came")
    assert refused.value.slug == "state-unusable" and tunnel.asked == ["one"]
