"""Two versions in one environment: exchanged by one rename, and put right after any cut."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pollen.errors import PollenError
from pollen.recorded import rows_of
from pollen.runtime.upgrade import site as module
from pollen.runtime.upgrade.site import Journal, Site, Version, exchange
from pollen.runtime.upgrade.steps import Before, Which
from pollen.runtime.upgrade.wheel import content_of


def put(folder: Path, version: str, mark: str) -> Version:
    """A version in a folder, in few files."""
    info = folder / f"pollen_mesh-{version}.dist-info"
    for path in (folder / "pollen", info):
        path.mkdir(parents=True)
    (folder / "pollen" / "__init__.py").write_text(mark)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: pollen-mesh\nVersion: {version}\n"
    )
    record = f"pollen/__init__.py,sha256={mark},1\n"
    (info / "RECORD").write_text(record)
    inode = (folder / "pollen").stat().st_ino
    content = content_of(rows_of(record))
    return Version(version=version, content=content, info=info.name, inode=inode)


def two(folder: Path, new: str = "2") -> tuple[Site, Journal]:
    """An environment with version 1, and another that waits."""
    site = Site(folder)
    old, other = put(folder, "1", "old"), put(site.other, new, "new")
    before = Before(node="a", cluster="c")
    journal = Journal(home="/nowhere", old=old, new=other, before=before, patience=1.0)
    site.write_journal(journal)
    return site, journal


def held(site: Site) -> tuple[str, str, list[str]]:
    """The package's mark, the version that is read, and whose metadata is there."""
    mark = (site.package / "__init__.py").read_text()
    return mark, site.installed().version, [path.name for path in site.infos()]


@pytest.mark.parametrize("new", ["2", "1"], ids=["another number", "the same number"])
def test_a_switch_and_a_switch_back_change_package_and_metadata(tmp_path: Path, new: str) -> None:
    site, journal = two(tmp_path, new)
    old, other = journal.old, journal.new
    assert site.held(journal) is Which.OLD and site.installed() == old
    for _ in range(2):
        site.switch(journal, Which.NEW)
        assert site.held(journal) is Which.NEW and site.installed() == other
        assert held(site) == ("new", new, [other.info])
    site.switch(journal, Which.OLD)
    assert site.installed() == old and held(site) == ("old", "1", [old.info])


@pytest.mark.parametrize("new", ["2", "1"], ids=["another number", "the same number"])
@pytest.mark.parametrize("cut", range(3))
def test_a_switch_that_was_cut_off_is_settled(
    tmp_path: Path, new: str, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first rename, and after each that follows: the metadata is that of the package."""
    site, journal = two(tmp_path, new)
    real, done = Path.rename, 0

    class Cut(Exception):
        pass

    def rename(path: Path, target: Path) -> Path:
        nonlocal done
        if done == cut:
            raise Cut
        done += 1
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        try:
            site.switch(journal, Which.NEW)
        except Cut:
            pass
        else:
            assert cut == 2 or new == "1", "there is nothing to cut any more"
    assert site.infos(), "what is imported has a version at any moment"
    assert (site.package / "__init__.py").read_text() == "new"
    again = site.read_journal()
    assert again == journal
    site.settle(journal)
    assert held(site) == ("new", new, [journal.new.info])


def replaced(path: Path) -> None:
    """As pip does it: the new folder is there before the old one goes."""
    path.rename(path.with_name("aside"))
    path.mkdir()
    (path / "__init__.py").write_text("third")
    for old in path.with_name("aside").iterdir():
        old.unlink()
    path.with_name("aside").rmdir()


def test_a_folder_that_somebody_else_put_there_is_neither_of_the_two(tmp_path: Path) -> None:
    """It is not taken for the old version, and nothing of it is moved."""
    site, journal = two(tmp_path)
    site.switch(journal, Which.NEW)
    replaced(site.package)
    assert site.held(journal) is None
    before = held(site)
    site.settle(journal)
    assert held(site) == before and before[0] == "third"


def test_a_third_version_in_a_folder_of_the_same_inode_is_told_by_its_record(
    tmp_path: Path,
) -> None:
    site, journal = two(tmp_path)
    (tmp_path / journal.old.info / "RECORD").write_text("pollen/__init__.py,sha256=third,1\n")
    assert site.held(journal) is None


def test_a_package_that_is_gone_is_neither_of_the_two(tmp_path: Path) -> None:
    site, journal = two(tmp_path)
    site.package.rename(tmp_path / "gone")
    assert site.held(journal) is None


def test_the_journal_is_read_as_it_was_written_or_refused(tmp_path: Path) -> None:
    site, journal = two(tmp_path)
    journal.started["old"] = "1:2"
    site.write_journal(journal)
    assert site.read_journal() == journal
    (site.work / "journal.json").write_text("{")
    with pytest.raises(PollenError, match="cannot be read") as held:
        site.read_journal()
    assert held.value.slug == "state-unusable" and "pip install" in held.value.remedy
    assert f"rm {site.work / 'journal.json'}" in held.value.remedy
    site.remove_journal()
    assert site.read_journal() is None


def test_a_disk_that_cannot_exchange_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the lower layer of an image: nothing has changed then."""
    site, journal = two(tmp_path)

    def refuse(one: Path, other: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(module, "exchange", refuse)
    with pytest.raises(PollenError, match="cannot be written") as caught:
        site.switch(journal, Which.NEW)
    assert "part of an image" in caught.value.remedy
    assert held(site) == ("old", "1", [journal.old.info])


def test_what_is_missing_cannot_be_exchanged(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "b")


def test_the_driver_is_on_the_disk_before_a_journal_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut its files would be empty otherwise. It can be made again."""
    site, _ = two(tmp_path)
    seen = []
    monkeypatch.setattr(os, "sync", lambda: seen.append((site.driver / "pollen").exists()))
    site.keep_driver()
    (site.driver / "pollen" / "__init__.py").write_text("")
    site.keep_driver()
    assert seen == [True, True]
    assert (site.driver / "pollen" / "__init__.py").read_text() == "old"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_writes_belongs_to_the_owner_of_the_package(tmp_path: Path) -> None:
    """Who could not remove it otherwise, nor upgrade again."""
    site, journal = two(tmp_path)
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, 4711, 4711)
    with site.lock():
        site.keep_driver()
        site.write_journal(journal)
    assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {4711}


def test_one_environment_has_one_upgrade(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.lock(), pytest.raises(PollenError, match=f"pid {os.getpid()}"), site.lock():
        raise AssertionError("two at once")
    with site.lock():
        pass


def test_leftovers_are_cleared_even_while_somebody_writes_there(tmp_path: Path) -> None:
    site, _ = two(tmp_path)
    (site.work / "gone-1-0").mkdir()
    site.clear()
    assert sorted(path.name for path in site.work.iterdir()) == ["journal.json"]
