"""The desk's side of an enrolment: its node, asked by any number of threads.

Decides: how often the node is asked who is there.
Does not know: ssh; machines before they have a key.
Invariants: a token is bound to the key that redeems it, so nobody else can use it. It is returned,
and neither kept nor printed.
Source: docs/internals/bootstrap.md#enrolment.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from pollen.errors import PollenError, error_from
from pollen.sdk.control import Control

# Milliseconds that a token is good. Guess: a machine redeems it as soon as it came.
_TTL_MS: Final = 300_000
# Seconds for which an answer about the cluster is used by all threads. Guess.
_FRESH: Final = 0.3


@dataclass(frozen=True)
class Grant:
    """What the new members may do: ``tier`` (empty for a leaf) and properties as JSON."""

    tier: str = ""
    properties: str = "{}"


class Desk:
    """The node of whoever runs the command."""

    def __init__(self, control: Control, grant: Grant) -> None:
        self._control, self._grant = control, grant
        self._asking = threading.Lock()
        self._status: dict[str, Any] = control.get("/v1/status")
        self._asked = time.monotonic()
        self._machines: dict[str, str] = {}
        self._names: dict[str, str] = {}

    @property
    def cluster(self) -> str:
        """Its id, in hex."""
        return str(self._status["cluster"])

    def check(self) -> None:
        """Raise ``denied`` or ``bad-request`` where the node may not give what is to be given.

        Asked with a key that nobody has: the token is dropped, and no node keeps anything of it.
        """
        self.token(secrets.token_hex(32))

    def token(self, node: str) -> str:
        """A token that is good for this key alone."""
        wish = {
            "subject": node,
            "ttl_ms": _TTL_MS,
            "tier": self._grant.tier or "leaf",
            "properties": self._grant.properties,
            "access_ms": 0,
            "lease_ms": 0,
        }
        return str(self._control.request("POST", "/v1/invites", wish)["token"])

    def members(self) -> list[dict[str, Any]]:
        """All members as the node sees them now."""
        with self._asking:
            if time.monotonic() - self._asked > _FRESH:
                self._status = self._control.get("/v1/status")
                self._asked = time.monotonic()
            return list(self._status["nodes"])

    def member(self, node: str) -> dict[str, Any] | None:
        """The member with this key, when the node sees it."""
        for held in self.members():
            if held["node"] == node and _is_there(held):
                return held
        return None

    def claim(self, node: str, host: str) -> None:
        """A machine of this run has this key. Raises ``usage`` when another one has it."""
        with self._asking:
            first = self._machines.setdefault(node, host)
        if first != host:
            reason = f"{host} is the same machine as {first}"
            raise error_from("usage", reason, "name each machine once")

    def claim_name(self, name: str, host: str) -> None:
        """A machine of this run will have this name. Raises ``name-taken`` when another one will:
        those of one image have one name, and both would join before either is seen."""
        with self._asking:
            first = self._names.setdefault(name, host)
        if first != host:
            raise _taken(name, host, f"{first} of this run gets it")

    def keep_name(self, node: str, host: str) -> None:
        """A member goes on under the name that it has; nobody else of this run gets that one."""
        for held in self.members():
            if held["node"] == node:
                with self._asking:
                    self._names.setdefault(str(held["name"]), host)

    def check_name(self, name: str, node: str, host: str) -> None:
        """Raise ``name-taken`` when a member that is there has the name with another key. A machine
        that was set up again may have its old name. ``node`` is empty before there is a key."""
        held = {one["node"] for one in self.members() if _is_there(one) and one["name"] == name}
        if others := sorted(held - {node}):
            raise _taken(name, host, f"{others[0][:8]} has it")


def _taken(name: str, host: str, why: str) -> PollenError:
    reason = f"{host}: the name {name!r} is taken: {why}"
    remedy = f"give the machine another one: pln bootstrap ssh NAME={host}"
    return error_from("name-taken", reason, remedy)


def _is_there(member: dict[str, Any]) -> bool:
    return member["state"] in ("online", "self")
