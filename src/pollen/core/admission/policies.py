"""The root's policy on publishers as a running node meets it: shown, set, or asked on paper.

Decides: whether a policy is set, and what is said of the names that fall by it.
Does not know: which names there are (it is told), what counts (``trust``), where keys lie.
Invariants: a command that is refused, or that only asks, tells nothing. Without the root key
    nothing is set: the root elsewhere is asked.
Source: docs/design/policy.md#who-may-publish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from pollen.core.admission.redeeming import Redeeming
from pollen.core.codec import Refusal, Signed, encode
from pollen.core.ids import MILLISECOND, PeerId, Sign
from pollen.core.kinds import POLICY
from pollen.core.rootwords import (
    GainedName,
    Policies,
    PoliciesCommand,
    PolicySet,
    PolicyView,
    RefusedName,
    SetPolicyCommand,
)
from pollen.core.trust import Certificate, Members, RootRequest
from pollen.core.turn import Asked, Handler, Turn

# What a request to the root holds, sealed and in base64.
Request = Callable[[Sequence[Any], Turn], str | Refusal]
# The record of an act: verb, subject, detail.
Note = Callable[[str, PeerId, str, Turn], None]
# Names that one answer lists of each sort; how many more there are is said beside. Guess: what
# somebody reads before answering, and far below the body of an answer of the control API.
NAMES_SHOWN: Final = 100
PUBLISH = "publish"


class Names(Protocol):
    """What is published, and what a policy on publishers does to it."""

    def refused(self) -> Sequence[tuple[str, PeerId]]:
        """The names that are published and do not count, because of the policy; by name."""

    def moved(
        self, may: Callable[[str, Certificate], bool]
    ) -> Sequence[tuple[str, PeerId | None, PeerId | None]]:
        """The names that another policy would move: who has each live now, and who then."""


class PublisherPolicies:
    """What a node may do with the policy on publishers; a machine of ``Granting``."""

    def __init__(
        self,
        members: Members,
        redeeming: Redeeming,
        sign: Sign,
        names: Names,
        request: Request,
        note: Note,
    ) -> None:
        self._members = members
        self._publishers = members.trust.publishers
        self._redeeming = redeeming
        self._sign = sign
        self._names = names
        self._request = request
        self._note = note

    def commands(self) -> Mapping[type[object], Handler]:
        """To look and to set."""
        return {PoliciesCommand: self.on_look, SetPolicyCommand: self.on_set}

    def on_look(self, asked: Asked, turn: Turn) -> None:
        """What is set, and which names it keeps from counting."""
        turn.answer(asked.request, Policies(policies=[self._view()]))

    def _view(self) -> PolicyView:
        held = self._publishers.counts
        if held is None:
            return PolicyView(about=PUBLISH)
        policy, refused = held[0], self._names.refused()
        return PolicyView(
            about=policy.about,
            text=policy.text,
            number=policy.number,
            since_unix_ms=policy.issued // MILLISECOND,
            root=policy.root.hex(),
            readable=policy.is_readable,
            refused=[
                self._refused(name, owner, self._publishers.why_not)
                for name, owner in refused[:NAMES_SHOWN]
            ],
            refused_more=max(len(refused) - NAMES_SHOWN, 0),
        )

    def _refused(
        self, name: str, owner: PeerId, why: Callable[[str, Certificate], str]
    ) -> RefusedName:
        certificate = self._members.certificates.get(owner)
        reason = "" if certificate is None else why(name, certificate)
        shown = self._members.name_of(owner)
        # The policy lets its publisher have it: then what had withdrawn it before counts again.
        reason = reason or "a version that withdrew it counts again"
        return RefusedName(name=name, node=owner.hex(), node_name=shown, why=reason)

    def _gained(self, name: str, owner: PeerId, before: PeerId | None) -> GainedName:
        name_of = self._members.name_of
        return GainedName(
            name=name,
            node=owner.hex(),
            node_name=name_of(owner),
            from_node="" if before is None else before.hex(),
            from_name="" if before is None else name_of(before),
        )

    def _planned(
        self,
        view: PolicyView,
        may: Callable[[str, Certificate], bool],
        why: Callable[[str, Certificate], str],
    ) -> PolicySet:
        """What a policy would do to the names that are published."""
        moved = self._names.moved(may)
        falls = [(name, now) for name, now, then in moved if now is not None and then is None]
        gains = [(name, then, now) for name, now, then in moved if then is not None]
        return PolicySet(
            policy=view,
            falls=[self._refused(name, owner, why) for name, owner in falls[:NAMES_SHOWN]],
            falls_more=max(len(falls) - NAMES_SHOWN, 0),
            gains=[self._gained(*row) for row in gains[:NAMES_SHOWN]],
            gains_more=max(len(gains) - NAMES_SHOWN, 0),
        )

    # -- setting --------------------------------------------------------------------------------

    def on_set(self, asked: Asked, turn: Turn) -> None:
        """Set the policy, take it away, or say what that would do."""
        command: SetPolicyCommand = asked.command
        answer = _fault_of(command) or self._set(command, turn)
        is_told = not (command.dry_run or command.by_root)
        turn.answer(asked.request, answer, when_durable=is_told)

    def _set(self, command: SetPolicyCommand, turn: Turn) -> PolicySet | Refusal:
        root = list(self._members.trust.roots)[-1]
        # A text that is no policy is refused with its place, also where there is no root key.
        planned = self._publishers.plan(root, turn.now.wall, command.expression)
        if isinstance(planned, Refusal):
            return planned
        if self._is_so(command.expression, root):
            return PolicySet(policy=self._view(), falls=[], changed=False)
        here = self._redeeming.issuer().signing_root
        if here != root and not command.by_root:
            who = _WHO if here is None else _OLDER
            return Refusal("root-not-here", who, _BRING)
        view = PolicyView(
            about=PUBLISH,
            text=planned.text,
            number=planned.number,
            since_unix_ms=planned.issued // MILLISECOND,
            root=root.hex(),
        )
        answer = self._planned(view, planned.letting(), planned.judging())
        if command.by_root:
            papers = RootRequest.papers_of_policy(planned, self._publishers.before(root))
            request = self._request(papers, turn)
            if isinstance(request, Refusal):
                return request
            return msgspec.structs.replace(answer, request=request)
        if not command.dry_run:
            self.tell(planned.signed(self._sign), root, planned.sentence(), turn)
        return answer

    def _is_so(self, text: str, root: PeerId) -> bool:
        """Whether the newest root said just this, and this node can read it."""
        held = self._publishers.counts
        if held is None:
            return not text
        policy = held[0]
        return policy.text == text and policy.root == root and policy.is_readable

    def tell(self, signed: Signed, root: PeerId, detail: str, turn: Turn) -> None:
        """Publish a policy that the root signed, here or elsewhere, and note the act."""
        turn.publish(POLICY, PUBLISH.encode(), encode(signed))
        self._note("policy", root, detail, turn)


_WHO = "the root key is not on this node, and only the root says who may publish"
_OLDER = "the root key on this node has a successor, and only the newest root says who may publish"
_BRING = "bring it here: pln root import FILE\n"
_BRING += "or ask it elsewhere: pln set-policy publish EXPR --request FILE"


def _fault_of(command: SetPolicyCommand) -> Refusal | None:
    if command.about != PUBLISH:
        return Refusal(
            "bad-request",
            f"there is no policy {command.about[:80]!r}",
            f"there is one: pln set-policy {PUBLISH} EXPR",
        )
    if bool(command.expression) == command.clear:
        both = "an expression and --clear" if command.clear else "neither an expression nor --clear"
        remedy = f"set it: pln set-policy {PUBLISH} EXPR\n"
        remedy += f"take it away: pln set-policy {PUBLISH} --clear"
        return Refusal("bad-request", f"{both} was given", remedy)
    return None
