"""Hostile clients of a TCP door, in a process of their own: ``python -m tests.e2e.siege PLAN``.

PLAN is JSON: ``{"port", "addresses", "each", "slow"}``. From so many addresses 127.0.2.x come so
many connections each. The first ``slow`` of them announce a body and trickle it, one byte every
half second; the others send nothing. Each second a line says how many are held and how the others
ended, and a last one when stdin is closed.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import sys
import time
from collections import Counter
from typing import Any

HEAD = b"POST /call/echo/echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nx"
TRICKLE = 0.5


class Client:
    """One connection, and what came back on it."""

    def __init__(self, number: int, plan: dict[str, Any]) -> None:
        self.number = number
        self.is_slow = number < plan["slow"]
        self.heard = b""
        self.ended = ""
        self.socket = socket.socket()
        self.socket.bind((f"127.0.2.{1 + number % plan['addresses']}", 0))
        self.socket.settimeout(5)
        self.socket.connect(("127.0.0.1", plan["port"]))
        self.socket.setblocking(False)
        if self.is_slow:
            self.send(HEAD)

    def send(self, data: bytes) -> None:
        """What no longer gets through is told by what is read."""
        try:
            self.socket.send(data)
        except OSError:
            return

    def read(self) -> bool:
        """Read what is there; whether the connection is over."""
        try:
            chunk = self.socket.recv(65_536)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        self.heard += chunk
        if not chunk:
            self.ended = self.heard[9:12].decode() or "silent"
            self.socket.close()
        return not chunk


def told(clients: list[Client]) -> dict[str, Any]:
    """How many are held, and how the others ended."""
    ends = Counter(client.ended for client in clients)
    held = ends.pop("", 0)
    slow = Counter(client.ended for client in clients if client.is_slow)
    return {"held": held, "ends": ends, "slow": slow}


def main() -> None:
    """Besiege, until stdin is closed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plan = json.loads(sys.argv[1])
    clients: list[Client] = []
    chosen = selectors.DefaultSelector()
    chosen.register(sys.stdin, selectors.EVENT_READ, None)
    wanted = plan["addresses"] * plan["each"]
    trickle = report = time.monotonic()
    while True:
        for _ in range(min(100, wanted - len(clients))):
            client = Client(len(clients), plan)
            clients.append(client)
            chosen.register(client.socket, selectors.EVENT_READ, client)
        for key, _ in chosen.select(0 if len(clients) < wanted else 0.1):
            if key.data is None:
                print(json.dumps(told(clients)), flush=True)
                return
            descriptor = key.fileobj
            if key.data.read():
                chosen.unregister(descriptor)
        now = time.monotonic()
        if now - trickle > TRICKLE:
            trickle = now
            for client in clients[: plan["slow"]]:
                if not client.ended:
                    client.send(b"x")
        if now - report > 1:
            report = now
            print(json.dumps(told(clients)), flush=True)


if __name__ == "__main__":
    main()
