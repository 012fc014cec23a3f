"""The root key on real machines: sealed and gone, asked on paper, brought back, succeeded, lost."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from pollen.testing import Cluster, Node, until
from tests.e2e.talk import check_error
from tests.e2e.test_trust import join, shows

pytestmark = pytest.mark.timeout(240)

WORDS = "seven plain words that make no sense"


class Drawer:
    """A folder with the sealed key, and what a person carries there and back; no node, no net."""

    def __init__(self, folder: Path, node: Node) -> None:
        self.folder = folder
        self._as = Node("drawer", folder / "drawer", "", None)
        self._node = node
        (folder / "words").write_text(f"{WORDS}\n")
        self.key = folder / "root.age"

    @property
    def words(self) -> list[str]:
        return ["--passphrase-file", str(self.folder / "words")]

    async def takes(self, *options: str) -> None:
        """The key of the node is sealed and put here."""
        done = await self._node.pln("root", "export", str(self.key), *self.words, *options)
        assert done.returncode == 0, done.stderr

    async def signs(self, node: Node, *request: str) -> Path:
        """What a node asks, answered; the path of the answer."""
        number = len(list(self.folder.iterdir()))
        asked, out = self.folder / f"{number}.request", self.folder / f"{number}.answer"
        done = await node.pln(*request, "--request", str(asked))
        assert done.returncode == 0, done.stderr
        line = ["root", "sign", str(asked), "--key", str(self.key), "--yes", "--out", str(out)]
        done = await self._as.pln(*line, *self.words)
        assert done.returncode == 0, done.stderr
        assert b"to be signed: " in done.stderr
        assert not self._as.home.exists(), "the signing machine needs no folder"
        return out

    async def succeeds(self) -> tuple[Path, Path]:
        """A successor made here: its sealed key and the answer."""
        new, out = self.folder / "new.age", self.folder / "succeed.answer"
        line = ["root", "succeed", "--key", str(self.key), "--export", str(new), "--out", str(out)]
        done = await self._as.pln(*line, "--yes", *self.words)
        assert done.returncode == 0, done.stderr
        return new, out


async def ok(node: Node, *line: str) -> str:
    """What a command prints that must end well."""
    done = await node.pln(*line)
    assert done.returncode == 0, f"{line}: {done.stderr.decode()}"
    return done.stdout.decode()


async def line_of(node: Node) -> list[str]:
    """The roots as a node knows them."""
    return [link["root"] for link in (await node.get("/v1/root"))["line"]]


async def test_the_root_signs_in_a_drawer_and_every_node_counts_it() -> None:
    """No node has the key; an admin is made, unmade and denied, and an old answer is refused."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        async with Cluster(3) as cluster:
            a, b, c = cluster.nodes
            drawer = Drawer(Path(folder), a)
            await drawer.takes("--remove", "--yes")
            assert not a.paths.root_key.exists()
            check_error(await a.pln("grant", "b", "--admin", "--json"), "denied")
            admin = await drawer.signs(c, "grant", "b", "--admin")
            stale = await drawer.signs(c, "grant", "b", "--prop", "zone=x")
            await ok(a, "root", "apply", str(admin))
            for node in cluster:
                await shows(node, "b", tier="admin", issuer_name="the root", generation=2)
            check_error(await a.pln("root", "apply", str(stale), "--json"), "root-file-stale")
            assert "it is so already" in await ok(b, "root", "apply", str(admin))
            assert await ok(b, "invite")
            await ok(a, "root", "apply", str(await drawer.signs(b, "grant", "b", "--leaf")))
            await shows(c, "b", tier="leaf", generation=3)
            check_error(await b.pln("invite", "--json"), "denied")
            out = await drawer.signs(c, "deny", "b", "--reason", "lost")
            await ok(c, "root", "apply", str(out))
            await shows(a, "b", state="denied", reason="lost")
            back = await drawer.signs(c, "undeny", "b")
            check_error(await c.pln("root", "apply", str(back), "--json"), "denied")
            await ok(a, "root", "apply", str(back))
            await cluster.linked(120)
            await shows(c, "b", state="online", tier="leaf")
            assert "grant b" in await ok(c, "audit")


