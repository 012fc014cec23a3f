"""What ``pln doctor`` finds of services: programs that take no clients, listeners of nothing.

Each program that this node serves is connected to, once, without a byte.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pollen.runtime.finding import Finding

# As long as the muscles wait for a service to take a client, seconds.
_CONNECT = 5.0
# Programs that are connected to at once.
_AT_ONCE = 8
_UNIX = "unix:"


def check_services(listed: Mapping[str, Any]) -> Iterator[Finding]:
    """``listed`` is the answer of ``GET /v1/services``."""
    services = {service["name"]: service for service in listed["services"]}
    yield from _check_programs(list(services.values()))
    for service in services.values():
        # A node of before does not say.
        if service.get("other_kind"):
            kind, other = ("UDP", "TCP") if service["datagrams"] else ("TCP", "UDP")
            names = ", ".join(service["other_kind"])
            text = f"{service['name']} by {kind} is tried alone: {other} is what {names} serves"
            remedy = f"one of the two under another name; see: pln why service {service['name']}"
            yield Finding("services", "warning", text, remedy)
        yield from _check_health(service)
    for listener in listed["listeners"]:
        yield from _check_listener(listener, services)


def _check_programs(services: list[dict[str, Any]]) -> Iterator[Finding]:
    """Those of this node that speak by streams: a datagram tells nothing."""
    here = [held for held in services if held["target"] and not held["datagrams"]]
    if not here:
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        troubles = list(pool.map(lambda held: _trouble(held["target"]), here))
    for held, trouble in zip(here, troubles, strict=True):
        if trouble:
            text = f"{held['name']} is served here, and {held['target']} takes no client: {trouble}"
            remedy = f"start its program, or: pln unserve {held['name']}"
            yield Finding("services", "warning", text, remedy)
    if not any(troubles):
        names = ", ".join(held["name"] for held in here)
        yield Finding("services", "ok", f"served here, and taking clients: {names}")


def _check_health(service: Mapping[str, Any]) -> Iterator[Finding]:
    """The check of a service here, and a name that no healthy program serves. A node of before
    checks nothing."""
    name, check = service["name"], service.get("check")
    if check and check["error"]:
        state = "fails its check" if check["state"] == "failing" else "failed its last check"
        text = f"{name}, served here, {state} ({check['check']}): {check['error']}"
        yield Finding("services", "warning", text, f"mend its program; see: pln why service {name}")
    elif check and check["state"] == "healthy":
        yield Finding("services", "ok", f"{name}, served here, passes its check: {check['check']}")
    online = [held for held in service["providers"] if held["state"] in ("self", "online")]
    if online and all(held.get("health") == "failing" for held in online):
        text = f"{name} fails its check on each node that serves it and is online"
        yield Finding("services", "warning", text, f"see: pln why service {name}")


def _trouble(target: str) -> str:
    """Why nobody can connect there, in the system's words; empty when one can."""
    try:
        if target.startswith(_UNIX):
            with socket.socket(socket.AF_UNIX) as held:
                held.settimeout(_CONNECT)
                held.connect(target.removeprefix(_UNIX))
        else:
            host, _, port = target.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()
    except TimeoutError:
        return f"no answer within {_CONNECT:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    except ValueError:
        return "that is no address"
    return ""


def _check_listener(listener: Mapping[str, Any], services: Mapping[str, Any]) -> Iterator[Finding]:
    at, name = listener["bound"], listener["service"]
    if listener["state"] == "failed":
        text = f"the listener at {at} cannot be opened: {listener['reason']}"
        yield Finding("services", "warning", text, f"mend that, or: pln disconnect {at}")
    if name and not _is_served(listener, services.get(name)):
        only = f" by {listener['provider']}" if listener["provider"] else ""
        text = f"clients of {at} find nobody: {name} is served{only} no more"
        yield Finding("services", "warning", text, f"serve it, or: pln disconnect {at}")
    if listener["any_user"]:
        what = f"reaches {name}" if name else "reaches every service"
        text = f"whoever can connect to {at} {what} as this node, also other users"
        yield Finding("services", "ok", text, f"if that is not meant: pln disconnect {at}")


def _is_served(listener: Mapping[str, Any], service: Mapping[str, Any] | None) -> bool:
    if service is None or service["datagrams"] != listener["datagrams"]:
        return False
    only = listener["provider"]
    return not only or any(provider["name"] == only for provider in service["providers"])
