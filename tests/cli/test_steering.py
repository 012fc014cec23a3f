"""Text of guests and peers on a terminal: shown, never obeyed, and it forges no line."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen.cli.app import overview
from pollen.plain import escaped, escaped_lines, tame
from pollen.runtime.watch.logs import human_line
from tests.cli.conftest import EXAMPLES, Pln
from tests.cli.test_machine import completed
from tests.cli.test_output import on_a_terminal

POISON = "\x1b]0;owned\x07\x1b[2J\r\nerror: forged\x9b5m\u202e\x08"
SHOWN = r"\x1b]0;owned\x07\x1b[2J"
# Our colours, and how a screen is drawn over.
OURS = re.compile("\x1b\\[(?:0|1|2|31|32|33)m|\r?\x1b\\[[KHJ]")
STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
# These show nothing that another machine or a guest wrote, or show it by a command below.
OWN = {"init", "up", "down", "restart", "join", "demo", "sim", "purge", "completion", "id"} | {
    "version",
    "service",
    "unset",
    "context",
    "new",
    "run",
    "upgrade",
}
LINES = [
    ["status"],
    ["status", "--wide"],
    ["inspect", "SEED"],
    ["inspect", "NODE"],
    ["inspect", POISON],
    ["why", "place", "echo"],
    ["why", "call", "echo"],
    ["why", "call", "nothing"],
    ["why", "service", POISON],
    ["logs"],
    ["seed", str(EXAMPLES / "loop.wasm"), "steered"],
    ["versions", POISON],
    ["rollback", "steered"],
    ["rollback", "steered", POISON],
    ["reseal", POISON],
    ["stubs", POISON],
    ["pin", POISON],
    ["unpin", POISON],
    ["unseed", "steered"],
    ["invite"],
    ["members"],
    ["members", "--tree"],
    ["members", "--json"],
    ["props", "NODE"],
    ["audit"],
    ["bootstrap", "ssh", POISON],
    ["grant", POISON, "--prop", "zone=home"],
    ["deny", POISON, "--dry-run"],
    ["undeny", POISON],
    ["top", "--once", "--interval", "200ms"],
    ["set-policy"],
    ["set-policy", "--json"],
    ["set-policy", "publish", POISON],
    ["set-policy", "publish", "true", "--dry-run"],
    ["root", "status"],
    ["root", "status", "--json"],
    ["root", "apply", POISON],
    ["serve", "8080", "api"],
    ["serve", "8080", POISON],
    ["serve", POISON, "api"],
    ["serve", "8080", "api", "--allow", POISON],
    ["connect", "api", "0"],
    ["connect", POISON],
    ["connect", "api", POISON],
    ["connect", "--proxy", POISON],
    ["connect", "--stdio", POISON],
    ["status", "services"],
    ["status", "blobs"],
    ["fetch", POISON, "-"],
    ["status", "services", "--json"],
    ["disconnect", "api"],
    ["disconnect", POISON],
    ["ping", "NODE", "-c", "1"],
    ["ping", POISON],
    ["ping", POISON + "@attic"],
    ["ping", "service/" + POISON, "-c", "1"],
    ["unserve", "api"],
    ["unserve", POISON],
    ["load", POISON, "--duration", "100ms"],
    ["load", "nothing", "--duration", "100ms"],
    ["doctor"],
    ["call", "echo", POISON],
    ["call", POISON],
    ["set", POISON],
    ["status", "--json"],
    ["logs", "--json"],
]


def poisoned(value: Any) -> Any:
    """The value with ``POISON`` behind each text."""
    if isinstance(value, str):
        return value + POISON
    if isinstance(value, list):
        return [poisoned(held) for held in value]
    if isinstance(value, dict):
        return {key: poisoned(held) for key, held in value.items()}
    return value


def asked(path: Path, request: bytes) -> bytes:
    """What the daemon itself answers."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        line.sendall(request)
        return b"".join(iter(lambda: line.recv(65_536), b""))


class Liar(socketserver.StreamRequestHandler):
    """Hands a request on and poisons the answer."""

    def handle(self) -> None:
        request, length = b"", 0
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            request += line
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        request += b"\r\n" + self.rfile.read(length)
        head, _, body = asked(self.server.real, request).partition(b"\r\n\r\n")  # type: ignore[attr-defined]
        lines = body.split(b"\n") if b"ndjson" in head else [body]
        with contextlib.suppress(ValueError):
            lines = [json.dumps(poisoned(json.loads(line))).encode() for line in lines if line]
        told = b"\n".join(lines) + b"\n" * (b"ndjson" in head)
        kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-le")]
        self.wfile.write(b"\r\n".join(kept) + b"\r\n\r\n" + told)


@pytest.fixture(scope="module")
def lied_to(up: Pln) -> Iterator[Pln]:
    """``pln`` on a folder whose daemon says everything with ``POISON`` behind it."""
    up.ok("grant", "solo", "--prop", "zone=home")
    # Lines above serve and end `api`, in any order: this one stands for all that are shown.
    up.ok("serve", "8080", "shown")
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as home:
        folder = Path(home)
        (folder / "call.sock").symlink_to(up.home / "call.sock")
        for name in ("pollen.pid", "state.db", "node.key", "member"):
            if (up.home / name).exists():
                shutil.copy(up.home / name, folder / name)
        server = socketserver.ThreadingUnixStreamServer(str(folder / "control.sock"), Liar)
        server.real = up.home / "control.sock"  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Pln(folder)
        finally:
            server.shutdown()
            server.server_close()


def test_every_verb_is_looked_at() -> None:
    assert {line[0] for line in LINES} | OWN == set(overview())


@pytest.mark.parametrize("line", LINES, ids=lambda line: escaped(" ".join(line))[-30:])
def test_no_text_from_elsewhere_steers_a_terminal(lied_to: Pln, up: Pln, line: list[str]) -> None:
    """It is shown by its escapes, in one line."""
    status = json.loads(up.ok("status", "--json"))
    ids = {"SEED": status["seeds"][0]["seed"], "NODE": status["nodes"][0]["node"]}
    raw = on_a_terminal(lied_to, *(ids.get(word, word) for word in line)).decode()
    text = OURS.sub("", raw.replace("\r\n", "\n"))
    assert not STEERS.search(text), repr(text)
    assert "\nerror: forged" not in text and not text.startswith("error: forged")
    wanted = SHOWN.replace(r"\x", r"\u00") if "--json" in line else SHOWN
    assert wanted in text.replace("\n", ""), text


def test_the_output_of_a_call_is_raw(up: Pln) -> None:
    """These bytes were asked for."""
    shown = on_a_terminal(up, "call", "echo", "echo", POISON)
    assert POISON.encode().replace(b"\n", b"\r\n") in shown


def test_a_name_that_would_steer_is_not_completed(lied_to: Pln) -> None:
    assert completed(lied_to, "call", "e") == []
    assert completed(lied_to, "load", "--from", "s") == []


def test_the_terminal_of_a_foreground_node_is_not_steered() -> None:
    """Its lines are those of the log."""
    line = human_line(json.dumps({"at": "", "level": "info", "event": "guest", "text": POISON}))
    assert escaped(line) == line and SHOWN in line


def test_printable_text_stays_as_it_is() -> None:
    """In every script; lists and objects are gone through."""
    for text in ("größer", "日本語 – ok", "a\\b", "🌼"):
        assert escaped(text) == text
    assert tame({"a\x1b": ["b\n", 1, None]}) == {"a\\x1b": ["b\\n", 1, None]}
    assert escaped_lines("a\r\nb\x9b\n") == ["a", "b\\x9b", ""]
