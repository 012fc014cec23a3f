"""``pln doctor``: each trouble is staged for real, and told with what to do about it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pollen.paths import Paths, file_system_of
from pollen.runtime import doctor, served
from tests import others
from tests.cli.conftest import Pln


def findings(pln: Pln, *prefix: str) -> list[dict[str, Any]]:
    """What it found, run under another command if one is given."""
    line = [*prefix, *pln.line("doctor", "--json")]
    done = subprocess.run(line, env=pln.environment, capture_output=True, check=False)
    told = json.loads(done.stdout)
    assert isinstance(told, list)
    assert done.returncode == any(finding["level"] == "failure" for finding in told)
    return told


def found(pln: Pln, name: str, level: str, *prefix: str) -> str:
    """The text and the remedy of the finding of this name and level; there is a remedy."""
    told = [f for f in findings(pln, *prefix) if (f["name"], f["level"]) == (name, level)]
    assert len(told) == 1, told
    assert told[0]["remedy"]
    return f"{told[0]['text']} / {told[0]['remedy']}"


def test_a_healthy_node_has_nothing_to_complain_of(up: Pln) -> None:
    text = up.ok("doctor")
    assert "failure" not in text
    assert "1 of 1 node" in text and "a member for" in text


def test_a_folder_that_others_can_read(pln: Pln) -> None:
    pln.home.chmod(0o755)
    assert "chmod 700" in found(pln, "folder", "warning")


def test_a_folder_that_is_somebody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if others.can_become():
        os.chown(tmp_path, others.NOBODY, -1)
    else:
        monkeypatch.setattr("os.getuid", lambda: 12_345)
    told = next(doctor.check_folder(Paths(tmp_path)))
    assert (told.level, "--dir" in told.remedy) == ("failure", True)


def test_a_key_that_others_can_read(pln: Pln) -> None:
    pln.ok("init")
    (pln.home / "node.key").chmod(0o640)
    assert found(pln, "keys", "failure").endswith(f"/ chmod 600 {pln.home / 'node.key'}")


def test_a_store_that_is_damaged_is_looked_at_and_left_as_it_is(pln: Pln) -> None:
    """It says so once: that the node is down, too, is nothing to act on."""
    pln.ok("init")
    store = pln.home / "state.db"
    assert {f["level"] for f in findings(pln) if f["name"] == "store"} == {"ok"}
    noise = b"SQLite format 3\0" + bytes(range(256)) * 40
    store.write_bytes(noise)
    held = sorted(path.name for path in pln.home.iterdir())
    assert "pln purge --yes" in found(pln, "store", "failure")
    assert not [f for f in findings(pln) if f["name"] == "daemon"]
    assert store.read_bytes() == noise
    assert sorted(path.name for path in pln.home.iterdir()) == held


def test_what_was_written_before_a_crash_is_looked_at_too(pln: Pln, tmp_path: Path) -> None:
    """The rows of a write-ahead log count; neither file is touched."""
    pln.ok("init")
    store, wal = pln.home / "state.db", pln.home / "state.db-wal"
    with contextlib.closing(sqlite3.connect(store)) as database:
        database.execute("INSERT INTO row VALUES ('t', x'01', x'02')")
        database.commit()
        held = (store.read_bytes(), wal.read_bytes())
        assert held[1]
        assert {f["level"] for f in findings(pln) if f["name"] == "store"} == {"ok"}
        assert (store.read_bytes(), wal.read_bytes()) == held


def test_settings_that_cannot_be_read(pln: Pln) -> None:
    (pln.home / "config.toml").write_text('listne = ["x"]')
    assert "did you mean: listen" in found(pln, "settings", "failure")


def test_a_port_that_is_taken(pln: Pln) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        pln.ok("set", "listen", f"127.0.0.1:{taken.getsockname()[1]}")
        cure = found(pln, "ports", "failure").rpartition(" / ")[2]
        pln.ok(*cure.split()[1:])
        assert {f["level"] for f in findings(pln) if f["name"] == "ports"} == {"ok"}


def test_too_few_open_files(pln: Pln) -> None:
    few = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
    assert "ulimit -Hn" in found(pln, "files", "failure", *few)


def test_a_limited_address_space(pln: Pln) -> None:
    small = ("sh", "-c", 'ulimit -v 8000000; exec "$@"', "sh")
    assert "ulimit -v unlimited" in found(pln, "space", "warning", *small)


def test_a_node_that_is_down(pln: Pln) -> None:
    pln.ok("init")
    assert "pln up -d" in found(pln, "daemon", "warning")


def test_a_daemon_that_did_not_end_in_order(pln: Pln) -> None:
    pln.ok("init")
    (pln.home / "pollen.pid").write_text('{"pid": 4194304, "started": 1.0}')
    assert "did not end in order" in found(pln, "daemon", "warning")


def test_a_daemon_that_does_not_answer(pln: Pln) -> None:
    """Its socket is gone, its process is not."""
    pln.ok("up", "-d", "--ips", "127.0.0.1", "--port", "0")
    try:
        (pln.home / "control.sock").unlink()
        assert "pln logs" in found(pln, "daemon", "failure")
    finally:
        pln("down", "--force")


def test_a_seed_that_nobody_may_host(up: Pln) -> None:
    """What the status warns of, with the command that explains it."""
    from tests.cli.conftest import EXAMPLES

    up.ok("seed", str(EXAMPLES / "loop.wasm"), "homeless", "--host-prop", "gpu=yes")
    try:
        told = found(up, "cluster", "warning")
        assert told == "no node may host homeless / pln why place homeless"
    finally:
        up.ok("unseed", "homeless")


@pytest.mark.parametrize(
    ("free", "level"), [(50 << 20, "failure"), (500 << 20, "warning"), (5 << 30, "ok")]
)
def test_a_disk_that_fills_up(monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    """Little is a warning, too little a failure."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free}))
    assert [finding.level for finding in doctor.check_disk(Paths(Path("/tmp")))] == [level]


