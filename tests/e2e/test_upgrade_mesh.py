"""``pln upgrade --mesh`` on real daemons: what the root signed gets there, nothing else does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen import lock
from pollen.core.admission.releases import Release
from pollen.core.codec import RELEASE_DOMAIN, Signed, decode, encode, signing_bytes
from pollen.core.ids import Hash, PeerId
from pollen.errors import SLUGS, PollenError
from pollen.paths import Paths
from pollen.runtime.loop.native import RealNative
from pollen.runtime.upgrade import shelf, taken
from pollen.sdk.control import Control
from pollen.testing import until
from tests.e2e.conftest import example
from tests.e2e.test_upgrade import Stream
from tests.wheels import CRASH, NEW, Environment, files_of_ours, mesh, repacked, runs

pytestmark = pytest.mark.timeout(300)
OLD = "9.0.0"


@pytest.fixture(scope="module")
def store() -> Iterator[Path]:
    """A folder for wheels."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def old(store: Path) -> Path:
    """A version that has never heard of what admins do (the records "act")."""
    kinds = files_of_ours()["pollen/core/kinds.py"]
    deaf = kinds.replace(b'ACT = "act"', b'ACT = "unheard"')
    assert deaf != kinds
    return repacked(store, OLD, patch={"pollen/core/kinds.py": deaf})


@pytest.fixture(scope="module")
def new(store: Path) -> Path:
    return repacked(store, NEW)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as made:
        yield Path(made)


class clustered:  # noqa: N801 - a context manager
    """``mesh`` of some nodes, also from within a loop; those behind the first take upgrades."""

    def __init__(self, folder: Path, wheel: Path, *names: str) -> None:
        self._mesh = mesh(folder, wheel, names, example("echo"))

    def __enter__(self) -> list[Environment]:
        nodes = self._mesh.__enter__()
        for node in nodes[1:]:
            assert "it holds from now on" in node.ok("set", "upgrade.from", "root")
        return nodes

    def __exit__(self, *error: object) -> None:
        self._mesh.__exit__(None, None, None)


def control(node: Environment) -> Control:
    return Control(Paths(node.home))


def id_of(node: Environment) -> str:
    return str(control(node).get("/v1/health")["node"])


def fails(done: Any, slug: str) -> str:
    said: str = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == SLUGS[slug].exit_code, said
    assert f"[{slug}]" in said and "Traceback" not in said, said
    return said


def warned(node: Environment) -> list[dict[str, Any]]:
    """The releases that a node refused, by its log."""
    lines = Paths(node.home).log_file.read_text().splitlines()
    held = [json.loads(line) for line in lines]
    return [line for line in held if line["event"] == "release-refused"]


async def test_a_cluster_is_upgraded_over_the_mesh_and_no_call_fails(
    folder: Path, old: Path, new: Path
) -> None:
    """One at a time, the node of the root at last; one that takes nothing is left out and said.
    What only the new version knows is in its records meanwhile. A second run passes over."""
    names = ("attic", "barn", "cellar", "den")
    held = clustered(folder, old, *names)
    nodes = await asyncio.to_thread(held.__enter__)
    try:
        attic, barn, _, den = nodes
        await asyncio.to_thread(den.ok, "set", "upgrade.from", "nobody")
        stream = Stream(den.home)
        running = asyncio.create_task(stream.run())
        done = await asyncio.to_thread(attic, "upgrade", "--mesh", "--all", str(new))
        said = fails(done, "upgrade-not-taken")
        assert "den is left out" in said and "pln set upgrade.from root" in said
        assert said.index("upgrading barn") < said.index("barn is healthy")
        assert said.index("barn is healthy") < said.index("cellar is healthy")
        assert said.index("cellar is healthy") < said.index(f"upgraded attic from {OLD} to {NEW}")
        versions = [await asyncio.to_thread(runs, node) for node in nodes]
        assert versions == [NEW, NEW, NEW, OLD]
        await asyncio.to_thread(attic.ok, "grant", "barn", "--prop", "zone=home")
        assert "zone" in await asyncio.to_thread(attic.ok, "audit")
        await asyncio.to_thread(den.ok, "set", "upgrade.from", "root")
        stream.home = barn.home
        answered = stream.answered.get(den.home, 0)
        assert answered > 100

        async def goes_there() -> bool:
            return stream.answered.get(barn.home, 0) > 20

        await until(goes_there, 30, "calls go through another node")
        said = await asyncio.to_thread(attic.ok, "upgrade", "--mesh", "--all", str(new))
        assert said.count("nothing to do") == 3 and "den is healthy" in said
        stream.end()
        await running
        assert stream.failed == []
        assert await asyncio.to_thread(runs, den) == NEW
        heard = await asyncio.to_thread(den.ok, "audit")
        assert "zone" in heard, "what it could not read before counts now"
        served = await asyncio.to_thread(control(attic).get, "/v1/services")
        assert served["services"] == []
    finally:
        await asyncio.to_thread(held.__exit__)


