"""What a node says of a service that it serves, and the words that users write of one.

Decides: whether a record of a service is one; what a target or a local address means.
Does not know: who else serves the name (``directory``); whether anything listens there.
Invariants: where a service is stands in no record. A record is never over
    ``limits.SPEC_MAX_BYTES``.
Source: docs/design/services.md#records.
"""

from __future__ import annotations

import ipaddress
from typing import ClassVar

import msgspec

from pollen.core import limits
from pollen.core.codec import U32, Refusal, Rejection, decode, encode
from pollen.core.ids import SECOND, Hash, PeerId, hash_of
from pollen.core.labels import check_name
from pollen.core.policy import CALLERS, Party, Policy, packed, parse, read_policy

# The highest epoch of a name. At this one nothing can stand above a record but a higher tier, so
# that no publisher keeps a name for ever. Guess: nobody counts so far.
EPOCH_MAX = 1 << 31
# Providers of one name that the muscles know, the nearest. Guess: nobody counts so far.
ROW_PROVIDERS = 64
LOOPBACK = "127.0.0.1"
UNIX = "unix:"
PORT_MAX = 65_535
# The longest path of a unix socket that the system takes, with its end.
_PATH_MAX = 107
# Pairs of properties in one gate; more are an expression. Guess.
_PROPERTY_MAX = 16
# A session of datagrams ends after so long without one. Source: RFC 4787 REQ-5, at least 2 minutes;
# the range is a guess.
SESSION_IDLE_MS = 120_000
SESSION_IDLE_MIN_MS = 1_000
SESSION_IDLE_MAX_MS = 86_400_000
# A listener that could not be opened again is tried so often. Guess: as long as a person looks on.
LISTENER_AGAIN_NS = 5 * SECOND


