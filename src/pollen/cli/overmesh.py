"""An upgrade of other nodes over the mesh: what the root signed here, one node at a time.

Decides: who is asked, the order, and that the first failure ends it.
Does not know: whether a node takes it, and how it is put in place there.
Invariants: no node is begun before the one before it is healthy on the new version. Who was left
    out and why is said in any case. The node here is the last, as it is the one that speaks.
Source: docs/guide/upgrade.md#over-the-mesh; docs/decisions/an-upgrade-over-the-mesh.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import click

# What is imported later would be of another version, once the node here is upgraded.
from pollen.cli import output, proposals  # noqa: F401
from pollen.cli.explain import find
from pollen.errors import PollenError, error_from
from pollen.paths import Paths
from pollen.plain import escaped
from pollen.runtime.upgrade import begin, shelf, wheel
from pollen.runtime.upgrade.taken import DONE, FAILED, SERVICE
from pollen.sdk.control import Control

# Seconds between two looks at a node that upgrades itself. Guess.
_LOOK = 0.5
# Seconds beyond its patience after which a node that does not answer is given up: it drains, starts
# and perhaps goes back. Guess.
_SILENT = 120
# Seconds after which a node that answers and comes to no end is given up: a slow way for 20 MB.
# Guess.
_LONGEST = 3_600
# Seconds that one answer of another node may take.
_ANSWER = 30.0


@dataclass(frozen=True)
class Asked:
    """What the user asked for. Without ``nodes`` every node is meant."""

    wheel: str
    nodes: tuple[str, ...]
    patience_ms: int
    dry_run: bool = False
    allow_older: bool = False


@dataclass(frozen=True)
class Left:
    """A node that is not upgraded, and why."""

    name: str
    slug: str
    reason: str
    remedy: str = ""


def upgrade(where: Paths, asked: Asked) -> None:
    """Upgrade nodes of this cluster to a wheel that the root key here signs.

    Raises what forbids it for a node that was named; ``upgrade-failed`` with who is upgraded and
    who is not; at the end, the error of the first node that was left out.
    """
    if where.host:
        reason = "the wheel is signed where the root key is, and this is another machine"
        raise error_from("usage", reason, f"there: {where.command('upgrade --mesh FILE.whl')}")
    with tempfile.TemporaryDirectory(prefix="pln-") as folder:
        path = begin.receive(asked.wheel, Path(folder))
        shown = Path(asked.wheel) if asked.wheel != "-" else None
        new = wheel.check(path, shown, is_ours=False)
        click.echo(f"checked {wheel.DISTRIBUTION} {new.said} ({new.tags}, {new.size} bytes)")
        _Rollout(where, asked, new).run()


class _Rollout:
    """One run of the command."""

    def __init__(self, where: Paths, asked: Asked, new: wheel.Wheel) -> None:
        self.where, self.asked, self.new = where, asked, new
        self.control = Control(where)
        self.left: list[Left] = []
        self.done: list[str] = []
        self.own = ""

    def run(self) -> None:
        todo = [node for node in self._chosen() if self._is_wanted(node)]
        # The node here ends meanwhile, and with it what the others fetch from.
        todo.sort(key=lambda node: node["node"] == self.own)
        for left in self.left:
            click.echo(f"{escaped(left.name)} is left out: {escaped(left.reason)}", err=True)
        if self.asked.dry_run:
            names = ", ".join(node["name"] for node in todo)
            click.echo(f"would upgrade to {self.new.said}: {escaped(names) or 'no node'}")
        else:
            self._upgrade(todo)
        if self.left:
            raise self._left_out()

    # -- who ------------------------------------------------------------------------------------

    def _chosen(self) -> list[dict[str, Any]]:
        """The nodes that are meant. Raises ``peer-not-found``, ``ambiguous``."""
        status = self.control.get("/v1/status")
        self.own = status["node"]
        nodes = [node for node in status["nodes"] if node["state"] != "left"]
        if not self.asked.nodes:
            return nodes
        found = [find({"nodes": nodes}, f"node/{text}")[1] for text in self.asked.nodes]
        return list({node["node"]: node for node in found}.values())

    def _is_wanted(self, node: dict[str, Any]) -> bool:
        """Whether it is to be upgraded and can be; else it is said why not."""
        name = str(node["name"])
        try:
            state = self._look(node["node"], self.new.tags)
        except PollenError as error:
            if error.slug == "usage":
                reason = "its version takes no upgrade over the mesh"
                self._leave(Left(name, "upgrade-not-taken", reason, _SSH))
            else:
                self._leave(Left(name, error.slug, error.reason, error.remedy))
            return False
        if (state["version"], state["content"]) == (self.new.said, self.new.content):
            click.echo(f"nothing to do: {escaped(name)} runs {self.new.said}, the same files")
            self.done.append(name)
            return False
        if state["takes_from"] != "root" and node["node"] != self.own:
            reason = "it takes no upgrade over the mesh: upgrade.from is nobody"
            remedy = f"on {name}: pln set upgrade.from root"
            self._leave(Left(name, "upgrade-not-taken", reason, f"{remedy}\n{_SSH}"))
        elif state["trouble"]:
            self._leave(Left(name, "upgrade-not-taken", str(state["trouble"]), _SSH))
        else:
            return True
        return False

    def _leave(self, left: Left) -> None:
        if self.asked.nodes:
            raise error_from(left.slug, f"{left.name}: {left.reason}", left.remedy)
        self.left.append(left)

    def _left_out(self) -> PollenError:
        names = ", ".join(left.name for left in self.left)
        first = self.left[0]
        many = f"{len(self.left)} node{'s' if len(self.left) > 1 else ''} left out"
        return error_from(first.slug, f"{many}: {names}", first.remedy)

    def _look(self, node: str, tags: str = "") -> dict[str, Any]:
        query = f"?{urlencode({'tags': tags})}" if tags else ""
        return self.control.get(f"/v1/nodes/{quote(node)}/upgrade{query}", timeout=_ANSWER)

    # -- doing ----------------------------------------------------------------------------------

    def _upgrade(self, todo: list[dict[str, Any]]) -> None:
        others = [node for node in todo if node["node"] != self.own]
        if others:
            with _held_out(self.where, self.control, self.new.path) as (digest, size):
                release = self._signed(digest, size)
                for node in others:
                    self._one(node, release, todo)
        for node in todo[len(others) :]:
            self._here(str(node["name"]), todo)
        click.echo(f"upgraded, or were so already: {escaped(', '.join(self.done)) or 'none'}")

    def _signed(self, digest: str, size: int) -> str:
        body = {
            "wheel": digest,
            "size": size,
            "version": self.new.said,
            "tags": self.new.tags,
            "allow_older": self.asked.allow_older,
        }
        signed = self.control.request("POST", "/v1/releases", body)
        click.echo(f"signed {self.new.said}, sha256 {digest}")
        return str(signed["release"])

    def _one(self, node: dict[str, Any], release: str, todo: list[dict[str, Any]]) -> None:
        name, body = str(node["name"]), {"release": release, "patience_ms": self.asked.patience_ms}
        click.echo(f"upgrading {escaped(name)}")
        try:
            path = f"/v1/nodes/{quote(node['node'])}/upgrade"
            self.control.request("POST", path, body, timeout=_ANSWER)
            self._await(node["node"])
        except PollenError as error:
            raise self._stopped(name, error, todo) from None
        except KeyboardInterrupt:
            reason = "you interrupted it here; what was begun there may go on"
            raise self._stopped(name, error_from("upgrade-failed", reason), todo) from None
        self.done.append(name)
        click.echo(f"{escaped(name)} is healthy on {self.new.said}")

    def _await(self, node: str) -> None:
        """Until the node says how it went. It does not answer while it starts again."""
        silent, why = self.asked.patience_ms / 1000 + _SILENT, ""
        heard = began = time.monotonic()
        while time.monotonic() < heard + silent:
            if time.monotonic() > began + _LONGEST:
                remedy = "look there: pln doctor"
                raise error_from("upgrade-failed", f"no end within {_LONGEST} s", remedy)
            time.sleep(_LOOK)
            try:
                state = self._look(node)
            except PollenError as error:
                if error.slug == "usage" and self._runs(node):
                    return
                why = error.reason
                continue
            heard = time.monotonic()
            if state["step"] == DONE:
                return
            if state["step"] == FAILED:
                raise error_from(state["slug"], state["reason"], state["remedy"])
        remedy = "look there: pln doctor"
        raise error_from("unreachable", f"it is silent for {silent:g} s: {why}", remedy)

    def _runs(self, node: str) -> bool:
        """Whether it runs the new version, which knows nothing of such questions."""
        with contextlib.suppress(PollenError):
            status = self.control.get(f"/v1/nodes/{quote(node)}/status", timeout=_ANSWER)
            return bool(status["version"] == self.new.said)
        return False

    def _here(self, name: str, todo: list[dict[str, Any]]) -> None:
        """The node here, as ``pln upgrade`` does it, in a process of its own."""
        line = [sys.executable, "-P", "-m", "pollen.cli", "--dir", str(self.where.home), "upgrade"]
        line += ["--allow-downgrade"] * self.asked.allow_older
        line += ["--patience", f"{self.asked.patience_ms}ms", str(self.new.path)]
        sys.stdout.flush()
        code = subprocess.run(line, check=False).returncode
        if code:
            failed = error_from("upgrade-failed", f"pln upgrade here ended with {code}")
            raise self._stopped(name, failed, todo)
        self.done.append(name)

    def _stopped(self, name: str, why: PollenError, todo: list[dict[str, Any]]) -> PollenError:
        """The error that ends it: that of the node, with who is upgraded and who is not."""
        rest = [n["name"] for n in todo if n["name"] not in (*self.done, name)]
        rest += [left.name for left in self.left]
        told = [f"upgraded: {', '.join(self.done)}"] if self.done else ["none was upgraded before"]
        told += [f"not upgraded: {', '.join(rest)}"] if rest else []
        remedy = [why.remedy, "; ".join(told), "then run it again"]
        return error_from(
            why.slug, f"{name} failed: {why.reason}", "\n".join(text for text in remedy if text)
        )


_SSH = "or over ssh, there: pln upgrade FILE.whl"


@contextlib.contextmanager
def _held_out(where: Paths, control: Control, path: Path) -> Iterator[tuple[str, int]]:
    """Hold a wheel out to the nodes of the cluster; its hash and size.

    Raises ``already-running`` beside another run here, and ``name-taken`` beside one elsewhere.
    """
    where.upgrade_folder.mkdir(mode=0o700, exist_ok=True)
    digest = shelf.hash_of(path)
    with (where.upgrade_folder / "desk").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            reason = "another pln upgrade --mesh runs here"
            raise error_from("already-running", reason, "wait for its end") from None
        with shelf.Shelf(where, path, digest):
            _serve(control, where.wheel_socket)
            try:
                yield digest, path.stat().st_size
            finally:
                with contextlib.suppress(PollenError):
                    control.request("DELETE", f"/v1/services/{SERVICE}")


def _serve(control: Control, at: Path) -> None:
    try:
        control.request("POST", "/v1/services", {"name": SERVICE, "target": f"unix:{at}"})
    except PollenError as error:
        if error.slug != "name-taken":
            raise
        reason = f"an upgrade over the mesh runs elsewhere, or was cut off there: {error.reason}"
        remedy = f"if it was cut off: pln unserve {SERVICE} --everywhere"
        raise error_from("name-taken", reason, remedy) from None
