"""The root's policy on publishers on real daemons: set, obeyed, shown, taken away."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pollen.errors import PollenError
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example
from tests.e2e.talk import check_error
from tests.e2e.test_root import Drawer, ok
from tests.e2e.test_trust import join

pytestmark = pytest.mark.timeout(180)

LAB = 'caller.tier == "admin" || seed.name.startsWith("lab-")'


async def shown(node: Node) -> dict[str, Any]:
    """The policy as a node shows it."""
    (policy,) = (await node.get("/v1/policies"))["policies"]
    assert isinstance(policy, dict)
    return policy


async def reaches(nodes: list[Node], number: int) -> None:
    """Every node counts the policy of this number."""

    async def is_so() -> bool:
        return all([(await shown(node))["number"] == number for node in nodes])

    await until(is_so, 10, f"policy number {number} on every node")


async def refused(node: Node, path: str, body: dict[str, Any] | None = None) -> PollenError:
    """What a question, or a command with a body, is refused with."""
    with pytest.raises(PollenError) as caught:
        await (node.get(path) if body is None else node.post(path, body))
    return caught.value


async def calls(node: Node, name: str) -> str:
    """The slug of a call, empty when it passes."""
    async with node.connect() as mesh:
        try:
            await mesh.call(name, "echo", b"x")
        except PollenError as error:
            return error.slug
    return ""


async def test_only_names_that_the_policy_allows_are_published_and_count() -> None:
    """A name that fell is called by nobody, and is back when the policy is taken away."""
    async with Cluster(1) as cluster:
        a, b = cluster[0], await join(cluster, "b", "publisher")
        await cluster.seed(example("echo"), "radio", at=1, min_replicas=1)
        assert await calls(a, "radio") == ""
        planned = await a.post("/v1/policies", {"expression": LAB, "dry_run": True})
        assert [name["name"] for name in planned["falls"]] == ["radio"]
        assert (await shown(a))["number"] == 0
        await a.post("/v1/policies", {"expression": LAB})
        await reaches([a, b], 1)

        async def is_gone() -> bool:
            return await calls(a, "radio") == "seed-not-found"

        await until(is_gone, 20, "radio counts no more")
        assert [name["name"] for name in (await shown(b))["refused"]] == ["radio"]
        told = await refused(a, "/v1/why/place/radio")
        assert "does not let b publish 'radio'" in str(told)
        with pytest.raises(PollenError) as caught:
            await cluster.seed(example("echo"), "tv", at=1, min_replicas=1)
        assert caught.value.slug == "denied" and LAB in caught.value.remedy
        await cluster.seed(example("echo"), "lab-tv", at=1, min_replicas=1)
        assert await calls(a, "lab-tv") == ""
        await b.restart()
        assert (await shown(b))["text"] == LAB
        await a.post("/v1/policies", {"clear": True})
        await reaches([a, b], 2)

        async def is_back() -> bool:
            return await calls(a, "radio") == ""

        await until(is_back, 20, "radio counts again")


async def test_a_policy_needs_the_root_and_a_text_that_is_one() -> None:
    """Each refusal says what to do, and nothing is set."""
    async with Cluster(1) as cluster:
        b = await join(cluster, "b", "publisher")
        for body, slug, words in (
            ({"expression": "true"}, "root-not-here", "--request FILE"),
            ({"expression": "caller.team"}, "bad-policy", "at character 1"),
            ({"expression": "(" * 17 + "true" + ")" * 17}, "bad-policy", "over 16 deep"),
            ({}, "bad-request", "--clear"),
        ):
            error = await refused(b, "/v1/policies", body)
            assert error.slug == slug and words in f"{error} {error.remedy}"
        asked = await b.post("/v1/policies", {"expression": "true", "by_root": True})
        assert base64.b64decode(asked["request"])
        assert (await shown(b))["number"] == 0


async def test_the_root_in_a_drawer_signs_a_policy() -> None:
    """No node has the key: any member asks and any publishes; an old answer is refused."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        async with Cluster(1) as cluster:
            a, b = cluster[0], await join(cluster, "b", "publisher")
            drawer = Drawer(Path(folder), a)
            await drawer.takes("--remove", "--yes")
            check_error(await a.pln("set-policy", "publish", LAB, "--json"), "root-not-here")
            answer = await drawer.signs(b, "set-policy", "publish", LAB)
            stale = await drawer.signs(a, "set-policy", "publish", "true")
            assert LAB in await ok(b, "root", "apply", str(answer))
            await reaches([a, b], 1)
            assert LAB in await ok(a, "set-policy")
            check_error(await a.pln("root", "apply", str(stale), "--json"), "root-file-stale")
            assert "it is so already" in await ok(a, "root", "apply", str(answer))
            assert "policy the root" in await ok(a, "audit")
