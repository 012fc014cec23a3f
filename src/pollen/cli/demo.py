"""``pln demo``: a cluster on this machine, from the first seed to a take-over, in a few lines."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import click

from pollen.cli.app import with_globals


@click.command("demo")
@with_globals
def demo_command() -> None:
    """Run a three-node cluster here: seed, call from every node, kill a node, go on.

    Everything lives in a temporary folder and is gone afterwards, also after Ctrl-C.

    \b
    Example:
      pln demo
    """
    asyncio.run(_demo())


async def _demo() -> None:
    from pollen.testing import Cluster

    folder = Path(tempfile.mkdtemp(prefix="pln-demo-"))
    try:
        module = folder / "shout.wasm"
        module.write_bytes(_example("shout"))
        _say("starting three nodes on this machine ...")
        async with Cluster(3) as cluster:
            a, b, c = cluster
            _say("")
            _command("on a", "pln seed shout.wasm shout --everywhere")
            published = await cluster.seed(module, "shout", everywhere=True)
            functions = ", ".join(published["functions"])
            _say(f"  seed {published['seed'][:8]}: {functions}; ready on")
            known = [f"{n['name']} ({n['node'][:8]})" for n in (await a.status())["nodes"]]
            _say(f"  {', '.join(sorted(known))}")
            for node in (b, c, a):
                await _call(node, f"hello from {node.name}")
            _say("")
            _command("on a", "kill -9")
            await a.kill()
            for node in (b, c):
                await _call(node, f"still here, says {node.name}")
            _say("")
            _say("a is gone, its seed is not: b and c hold it and answer for it.")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _say("your turn: pln up -d, then pln seed FILE.wasm NAME")


async def _call(node: object, text: str) -> None:
    from pollen.testing import Node

    assert isinstance(node, Node)
    _command(f"on {node.name}", f'pln call shout shout "{text}"')
    async with node.connect() as mesh:
        reply = await mesh.call("shout", "shout", text, idempotent=True, timeout=10.0)
    ran = (
        f"ran on {reply.node[:8]} in {reply.run * 1e6:.0f} us, {reply.elapsed * 1e3:.2f} ms in all"
    )
    _say(f"  {reply.text}    ({ran})")


def _command(where: str, line: str) -> None:
    click.echo(f"{where}$ {line}")


def _say(text: str) -> None:
    click.echo(text)


def _example(name: str) -> bytes:
    """A module that is shipped with the package."""
    from importlib.resources import files

    return files("pollen").joinpath("examples", f"{name}.wasm").read_bytes()
