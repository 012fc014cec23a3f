"""Whether a link may stand: judged at its Hello, and again when an access deadline comes.

Decides: which Hello is admitted, with which close code the others end, and when a link that was
    good is cut.
Does not know: which of two links to a peer stays (``peers``), records, the muscles.
Invariants: membership is judged first and refused uniformly, so that a stranger learns nothing; the
    version comes after. A link ends when its access ends: one timer each.
Source: PROTOCOL 4, 6 (Hello); seam (close codes).
"""

from __future__ import annotations

from pollen.core import certs, limits, timers
from pollen.core.codec import Rejection
from pollen.core.config import NodeConfig
from pollen.core.effects import CloseLink, Effect, SetTimer
from pollen.core.events import HelloReceived
from pollen.core.ids import ClusterId, LinkId, Nanos, Now, PeerId
from pollen.core.members import Members
from pollen.core.peers import Peers

_REASONS = {
    limits.CLOSE_NOT_A_MEMBER: "not a member",
    limits.CLOSE_VERSION_MISMATCH: "no version in common",
    limits.CLOSE_DENIED: "access has ended",
}


class Admission:
    """The judge of links of one node."""

    def __init__(self, config: NodeConfig, members: Members, peers: Peers) -> None:
        self._config = config
        self._members = members
        self._peers = peers

    def judge(self, event: HelloReceived, now: Now) -> tuple[CloseLink, Rejection] | None:
        """The end of a link that must not be, and the fault in it; None admits it."""
        fault = self._fault_of(event, now)
        return None if fault is None else (_close(event.link, fault[0]), fault[1])

    def _fault_of(self, event: HelloReceived, now: Now) -> tuple[int, Rejection] | None:
        if ClusterId(event.cluster) != self._config.cluster:
            return limits.CLOSE_NOT_A_MEMBER, Rejection("hello-of-another-cluster")
        judged = self._members.judge(event.peer, event.chain)
        if isinstance(judged, Rejection):
            return limits.CLOSE_NOT_A_MEMBER, judged
        if not certs.has_access(judged, now.wall):
            return limits.CLOSE_NOT_A_MEMBER, Rejection("access-ended")
        if event.minor_max < limits.MINOR_MIN or event.minor_min > limits.MINOR_MAX:
            spoken = f"{event.minor_min}..{event.minor_max}"
            return limits.CLOSE_VERSION_MISMATCH, Rejection("hello-version", spoken)
        return None

    def watch(self, event: HelloReceived, now: Now) -> list[Effect]:
        """PROTOCOL 4: a link ends at the access deadline; one timer each."""
        judged = self._members.judge(event.peer, event.chain)
        if isinstance(judged, Rejection) or judged.access_deadline == 0:
            return []
        at = Nanos(now.mono + judged.access_deadline - now.wall)
        return [SetTimer(token=timers.token_for(timers.ACCESS, event.peer), at=at)]

    def on_timer(self, peer: PeerId, now: Now) -> list[Effect]:
        """Cut the link of a peer whose access has ended."""
        certificate = self._members.certificates.get(peer)
        link = self._peers.link_of(peer)
        if certificate is None or link is None or certs.has_access(certificate, now.wall):
            return []
        return [_close(link.link, limits.CLOSE_DENIED)]


def _close(link: LinkId, code: int) -> CloseLink:
    return CloseLink(link=link, code=code, reason=_REASONS[code])
