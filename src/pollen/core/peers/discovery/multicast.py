"""``multicast[:group:port[@interface]]``: a survey on the local network that widens step by step.

Decides: how far to ask and when again, whom to answer, and what a heard answer is worth.
Does not know: sockets, interfaces, who is a member; what is done with what was found.
Invariants: a node answers only surveys of its own cluster, while it advertises, within the distance
    asked; never its own. At most 32 datagrams a second leave, 8 at once. A repeated question gets
    the bytes of the first answer, unless our addresses changed since.
Source: docs/internals/discovery.md#surveys; the Wetware project's boot package, but for the faults
    named there: the first distance follows the number of peers expected, so that a small network is
    asked whole at once, and an address change empties the cache.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from pollen.core import limits
from pollen.core.codec import Rejection
from pollen.core.ids import DAY, SECOND, ClusterId, Nanos, Now, PeerId
from pollen.core.peers.discovery.contract import Action, Context, Found, Send, Socket, refuse
from pollen.core.peers.discovery.envelope import (
    ASK_NONCE_BYTES,
    Response,
    Survey,
    decode_datagram,
    encode_datagram,
)
from pollen.core.peers.known import is_dialable

GROUP_V4 = "239.86.66.11"
GROUP_V6 = "ff02::5642:11"
PORT = 60613
EVERYBODY = 32

_FORM = "write multicast, or multicast:GROUP:PORT, or multicast:GROUP:PORT@INTERFACE"


class Bucket:
    """A send limit: so many a second, so many at once."""

    def __init__(self, rate: int, burst: int) -> None:
        self._each = SECOND // rate
        self._burst = burst * self._each
        self._level = self._burst
        self._at = Nanos(0)

    def take(self, now: Nanos) -> bool:
        """One more, or not yet."""
        self._level = min(self._burst, self._level + now - self._at)
        self._at = now
        if self._level < self._each:
            return False
        self._level -= self._each
        return True


class Multicast:
    """One survey group."""

    def __init__(self, argument: str, context: Context) -> None:
        self._context = context
        self._socket = read_group(argument)
        self._bucket = Bucket(limits.DATAGRAM_RATE, limits.DATAGRAM_BURST)
        self._addresses: list[str] = []
        self._until = Nanos(0)
        self._answers: dict[bytes, bytes] = {}
        self._answers_day = 0
        self._nonce = b""
        self._distance = EVERYBODY
        self._wait = limits.SURVEY_FIRST_NS
        self._due: Nanos | None = None
        self.expected = 1
        self.faults: dict[str, int] = {}

    @property
    def socket(self) -> Socket | None:
        """The group's port, joined."""
        return self._socket

    @property
    def due(self) -> Nanos | None:
        """When the next survey leaves; None while nothing is looked for."""
        return self._due

    # -- answering ------------------------------------------------------------------------------

    def advertise(self, cluster: ClusterId, addresses: Sequence[str], until: Nanos) -> None:
        """Answer with these from now on; other addresses void what was prepared."""
        mine = list(addresses) if cluster == self._context.cluster else []
        if mine != self._addresses:
            self._addresses, self._answers = mine, {}
        self._until = until

    def on_datagram(self, data: bytes, sender: str, now: Now) -> list[Action]:
        """Answer a survey, take an answer; what is neither is counted and ignored."""
        del sender  # anybody can write any address into a packet
        said = decode_datagram(data, self._context, now.wall)
        if isinstance(said, Rejection):
            self.faults[said.kind] = self.faults.get(said.kind, 0) + 1
            return []
        if said.signer == self._context.node:
            return []
        if isinstance(said, Survey):
            return self._answer(said, now)
        addresses = [a for a in said.addresses[: limits.PEER_ADDRESSES_MAX] if is_dialable(a)]
        return [Found(peer=PeerId(said.signer), addresses=addresses)] if addresses else []

    def _answer(self, survey: Survey, now: Now) -> list[Action]:
        if not self._addresses or now.mono >= self._until:
            return []
        if not is_within(self._context.node, PeerId(survey.signer), survey.distance):
            return []
        day = now.wall // DAY
        if day != self._answers_day or len(self._answers) >= limits.ANSWERS_CACHED:
            self._answers, self._answers_day = {}, day
        data = self._answers.get(survey.nonce)
        if data is None:
            own = self._context
            response = Response(own.cluster, own.node, survey.nonce, self._addresses)
            data = encode_datagram(response, own, now.wall)
        if data is None or not self._bucket.take(now.mono):
            return []
        self._answers[survey.nonce] = data
        return [Send(data=data)]

    # -- asking ---------------------------------------------------------------------------------

    def find(self, cluster: ClusterId, limit: int, now: Now) -> list[Action]:
        """Ask near first, as far as ``limit`` peers are likely; 0 ends the search."""
        if not limit or cluster != self._context.cluster:
            self._due = None
            return []
        if self._due is not None:
            return []
        draw = self._context.rng.draw
        self._nonce = (draw().to_bytes(8, "big") + draw().to_bytes(8, "big"))[:ASK_NONCE_BYTES]
        self._distance = first_distance(self.expected, limit)
        self._wait = limits.SURVEY_FIRST_NS
        self._due = now.mono
        return self.on_timer(now)

    def on_timer(self, now: Now) -> list[Action]:
        """Ask, and next time farther; once everybody was asked, ever more rarely."""
        if self._due is None or now.mono < self._due:
            return []
        own = self._context
        data = None
        if self._bucket.take(now.mono):
            survey = Survey(own.cluster, own.node, self._nonce, self._distance)
            data = encode_datagram(survey, own, now.wall)
        if self._distance >= EVERYBODY:
            self._wait = min(2 * self._wait, limits.SURVEY_MAX_NS)
        self._distance = min(EVERYBODY, self._distance + limits.SURVEY_STEP)
        self._due = Nanos(now.mono + own.rng.jittered(self._wait))
        return [] if data is None else [Send(data=data)]


def first_distance(expected: int, limit: int) -> int:
    """So far that about ``limit`` of the expected peers answer: 32 - log2(expected / limit)."""
    each = max(1, expected // max(1, limit))
    return max(0, EVERYBODY - each.bit_length() + 1)


def is_within(own: PeerId, asker: PeerId, distance: int) -> bool:
    """Whether we are among those who are asked; 32 is everybody."""
    apart = int.from_bytes(own[-4:], "big") ^ int.from_bytes(asker[-4:], "big")
    return apart >> min(distance, EVERYBODY) == 0


def read_group(argument: str) -> Socket:
    """``group:port[@interface]``, or nothing for the default groups of both families."""
    address, _, interface = argument.partition("@")
    if not address:
        return Socket(port=PORT, groups=[GROUP_V4, GROUP_V6], interface=interface)
    host, _, port = address.rpartition(":")
    if not is_dialable(address):
        raise refuse("multicast", argument, "this is not a group with a port", _FORM)
    group = ipaddress.ip_address(host.strip("[]"))
    if not group.is_multicast:
        raise refuse("multicast", argument, f"{group} is not a multicast group", _FORM)
    return Socket(port=int(port), groups=[str(group)], interface=interface)