def test_a_clock_of_another_age() -> None:
    """A machine without a battery wakes in 1970."""
    assert [finding.level for finding in doctor.check_clock(0.0)] == ["failure"]


def test_a_network_file_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The innermost mount counts."""
    mounts = [("/", "ext4"), (str(tmp_path), "nfs4")]
    held = [type("Mount", (), {"mountpoint": at, "fstype": kind}) for at, kind in mounts]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: held)
    assert file_system_of(tmp_path / "pln") == "nfs4"
    levels = [finding.level for finding in doctor.check_folder(Paths(tmp_path))]
    assert levels[-1] == "failure"


@pytest.mark.parametrize(("left_days", "level"), [(-1, "failure"), (0.5, "warning"), (14, "ok")])
def test_a_membership_that_ends(left_days: float, level: str) -> None:
    """It is renewed at half its life: a last day says that nobody renews it."""
    until = {"member_until_unix_ms": int(left_days * doctor.MEMBER_DAY_MS)}
    assert [finding.level for finding in doctor.check_membership(until, 0.0)] == [level]


def test_a_cluster_without_a_public_address_is_told_what_that_means() -> None:
    nodes = [{"name": "a", "addresses": ["192.168.1.2:1"]}, {"name": "b", "addresses": []}]
    (told,) = doctor.check_reach({"nodes": nodes})
    assert "forward its UDP port" in told.remedy
    nodes[1]["addresses"] = ["[2606:4700::1]:60611"]
    (told,) = doctor.check_reach({"nodes": nodes})
    assert told.text == "with a public address: b"


def test_a_denied_node_is_not_told_that_its_membership_is_fine() -> None:
    """Its certificate and its lease look as before: the others know better."""
    held = {"member_until_unix_ms": 14 * doctor.MEMBER_DAY_MS, "node": "ab" * 32}
    (denied,) = doctor.check_membership({**held, "denied_by": "attic", "shut_out": ["b"]}, 0.0)
    assert (denied.level, denied.text) == ("failure", "this node was denied by attic")
    assert "pln undeny abababab" in denied.remedy
    (out,) = doctor.check_membership({**held, "denied_by": "", "shut_out": ["b", "c"]}, 0.0)
    assert (out.level, out.text) == ("failure", "b, c let this node in no more")


def test_a_remedy_for_another_machine_is_told_as_one() -> None:
    text = "attic let this node in no more; on an admin's machine: pln members"
    said, cure = doctor.text_and_cure(text)
    assert said == "attic let this node in no more"
    assert cure == "on an admin's machine: pln members"


def services(**more: Any) -> dict[str, Any]:
    """A service and a listener as the node shows them."""
    provider = {"name": "attic", "state": "online"}
    service = {"name": "web", "datagrams": False, "target": "", "other_kind": []}
    service["providers"] = [provider]
    listener = {"service": "web", "bound": "127.0.0.1:9", "datagrams": False, "state": "open"}
    listener |= {"provider": "", "any_user": False, "reason": ""}
    return {
        "services": [service | {k: v for k, v in more.items() if k in service}],
        "listeners": [listener | {k: v for k, v in more.items() if k in listener}],
    }


def of_services(listed: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(told.level, told.text, told.remedy) for told in served.check_services(listed)]


def test_a_program_that_takes_no_clients_is_told_with_the_systems_reason(tmp_path: Path) -> None:
    """One that takes them is named as well, also behind a unix socket."""
    with socket.socket() as free, socket.socket(socket.AF_UNIX) as unix:
        free.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{free.getsockname()[1]}"
        ((level, text, remedy),) = of_services(services(target=at))
        assert (level, text) == (
            "warning",
            f"web is served here, and {at} takes no client: Connection refused",
        )
        assert "pln unserve web" in remedy
        free.listen()
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        for target in (at, f"unix:{tmp_path / 's'}"):
            told = of_services(services(target=target))
            assert told == [("ok", "served here, and taking clients: web", "")]


def test_a_listener_whose_service_is_gone_is_told() -> None:
    """Also one for a node that serves it no more, and one of another kind."""
    assert of_services(services()) == []
    gone = services() | {"services": []}
    ((level, text, remedy),) = of_services(gone)
    assert (level, text) == ("warning", "clients of 127.0.0.1:9 find nobody: web is served no more")
    assert "pln disconnect 127.0.0.1:9" in remedy
    ((_, text, _),) = of_services(services(provider="cellar"))
    assert "web is served by cellar no more" in text
    other = services()
    other["listeners"][0]["datagrams"] = True
    assert len(of_services(other)) == 1


def test_listeners_that_failed_or_are_for_everybody_are_told() -> None:
    """And a proxy is for everything."""
    told = of_services(services(state="failed", reason="it is taken"))
    assert told[0][:2] == ("warning", "the listener at 127.0.0.1:9 cannot be opened: it is taken")
    ((level, text, _),) = of_services(services(any_user=True))
    assert level == "ok" and "127.0.0.1:9 reaches web as this node, also other users" in text
    proxy = services(any_user=True) | {"services": []}
    proxy["listeners"][0]["service"] = ""
    ((_, text, _),) = of_services(proxy)
    assert "reaches every service as this node" in text


def test_a_name_under_two_kinds_is_told() -> None:
    """Who is left out is named."""
    ((level, text, remedy),) = of_services(services(other_kind=["cellar"]))
    assert (level, text) == ("warning", "web by TCP is tried alone: UDP is what cellar serves")
    assert "pln why service web" in remedy


def test_a_check_that_fails_is_told() -> None:
    """The one of this node with its reason; a name that fails everywhere as well."""
    check = {"check": "http:/up", "state": "healthy", "error": ""}
    listed = services()
    web = listed["services"][0]
    web["check"] = check
    (told,) = of_services(listed)
    assert told == ("ok", "web, served here, passes its check: http:/up", "")
    web["check"] = check | {"error": "it answered HTTP 500"}
    ((level, text, remedy),) = of_services(listed)
    assert (level, "pln why service web" in remedy) == ("warning", True)
    assert text == "web, served here, failed its last check (http:/up): it answered HTTP 500"
    web["check"] = check | {"state": "failing", "error": "Connection refused"}
    web["providers"][0]["health"] = "failing"
    texts = [text for level, text, _ in of_services(listed) if level == "warning"]
    assert texts == [
        "web, served here, fails its check (http:/up): Connection refused",
        "web fails its check on each node that serves it and is online",
    ]
    web["providers"].append({"name": "cellar", "state": "online", "health": ""})
    assert len(of_services(listed)) == 1


def test_a_daemon_tells_of_its_services(up: Pln) -> None:
    """The port is free, and a listener outlives its service."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        up.ok("serve", str(free.getsockname()[1]), "shut")
        up.ok("connect", "shut", "0")
        try:
            assert "takes no client: Connection refused" in found(up, "services", "warning")
            up.ok("unserve", "shut")
            assert "shut is served no more" in found(up, "services", "warning")
        finally:
            up("disconnect", "shut")