async def test_a_key_that_comes_back_signs_without_a_restart_and_after_one() -> None:
    """Whoever has it is the root, be it a publisher; when it is taken away it signs no more."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        async with Cluster(2) as cluster:
            a, b = cluster.nodes
            drawer = Drawer(Path(folder), a)
            await drawer.takes("--remove", "--yes")
            pid = (await b.get("/v1/health"))["pid"]
            await ok(b, "root", "import", str(drawer.key), *drawer.words)
            assert (await b.get("/v1/root"))["held"] == (await line_of(b))[0]
            check_error(await b.pln("grant", "a", "--leaf", "--yes", "--json"), "denied")
            await ok(b, "grant", "b", "--admin")
            await ok(b, "grant", "a", "--leaf", "--yes")
            assert (await b.get("/v1/health"))["pid"] == pid
            await shows(a, "a", tier="leaf")
            await b.stop()
            await b.start()
            await cluster.linked(60)
            await ok(b, "grant", "a", "--publisher")
            await shows(a, "a", tier="publisher")
            done = await b.pln(
                "root", "export", str(Path(folder) / "x.age"), "--remove", "--yes", *drawer.words
            )
            assert done.returncode == 0, done.stderr
            check_error(await b.pln("grant", "a", "--admin", "--json"), "denied")
            done = await b.pln("root", "succeed", "--yes")
            assert done.returncode == 4 and b"[root-not-here]" in done.stderr


async def test_a_successor_counts_on_every_node_also_one_that_was_away() -> None:
    """Made here and made in a drawer; what the ones before signed counts, and joins still work."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        async with Cluster(3) as cluster:
            a, b, c = cluster.nodes
            first = (await line_of(a))[0]
            await c.stop()
            await ok(a, "root", "succeed", "--yes")
            assert a.paths.former_root_key(first[:8]).exists()
            second = (await a.get("/v1/root"))["held"]
            assert await line_of(a) == [first, second]
            drawer = Drawer(Path(folder), a)
            await drawer.takes("--remove", "--yes")
            new, answer = await drawer.succeeds()
            await ok(b, "root", "apply", str(answer))
            check_error(await b.pln("root", "apply", str(answer) + "x", "--json"), "usage")
            line = await line_of(b)
            assert line[:2] == [first, second] and len(line) == 3
            await ok(b, "root", "import", str(new), *drawer.words)
            await ok(b, "grant", "b", "--admin")
            await a.stop()
            await c.start()

            async def follows() -> bool:
                return await line_of(c) == line

            await until(follows, 60, "c, which was away, knows the newest root")
            await shows(c, "b", tier="admin", state="online")
            await a.start()
            await cluster.linked(60)
            assert await line_of(a) == line
            d = await join(cluster, "d", "leaf", 1)
            assert await line_of(d) == line
            for node in cluster:
                await shows(node, "b", tier="admin", issuer_name="the root")
            assert "already in" in await ok(b, "init")


async def test_what_a_displaced_successor_denied_is_void_on_every_node() -> None:
    """Two halves each succeed the root; who was denied in vain is shown, and denied again."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        async with Cluster(3) as cluster:
            a, b, c = cluster.nodes
            (first,) = await line_of(a)
            copy = Path(folder) / "root.key"
            copy.write_bytes(a.paths.root_key.read_bytes())
            await ok(b, "root", "import", str(copy))
            await ok(b, "grant", "b", "--admin")
            await shows(a, "b", tier="admin")
            await b.stop()
            await c.stop()
            await ok(a, "root", "succeed", "--yes")
            stands = (await a.get("/v1/root"))["held"]
            await a.stop()
            await b.start()
            await c.start()
            await until(lambda: sees(b, "c"), 60, "the other half is linked")
            await ok(b, "root", "succeed", "--yes")
            void = (await b.get("/v1/root"))["held"]
            await ok(b, "deny", "c", "--yes")
            await shows(b, "c", state="denied")
            await a.start()
            await cluster.linked(120)
            for node in cluster:
                assert await line_of(node) == [first, stands]
                said = await ok(node, "root", "status")
                assert f"void     {void[:8]}, signed by {first[:8]}" in said
                assert "its deny of c, which is a member" in said
            assert "deny-void" in await ok(b, "logs")
            await ok(a, "deny", "c", "--yes")
            await shows(b, "c", state="denied")
            assert "its deny of c" not in await ok(b, "root", "status")


async def sees(node: Node, name: str) -> bool:
    """Whether a member is online for a node."""
    nodes = (await node.get("/v1/status"))["nodes"]
    return any(held["name"] == name and held["state"] == "online" for held in nodes)


async def test_a_cluster_whose_root_key_is_lost_goes_on_with_its_admins() -> None:
    """They invite, renew, and grant and deny those below them; nobody makes or unmakes an admin."""
    async with Cluster(1) as cluster:
        a = cluster[0]
        await join(cluster, "b", "admin")
        await join(cluster, "c", "leaf", 1)
        a.paths.root_key.unlink()
        for node in cluster.nodes[:2]:
            await node.stop()
            await node.start()
        await cluster.linked(60)
        b = cluster[1]
        await join(cluster, "d", "leaf", 1, lease_ms=600_000)
        await ok(b, "grant", "c", "--publisher", "--prop", "zone=x")
        await shows(a, "c", tier="publisher")
        await ok(b, "deny", "d", "--yes")
        await shows(a, "d", state="denied")
        await ok(b, "undeny", "d")
        for line in (
            ["grant", "c", "--admin"],
            ["grant", "a", "--leaf"],
            ["deny", "a"],
            ["invite", "--admin"],
        ):
            check_error(await b.pln(*line, "--json"), "denied")
        said = await ok(b, "root", "status")
        assert "not on this node" in said and "2 admins could invite" in said
