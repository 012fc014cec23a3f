"""The story of Done-when 3, told once for root, for namespaces and for an ordinary user.

Run as a program it is the story on loopback: ``python -m tests.e2e.takeover``.
"""

from __future__ import annotations

import asyncio

from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example
from tests.e2e.talk import metric


def holds(node: Node, content: str) -> bool:
    """Whether compiled code of this content lies in the node's folder: it had the bytes."""
    return any((node.home / "code").glob(f"{content}-*.code"))


async def answers(node: Node, text: str) -> str:
    """A call from this node; where it ran."""
    async with node.connect() as mesh:
        reply = await mesh.call("shout", "shout", text, timeout=15, idempotent=True)
    assert reply.text == text.upper()
    return reply.node


async def takeover(*, namespaces: bool) -> None:
    """B has the module by hash from A; C was away, A dies, C comes: B answers and gives it on."""
    async with Cluster(3, namespaces=namespaces) as cluster:
        a, b, c = cluster
        await c.stop()
        published = await cluster.seed(example("shout"), "shout", everywhere=True)
        content = published["content"]
        assert holds(a, content) and holds(b, content) and not holds(c, content)
        # Nothing but A could have given it to B: the folder never saw the file.
        assert await metric(b, "compiles_total") == 1
        await answers(b, "before")

        await a.kill()
        own = (await b.status())["node"]
        assert await answers(b, "a is gone") == own

        await c.start()
        await cluster.linked()
        await cluster.ready("shout", on=["b", "c"])
        assert holds(c, content)
        assert await answers(c, "c is here") in (own, (await c.status())["node"])
        assert await answers(b, "b goes on") in (own, (await c.status())["node"])

        async def is_c_own() -> bool:
            return await answers(c, "at home") == (await c.status())["node"]

        async def is_c_alone() -> bool:
            nodes = (await c.status())["nodes"]
            return {n["name"] for n in nodes if n["state"] == "offline"} == {"a", "b"}

        await b.kill()
        await until(is_c_own, 20, "c answers alone")
        await until(is_c_alone, 20, "c sees that it is alone")


if __name__ == "__main__":
    asyncio.run(takeover(namespaces=False))
    print("taken over")