def test_what_crashes_is_taken_back_and_ends_it(folder: Path, old: Path, store: Path) -> None:
    """The node is on the old version again, the next one was not begun, and both are said."""
    bad = repacked(store, "9.2.0", patch=CRASH)
    with clustered(folder, old, "attic", "barn", "cellar") as (attic, barn, cellar):
        said = fails(attic("upgrade", "--mesh", "--all", str(bad)), "upgrade-failed")
        assert "barn failed" in said and "this version is broken" in said
        assert "not upgraded: cellar, attic" in said
        assert [runs(node) for node in (attic, barn, cellar)] == [OLD] * 3
        report = control(attic).get("/v1/nodes/barn/upgrade")
        assert (report["step"], report["slug"]) == ("failed", "upgrade-failed")


def signed_by(node: Environment, key: Any, wheel: Path, **fields: Any) -> str:
    """A release that some key signed, for the cluster of a node."""
    root = PeerId(bytes.fromhex(control(node).get("/v1/root")["line"][-1]["root"]))
    cluster = bytes.fromhex(control(node).get("/v1/health")["cluster"])
    now = time.time_ns()
    told = {
        "cluster": cluster,
        "root": root,
        "issued": now,
        "expires": now + Release.LIFE_NS,
        "wheel": Hash(bytes.fromhex(shelf.hash_of(wheel))),
        "size": wheel.stat().st_size,
        "version": NEW,
        "tags": "py3-none-any",
        **fields,
    }
    body = encode(Release(**told))
    signed = Signed(body, key.sign(signing_bytes(RELEASE_DOMAIN, body)))
    return base64.b64encode(encode(signed)).decode()


def asked(at: Environment, node: str, release: str) -> str:
    """The slug with which a node refuses a release, asked through another one; empty if not."""
    try:
        control(at).request("POST", f"/v1/nodes/{node}/upgrade", {"release": release})
    except PollenError as error:
        return error.slug
    return ""


@contextlib.contextmanager
def held_out(node: Environment, shown: Path, wheel: str) -> Iterator[None]:
    """A file is held out by a node as the wheel of this hash."""
    body = {"name": taken.SERVICE, "target": f"unix:{Paths(node.home).wheel_socket}"}
    with shelf.Shelf(Paths(node.home), shown, wheel):
        control(node).request("POST", "/v1/services", body)
        try:
            yield
        finally:
            control(node).request("DELETE", f"/v1/services/{taken.SERVICE}")


def ended(at: Environment, node: str) -> dict[str, Any]:
    """How the upgrade of a node went, once it has an end."""
    held: dict[str, Any] = {}

    async def is_over() -> bool:
        with contextlib.suppress(PollenError):
            held.update(control(at).get(f"/v1/nodes/{node}/upgrade"))
        return held.get("step") in (taken.DONE, taken.FAILED)

    asyncio.run(until(is_over, 120, "the upgrade has an end"))
    return held


