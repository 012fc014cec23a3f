"""Why things are as they are: the plan's and the router's decisions, with their numbers.

Decides: nothing; the words and the numbers of ``pln why``.
Does not know: how the state came about; it changes nothing. What only the muscles know of a peer,
    calls in flight and whether it was silent just now, is not in it, and the words say so.
Invariants: pure; the ranking is made by the functions of ``plan`` that made it in the first place.
Source: docs/design/cli.md#why, docs/design/protocol.md#placement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from pollen.core import limits
from pollen.core.codec import Refusal
from pollen.core.commands import Status, StatusCommand
from pollen.core.desk.providers import why_service
from pollen.core.desk.views import Screen, status_view
from pollen.core.desk.ways import why_path
from pollen.core.ids import Hash, PeerId
from pollen.core.names import Holding, find_named
from pollen.core.peers import Phase
from pollen.core.placement import (
    Host,
    Need,
    Placement,
    Snapshot,
    Standing,
    State,
    bid_of,
    may_rank,
)
from pollen.core.policy import STRANGER, Part, Party, Policy
from pollen.core.rules import match_gate
from pollen.core.seeds import Seed
from pollen.core.trust import Member, NodeInfo
from pollen.core.whywords import (
    PartView,
    RankView,
    WayView,
    WhyCall,
    WhyCallCommand,
    WhyPath,
    WhyPathCommand,
    WhyPlace,
    WhyPlaceCommand,
    WhyService,
    WhyServiceCommand,
)

Question = StatusCommand | WhyPlaceCommand | WhyCallCommand | WhyPathCommand | WhyServiceCommand

_AWAITED = "it left with its copy, which is awaited for ten minutes"

# A price and where it comes from, see ``WayView``.
Price = Callable[[PeerId], tuple[int, str]]


def answer(
    screen: Screen, question: Question, price: Price
) -> Status | WhyPlace | WhyCall | WhyPath | WhyService | Refusal:
    """What a node says of itself and of its decisions."""
    if isinstance(question, WhyPathCommand):
        return why_path(screen, question.target)
    if isinstance(question, WhyServiceCommand):
        return why_service(screen, question.target, price)
    if isinstance(question, WhyPlaceCommand):
        return why_place(screen, question.target)
    if isinstance(question, WhyCallCommand):
        return why_call(screen, question, price)
    return status_view(screen)


def why_place(screen: Screen, target: str) -> WhyPlace | Refusal:
    """The answer to ``WhyPlaceCommand``: nodes in the order of their rank, then the others."""
    holding = _named(screen, target)
    if isinstance(holding, Refusal):
        return holding
    seed = screen.situation.serving(holding)
    snapshot = screen.situation.planner.snapshot_of(seed.seed)
    placement = screen.situation.placement(seed.seed)
    if snapshot is None or placement is None:
        return Refusal("seed-not-found", f"{holding.name} is not in the plan yet", "try again")
    hosts = {host.node: host for host in screen.situation.claims.hosts(seed.seed)}
    nodes = [
        _rank_view(screen, member, seed.seed, snapshot, placement, hosts.get(member.peer))
        for member in screen.members.all_members()
    ]
    nodes.sort(key=lambda view: (view.rank == 0, view.rank, view.name, view.node))
    return WhyPlace(
        name=holding.name,
        seed=seed.seed.hex(),
        wanted=placement.wanted,
        ready=sum(host.state is State.READY for host in hosts.values()),
        demand_milli=sum(snapshot.demand[seed.seed].values()),
        why=[
            *_why_so_many(holding, seed, snapshot, placement, list(hosts.values())),
            *_why_halted(screen, holding, seed),
            *_why_waits(screen, holding),
            *_why_published(screen, holding),
        ],
        nodes=nodes,
    )


def _named(screen: Screen, target: str) -> Holding[Seed] | Refusal:
    """What a user means; a name that the policy on publishers keeps from counting says so."""
    found = find_named(target, screen.situation.names)
    name = target.removeprefix("seed/")
    refused = screen.situation.refused_by_name.get(name, ())
    if not isinstance(found, Refusal) or not refused:
        return found
    why = "; ".join(_why_refused(screen, name, owner) for owner in refused)
    text = screen.members.trust.publishers.text
    return Refusal("seed-not-found", why, f"the policy is: {text}\nits rules: pln set-policy")


def _why_refused(screen: Screen, name: str, owner: PeerId) -> str:
    certificate = screen.members.certificates.get(owner)
    publishers = screen.members.trust.publishers
    why = "" if certificate is None else publishers.why_not(name, certificate)
    who = screen.members.name_of(owner)
    return f"the root's policy on publishers does not let {who} publish {name!r}: {why}"


def _why_published(screen: Screen, holding: Holding[Seed]) -> list[str]:
    """What the policy on publishers has to do with a name."""
    text, owner = screen.members.trust.publishers.text, holding.holder.owner
    refused = screen.situation.refused_by_name.get(holding.name, ())
    why = [_why_refused(screen, holding.name, each) for each in refused]
    if text:
        who = screen.members.name_of(owner)
        why.append(f"the root's policy on publishers lets {who} publish it: {text}")
    return why


def _why_so_many(
    holding: Holding[Seed],
    seed: Seed,
    snapshot: Snapshot,
    placement: Placement,
    hosts: Collection[Host],
) -> list[str]:
    need, demand = snapshot.needs[seed.seed], snapshot.demand[seed.seed]
    able = sum(
        may_rank(need, facts, snapshot.standings[seed.seed].get(node))
        for node, facts in snapshot.nodes.items()
    )
    why = [f"{able} of {len(snapshot.nodes)} live nodes may host it"]
    if need.everywhere:
        return [*why, "--everywhere: all of them should"]
    why.append(f"--min-replicas asks for {need.copies}")
    if demand:
        grow, shrink = limits.GROW_BP / 100, limits.SHRINK_BP / 100
        busy = sum(demand.values()) / 1000
        why.append(f"calls from {len(demand)} node(s) keep {busy:.2f} slots of its hosts busy")
        why.append(f"it grows when that is over {grow:g} % of them, and shrinks under {shrink:g} %")
    else:
        why.append("nobody has called it lately")
    standings = snapshot.standings[seed.seed].values()
    away = sum(standing is Standing.AWAY for standing in standings)
    if away:
        why.append(f"{away} of them on the disks of nodes that left and are awaited")
    elif placement.wanted < need.copies:
        qualify = {0: "no node qualifies", 1: "only 1 node qualifies"}
        why.append(qualify.get(able, f"only {able} nodes qualify"))
    return why + _cures(holding, need, able, hosts)


def _why_halted(screen: Screen, holding: Holding[Seed], seed: Seed) -> list[str]:
    """Who found the newest version at fault, and for what."""
    if seed is holding.holder:
        return []
    newest, name = holding.holder.seed, holding.name
    why = [f"the newest version {newest.hex()[:8]} is halted; this one serves on"]
    for host in screen.situation.claims.hosts(newest):
        if host.state is State.REFUSED and host.claim.is_fault:
            why.append(f"{screen.members.name_of(host.node)} refused it: {host.reason}")
    return [*why, f"what it logged: pln logs --seed {name}; mended: pln seed FILE {name}"]


def _why_waits(screen: Screen, holding: Holding[Seed]) -> list[str]:
    """That the version before answers, while the newest one is ready nowhere."""
    newest, seed = screen.situation.serving(holding), screen.situation.answering(holding)
    if seed is newest:
        return []
    return [f"the version before, {seed.seed.hex()[:8]}, serves on until a host is ready"]


def _cures(holding: Holding[Seed], need: Need, able: int, hosts: Collection[Host]) -> list[str]:
    """What to do when there are fewer hosts than are asked for."""
    cures = []
    if need.gate and (able == 0 or able < need.copies):
        cures.append(f"a node that may: {_invite_text(need.gate)}")
    if need.policy is not None and (able == 0 or able < need.copies):
        cures.append(f"--host-if asks for: {need.policy.text}")
        cures.append("a node that may: pln grant NODE --prop key=value, on an admin's node")
    if need.readers is not None and (able == 0 or able < need.copies):
        cures.append(f"--allow asks of its readers, and so of its holders: {need.readers.text}")
    if need.is_on_disk and any(host.reason.startswith("no room") for host in hosts):
        cures.append("room on the disk of the node that refused, or another node")
    elif any(host.state is State.REFUSED and host.reason.startswith("no room") for host in hosts):
        cures.append("room for guests, on the node that refused: pln set memory_bytes SIZE")
        cures.append(f"or a smaller limit: pln seed FILE {holding.name} --memory SIZE")
    if any(host.state is State.REFUSED and host.reason.startswith("check ") for host in hosts):
        cures.append(
            f"what its check logged, on the node that refused: pln logs --seed {holding.name}"
        )
    return cures


def _invite_text(pairs: Iterable[tuple[str, str]]) -> str:
    """How a node comes by properties: they are in its certificate, and it cannot change them."""
    props = " ".join(f"--prop {key}={value}" for key, value in pairs)
    return f"pln invite {props}, then there: pln join TOKEN"


def _rank_view(
    screen: Screen,
    member: Member,
    seed: Hash,
    snapshot: Snapshot,
    placement: Placement,
    host: Host | None,
) -> RankView:
    node = member.peer
    facts = snapshot.nodes.get(node)
    standing = snapshot.standings[seed].get(node)
    is_origin = node in snapshot.demand[seed]
    rank = placement.ranks.index(node) + 1 if node in placement.ranks else 0
    cost, bonus = 0, []
    if facts is not None and may_rank(snapshot.needs[seed], facts, standing):
        cost = bid_of(seed, node, facts, snapshot.needs[seed], standing, is_origin)
        bonus = ["serves already"] if standing is Standing.INCUMBENT else []
        bonus += ["calls begin there"] if is_origin else []
    return RankView(
        node=node.hex(),
        name=member.info.name,
        rank=rank,
        chosen=node in placement.chosen,
        cost=cost,
        memory_mib=0 if facts is None else facts.weight(snapshot.needs[seed].takes),
        slots=0 if facts is None else facts.slots,
        bonus=bonus,
        claim="" if host is None else host.state.label,
        policy=_parts_of(snapshot.needs[seed].policy, member.certificate.party),
        reason=_why_rank(member, snapshot, seed, host, rank, placement),
    )


def _why_closed(info: NodeInfo) -> str:
    if info.phase != Phase.UP:
        return "it is leaving"
    if info.restarts >= limits.RESTARTS_QUARANTINE:
        return f"it began {info.restarts} times in 10 m without a good end"
    return "its brain stalls"


def _why_rank(
    member: Member,
    snapshot: Snapshot,
    seed: Hash,
    host: Host | None,
    rank: int,
    placement: Placement,
) -> str:
    need, facts = snapshot.needs[seed], snapshot.nodes.get(member.peer)
    if snapshot.standings[seed].get(member.peer) is Standing.AWAY:
        return _AWAITED
    if facts is None:
        return "it is offline or left"
    if host is not None and host.state is State.REFUSED:
        return f"it refused: {host.reason}"
    if not facts.is_open:
        return _why_closed(member.info)
    if not match_gate(need.gate, facts.properties):
        return f"it lacks a property of its host: {_gate_text(need.gate)}"
    if need.policy is not None and not need.policy.passes(facts.party):
        return f"--host-if is not true of it: {_culprits_text(need.policy, facts.party)}"
    if need.readers is not None and not need.readers.passes(facts.party):
        return f"--allow is not true of it: {_culprits_text(need.readers, facts.party)}"
    if host is not None and host.state is State.LOADING and rank == 0:
        return "it has been loading for too long"
    if 0 < rank <= placement.wanted:
        is_late = host is not None and host.state is State.LOADING and host.reason
        late = f"; it still loads: {host.reason}" if host is not None and is_late else ""
        return f"rank {rank} of {placement.wanted} wanted{late}"
    if rank:
        return f"next in line, rank {rank}"
    return "others bid less"


def _gate_text(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{key}={value}" for key, value in pairs)


def _parts_of(policy: Policy | None, party: Party) -> list[PartView]:
    parts: list[Part] = [] if policy is None else policy.parts(party)
    return [PartView(depth=part.depth, text=part.text, value=part.value) for part in parts]


def _culprits_text(policy: Policy, party: Party) -> str:
    """The parts that keep a policy from being true, each with its value."""
    return "; ".join(f"{part.text} is {part.value}" for part in policy.culprits(party))


def why_call(screen: Screen, command: WhyCallCommand, price: Price) -> WhyCall | Refusal:
    """The answer to ``WhyCallCommand``; hosts nearest first, as a call tries them."""
    holding = _named(screen, command.target)
    if isinstance(holding, Refusal):
        return holding
    seed = screen.situation.answering(holding)
    function = command.function or (seed.spec.functions[0] if len(seed.spec.functions) == 1 else "")
    if function not in seed.spec.functions:
        what = f"no function {function!r}" if function else f"{len(seed.spec.functions)} functions"
        names = ", ".join(seed.spec.functions)
        return Refusal("function-not-found", f"{holding.name} has {what}", f"name one of: {names}")
    own = screen.members.find(screen.node)
    party = STRANGER if own is None else own.certificate.party
    linked = {screen.node}
    if screen.telemetry is not None:
        linked |= {sample.peer for sample in screen.telemetry.peers}
    hosts = screen.situation.claims.hosts(seed.seed)
    ways = [_way_view(screen, host, price, host.node in linked) for host in hosts]
    ways.sort(key=lambda way: (way.state not in _CALLED, way.price_us, way.node))
    has_properties = match_gate(seed.spec.allow, party.properties)
    is_true = seed.allow_if is None or seed.allow_if.passes(party)
    return WhyCall(
        name=holding.name,
        seed=seed.seed.hex(),
        function=function,
        publisher=seed.owner.hex(),
        name_epoch=seed.spec.name_epoch,
        allowed=has_properties and is_true,
        why=[
            *_why_version(screen, holding, seed),
            *_why_published(screen, holding),
            *([] if has_properties else _why_gated(seed)),
            *([] if is_true or seed.allow_if is None else _why_false(seed.allow_if, party)),
            *screen.services.why_asked(seed, [host.node for host in hosts]),
            _why_way(ways),
        ],
        ways=ways,
        policy=_parts_of(seed.allow_if, party),
    )


_CALLED = (State.READY.label, State.DRAINING.label)


def _way_view(screen: Screen, host: Host, price: Price, is_linked: bool) -> WayView:
    micros, source = price(host.node)
    return WayView(
        node=host.node.hex(),
        name=screen.members.name_of(host.node),
        price_us=micros,
        price_source=source,
        linked=is_linked,
        state=host.state.label,
        reason=host.reason,
    )


def _why_version(screen: Screen, holding: Holding[Seed], seed: Seed) -> list[str]:
    owner = screen.members.name_of(seed.owner)
    why = [f"{holding.name} is version {seed.spec.name_epoch} of {owner}, {seed.seed.hex()[:8]}"]
    newest = holding.holder.seed
    if newest in screen.situation.halted:
        why.append(f"the newest version {newest.hex()[:8]} is halted")
    elif seed is not holding.holder:
        text = f"the newest version {newest.hex()[:8]} is ready nowhere, and this one serves on"
        why.append(f"{text}; see: pln why place {holding.name}")
    if holding.shadowed:
        why.append(f"{len(holding.shadowed)} other owner(s) publish the name and are shadowed")
    return why


def _why_gated(seed: Seed) -> list[str]:
    return [
        f"this node may not call it: it lacks {_gate_text(seed.spec.allow)}",
        f"a node that may: {_invite_text(seed.spec.allow)}",
    ]


def _why_false(policy: Policy, party: Party) -> list[str]:
    return [
        f"this node may not call it: --allow is not true of it: {_culprits_text(policy, party)}",
        "an admin changes what it is: pln grant NODE --prop key=value",
    ]


def _why_way(ways: list[WayView]) -> str:
    """Where among the hosts a call goes."""
    callable_ways = [way for way in ways if way.state in _CALLED]
    if not callable_ways:
        return "no host is ready: a call waits for one, up to 10 s"
    if not any(way.linked for way in callable_ways):
        return "no host is linked: a call asks for a link and waits for it, up to 5 s"
    if len(callable_ways) == 1:
        return "there is one host, so that it is not compared with any other"
    return (
        "the nearest is compared with one drawn from the others: price plus what waits there; "
        "hosts that fell silent, are full or were tried are left out"
    )