class ServiceRecord(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a service record. Positional; fields are only appended.

    ``port`` is a hint for listeners, 0 for none. ``policy`` is empty, or text and tree.
    """

    name: str
    name_epoch: U32
    withdrawn: bool
    datagrams: bool
    port: U32
    allow: list[tuple[str, str]] = []
    policy: list[str] = []


class Service(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A service of one node, as it published it."""

    owner: PeerId
    record: ServiceRecord
    digest: Hash
    allow_if: Policy | None = None
    noun: ClassVar[str] = "service"

    @property
    def name(self) -> str:
        """The name that it is served under."""
        return self.record.name

    @property
    def name_epoch(self) -> int:
        """The number of this version of the name: nodes of one number serve it together."""
        return self.record.name_epoch

    @property
    def is_withdrawn(self) -> bool:
        """Whether its node serves it no more."""
        return self.record.withdrawn

    @property
    def gate(self) -> str:
        """What it asks of who wants in, in words; empty when it asks for nothing."""
        needs = [f"{key}={value}" for key, value in self.record.allow]
        needs += [self.allow_if.text] if self.allow_if is not None else []
        return " and ".join(needs)

    def lets(self, party: Party) -> bool:
        """Whether a member may reach it."""
        return party.meets(tuple(self.record.allow), self.allow_if)


def key_of(name: str) -> Hash:
    """The key of a service's rows."""
    return hash_of("service", name.encode())


def decode_service(owner: PeerId, payload: bytes) -> Service | Rejection:
    """The service in a record's payload, when it obeys the rules."""
    if len(payload) > limits.SPEC_MAX_BYTES:
        return Rejection("service-too-large", f"{len(payload)} bytes")
    record = decode(ServiceRecord, payload, "service-record")
    if isinstance(record, Rejection):
        return record
    is_high = record.name_epoch > EPOCH_MAX or record.port > PORT_MAX
    if check_name(record.name) is not None or is_high:
        return Rejection("service-malformed", record.name[:80])
    policy = None
    if record.policy:
        # One of another form is a tree that nobody can read: it lets nobody in.
        carried = record.policy if len(record.policy) == 2 else ["".join(record.policy[:1]), ""]
        policy = read_policy(carried, CALLERS, seed=record.name, owner=owner.hex())
    return Service(
        owner=owner, record=record, digest=hash_of("service", owner, payload), allow_if=policy
    )


def make_record(
    *,
    name: str,
    name_epoch: int,
    place: Place,
    allow: list[tuple[str, str]],
    allow_if: str,
) -> ServiceRecord | Refusal:
    """The record of checked words; a refusal says what is wrong with the gate."""
    if len(allow) > _PROPERTY_MAX:
        return Refusal(
            "config-invalid",
            f"{len(allow)} pairs of properties, over {_PROPERTY_MAX}",
            "write them as one expression: --allow",
        )
    policy: list[str] = []
    if allow_if:
        tree = parse(allow_if, CALLERS)
        if isinstance(tree, Refusal):
            return tree
        policy = [allow_if, packed(tree)]
    return ServiceRecord(
        name=name,
        name_epoch=name_epoch,
        withdrawn=False,
        datagrams=place.datagrams,
        port=place.port,
        allow=allow,
        policy=policy,
    )


def withdrawn(record: ServiceRecord, name_epoch: int) -> bytes:
    """The payload that says that a node serves a name no more."""
    return encode(
        msgspec.structs.replace(
            record, name_epoch=name_epoch, withdrawn=True, port=0, allow=[], policy=[]
        )
    )


def check_idle(idle_ms: int, *, datagrams: bool) -> Refusal | None:
    """Whether a session may end after so long without a datagram; 0 is the default."""
    if idle_ms and not datagrams:
        return Refusal("usage", "streams do not end by themselves", "leave --idle out")
    if idle_ms == 0 or SESSION_IDLE_MIN_MS <= idle_ms <= SESSION_IDLE_MAX_MS:
        return None
    low, high = SESSION_IDLE_MIN_MS // 1_000, SESSION_IDLE_MAX_MS // 1_000
    return Refusal(
        "config-invalid",
        f"a session that ends after {idle_ms} ms without a datagram is out of range",
        f"give --idle from {low}s to {high}s",
    )


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a socket is: ``text`` as the muscles read it, the port when it has one."""

    text: str
    datagrams: bool
    port: int
    is_loopback: bool


def read_target(text: str) -> Place | Refusal:
    """What a user means by ``8080``, ``udp:53``, ``10.0.0.9:80``, ``[::1]:80``, ``unix:/run/x``."""
    scheme, _, rest = text.partition(":")
    if scheme == "unix":
        return _unix(text)
    datagrams = scheme == "udp"
    address = rest if scheme in ("tcp", "udp") else text
    if "://" in text or not address:
        return _malformed(text)
    host, port = _split(address)
    if port is None or not 1 <= port <= PORT_MAX or not _is_host(host or LOOPBACK):
        return _malformed(text)
    host = host or LOOPBACK
    return Place(
        text=f"{_bracketed(host)}:{port}",
        datagrams=datagrams,
        port=port,
        is_loopback=_is_loopback(host),
    )


def read_local(text: str, *, datagrams: bool) -> Place | Refusal:
    """Where a user wants clients to come: ``8080``, ``127.0.0.1:0``, ``unix:/run/x``."""
    if text.startswith(UNIX):
        if datagrams:
            return Refusal(
                "usage",
                "a service of datagrams has no unix socket here",
                "give a port: pln connect NAME PORT",
            )
        return _unix(text)
    host, port = _split(text)
    host = host or LOOPBACK
    if port is None or not 0 <= port <= PORT_MAX or not _is_ip(host):
        return Refusal(
            "usage",
            f"{text[:80]!r} is not an address to listen on",
            "give PORT, IP:PORT or unix:PATH",
        )
    return Place(
        text=f"{_bracketed(host)}:{port}",
        datagrams=datagrams,
        port=port,
        is_loopback=_is_loopback(host),
    )


def _unix(text: str) -> Place | Refusal:
    path = text.removeprefix(UNIX)
    if not path.startswith("/") or "\0" in path:
        return Refusal(
            "usage", f"{path[:80]!r} is not a whole path", "write it from / on: unix:/PATH"
        )
    if len(path.encode()) > _PATH_MAX:
        return Refusal(
            "path-too-long",
            f"the path of the socket has {len(path.encode())} bytes, over {_PATH_MAX}",
            "choose a shorter folder",
        )
    return Place(text=text, datagrams=False, port=0, is_loopback=True)


def _malformed(text: str) -> Refusal:
    return Refusal(
        "usage",
        f"{text[:80]!r} is not a place where something listens",
        "give PORT, HOST:PORT, udp:PORT or unix:PATH",
    )


def _split(address: str) -> tuple[str, int | None]:
    """Host and port of ``80``, ``a:80``, ``[::1]:80``; no port where there is none."""
    host, _, digits = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return "", None
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= 5
    return host, int(digits) if is_number else None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_host(host: str) -> bool:
    """An address, or a name as the system's resolver knows it."""
    labels = host.rstrip(".").split(".")
    fits = all(
        0 < len(label) <= 63 and label.replace("-", "a").replace("_", "a").isalnum()
        for label in labels
    )
    return _is_ip(host) or (fits and host.isascii() and len(host) <= 253)


def _is_loopback(host: str) -> bool:
    """An IPv4 address in one of IPv6 is none here: not every system judges it alike."""
    if _is_ip(host):
        address = ipaddress.ip_address(host)
        is_mapped = address.version == 6 and address.ipv4_mapped is not None
        return address.is_loopback and not is_mapped
    return host == "localhost"