def test_what_the_newest_root_did_not_sign_is_refused_everywhere(
    folder: Path, old: Path, store: Path, new: Path
) -> None:
    """Another key, a node that is no admin, a root with a successor, an older release, one that
    expired, and a wheel with other bytes: each has its slug, and the node stays as it is."""
    native = RealNative()
    with clustered(folder, old, "attic", "barn", "cellar") as (attic, barn, cellar):
        barn_id = id_of(barn)
        before = lock.read_pid(Paths(barn.home))
        root = native.load_key(str(Paths(attic.home).root_key))
        stranger = native.generate_key()
        assert asked(attic, "barn", signed_by(attic, stranger, new)) == "release-denied"
        posing = signed_by(attic, stranger, new, root=PeerId(stranger.public))
        assert asked(attic, "barn", posing) == "release-denied"
        assert asked(attic, "barn", "bm9uc2Vuc2U=") == "release-denied"
        late = signed_by(attic, root, new, expires=time.time_ns() - 1)
        assert asked(attic, "barn", late) == "release-stale"
        good = signed_by(attic, root, new)
        assert asked(cellar, "barn", good) == "denied", "it is no admin"
        cellar.ok("set", "upgrade.from", "nobody")
        assert asked(attic, "cellar", good) == "upgrade-not-taken"

        other = repacked(store, NEW, patch={"pollen/examples/new.txt": b"tampered\n"})
        with held_out(attic, other, shelf.hash_of(new)):
            first = signed_by(attic, root, new, size=other.stat().st_size)
            assert asked(attic, "barn", first) == ""
            report = ended(attic, "barn")
        assert (report["step"], report["slug"]) == ("failed", "wheel-invalid")
        assert "is not the wheel that the root signed" in report["reason"]
        assert asked(attic, "barn", good) == "release-stale", "a later one was taken"

        attic.ok("root", "succeed", "--yes")

        def line() -> int:
            return len(control(barn).get("/v1/root")["line"])

        async def has_heard() -> bool:
            return line() == 2

        asyncio.run(until(has_heard, 30, "barn knows the successor"))
        displaced = signed_by(attic, root, new, root=PeerId(root.public))
        assert asked(attic, "barn", displaced) == "release-denied"
        slugs = [said["slug"] for said in warned(barn)]
        assert slugs.count("release-denied") == 4 and slugs.count("release-stale") == 2
        assert [said["slug"] for said in warned(cellar)] == ["upgrade-not-taken"]
        assert lock.read_pid(Paths(barn.home)) == before and runs(barn) == OLD
        assert barn_id == id_of(barn)
        said = attic.ok("upgrade", "--mesh", str(new), "barn")
        assert "barn is healthy" in said and runs(barn) == NEW, "the successor signs"
        assert decode(Signed, base64.b64decode(good), "release")


def process_of_upgrade(node: Environment) -> int:
    """The process that upgrades a node, once there is one."""
    found: list[int] = []

    async def is_there() -> bool:
        report = taken.Box(Paths(node.home)).report()
        found[:] = [int(report.process.partition(":")[0])] if report.process else []
        return report.step == taken.WORKING and bool(found)

    asyncio.run(until(is_there, 90, "a process upgrades it"))
    return found[0]


@pytest.mark.parametrize("moment", ["at once", "switched"])
def test_a_node_that_is_killed_in_between_comes_back_and_a_second_run_ends_it(
    folder: Path, old: Path, new: Path, moment: str
) -> None:
    """Node and upgrade are killed with SIGKILL: what is there then starts, old or new."""
    with clustered(folder, old, "attic", "barn") as (attic, barn):
        root = RealNative().load_key(str(Paths(attic.home).root_key))
        with held_out(attic, new, shelf.hash_of(new)):
            assert asked(attic, "barn", signed_by(attic, root, new)) == ""
            pid = process_of_upgrade(barn)

            async def is_switched() -> bool:
                return barn.site.exists() and NEW in "".join(
                    path.name for path in barn.site.glob("pollen_mesh-*")
                )

            if moment == "switched":
                asyncio.run(until(is_switched, 90, "the new version is in place"))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if (node := lock.read_pid(Paths(barn.home))) is not None:
                os.kill(node, signal.SIGKILL)

                async def is_gone() -> bool:
                    return lock.read_pid(Paths(barn.home)) is None

                asyncio.run(until(is_gone, 30, "the node is gone"))
        # One that the upgrade began to start a moment before is there already, and not ready yet.
        barn("up", "-d")

        async def answers() -> bool:
            with contextlib.suppress(PollenError):
                return control(barn).get("/v1/health")["version"] in (OLD, NEW)
            return False

        asyncio.run(until(answers, 30, "barn is up, old or new"))

        async def sees() -> bool:
            with contextlib.suppress(PollenError):
                state = control(attic).get("/v1/nodes/barn/upgrade")
                return state["step"] in (taken.DONE, taken.FAILED)
            return False

        asyncio.run(until(sees, 60, "attic hears from barn again"))
        said = attic.ok("upgrade", "--mesh", str(new), "barn")
        assert "barn is healthy" in said or "nothing to do" in said
        if barn.leftovers():
            barn.ok("upgrade")
        assert runs(barn) == NEW
