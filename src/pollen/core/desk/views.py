"""What a person sees: one screen of status, projected from the state.

Decides: the words of the health line, warnings and hints.
Does not know: how the state came about; it changes nothing.
Invariants: pure; the same state gives the same screen.
Source: docs/design/cli.md#status (health line first, then sections, hints last).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from pollen.core import limits
from pollen.core.commands import (
    BeforeView,
    ClockView,
    NodeView,
    OwnFigures,
    ReplicaView,
    SeedState,
    SeedView,
    Status,
)
from pollen.core.events import PeerSample, SeedSample, Telemetry
from pollen.core.figures import Figures, SeedFigures
from pollen.core.ids import MILLISECOND, ClusterId, Hash, Nanos, PeerId, short
from pollen.core.labels import read_denier
from pollen.core.names import Holding
from pollen.core.paths import Paths
from pollen.core.placement import Host, Situation, State
from pollen.core.seeds import Seed, options_view, read_description
from pollen.core.services import Services
from pollen.core.trust import Member, Members, Tier


class Screen(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a status is a projection of."""

    node: PeerId
    cluster: ClusterId
    version: str
    has_root: bool
    members: Members
    situation: Situation
    paths: Paths
    services: Services
    telemetry: Telemetry | None
    disk: str
    twins: Sequence[PeerId]
    frozen: Sequence[PeerId]
    shut_out: Mapping[PeerId, str]
    rejections: Mapping[str, int]
    started: Nanos
    pushed: Nanos
    now: Nanos
    clock: ClockView
    is_pinned: Callable[[str], bool]


def status_view(screen: Screen) -> Status:
    """The answer to ``StatusCommand``."""
    telemetry = screen.telemetry
    links = {sample.peer: sample for sample in telemetry.peers} if telemetry else {}
    calls = {sample.seed: sample for sample in telemetry.seeds} if telemetry else {}
    nodes = [_node_view(screen, m, links.get(m.peer)) for m in screen.members.all_members()]
    nodes.sort(key=lambda n: (n.state != "self", n.state != "online", n.name, n.node))
    names = screen.situation.names
    live = [names[name] for name in sorted(names) if names[name].is_live]
    seeds = [_seed_view(screen, holding, calls) for holding in live]
    warnings = _warnings(screen, nodes, seeds)
    own = screen.members.find(screen.node)
    is_in = not screen.shut_out and not any(n.state == "offline" for n in nodes)
    is_in = is_in and not screen.disk and not _has_no_admin(screen)
    is_healthy = is_in and all(s.ready >= s.wanted and not _is_homeless(s) for s in seeds)
    return Status(
        cluster=screen.cluster.hex(),
        node=screen.node.hex(),
        name=own.info.name if own else short(screen.node),
        version=screen.version,
        healthy=is_healthy,
        summary=summary_line(is_healthy, nodes, seeds, len(warnings)),
        warnings=warnings,
        hints=_hints(screen, nodes, seeds),
        nodes=nodes,
        seeds=seeds,
        uptime_ms=(screen.now - screen.started) // MILLISECOND,
        view_age_ms=max(0, screen.now - screen.pushed) // MILLISECOND,
        memory_bytes=telemetry.memory_bytes if telemetry else 0,
        rejections={kind: screen.rejections[kind] for kind in sorted(screen.rejections)},
        events_dropped=telemetry.events_dropped if telemetry else 0,
        control_stalls=telemetry.control_stalls if telemetry else 0,
        member_until_unix_ms=screen.members.trust.ends(screen.node) // MILLISECOND,
        shut_out=sorted(map(screen.members.name_of, screen.shut_out)),
        denied_by=denied_by(screen),
        clock=screen.clock,
    )


def figures_view(screen: Screen, *, with_nodes: bool) -> OwnFigures:
    """The answer to ``FiguresCommand``: made of the samples of what ran here, and of no other seed.

    A seed that no name leads to any more, or that never ran here, is left out.
    """
    telemetry, situation = screen.telemetry, screen.situation
    seeds = []
    for sample in telemetry.seeds if telemetry else ():
        role, calls = situation.roles.get(sample.seed), sample.good + sample.failures
        holding = None if role is None else situation.names.get(role.name)
        is_served = holding is not None and holding.is_live
        if holding is None or not is_served or situation.serving(holding).seed != sample.seed:
            continue
        if calls or sample.in_flight or sample.queued:
            seeds.append(
                SeedFigures(
                    name=holding.name,
                    calls=calls,
                    failures=sample.failures,
                    in_flight=sample.in_flight,
                    queued=sample.queued,
                    run_us=sample.run_us,
                )
            )
    seeds.sort(key=lambda seed: seed.name)
    figures = Figures(
        uptime_ms=(screen.now - screen.started) // MILLISECOND,
        memory_bytes=telemetry.memory_bytes if telemetry else 0,
        seeds=seeds,
    )
    found = (screen.members.find(peer) for peer in {screen.node, *situation.live})
    nodes = [_node_view(screen, m, None) for m in found if m is not None] if with_nodes else []
    nodes.sort(key=lambda n: (n.state != "self", n.name, n.node))
    return OwnFigures(figures=figures, nodes=nodes)


def seed_state(screen: Screen, name: str) -> SeedState:
    """The answer to ``WaitSeedCommand``: one seed by its name, and the warnings about it."""
    holding = screen.situation.names.get(name)
    if holding is None or not holding.is_live:
        return SeedState()
    telemetry = screen.telemetry
    view = _seed_view(screen, holding, {s.seed: s for s in telemetry.seeds} if telemetry else {})
    described = read_description(screen.situation.serving(holding).description)
    return SeedState(seed=view, warnings=_seed_warnings(screen, view), description=described)


def summary_line(
    is_healthy: bool, nodes: Sequence[NodeView], seeds: Sequence[SeedView], warnings: int
) -> str:
    """``healthy: 3 of 3 nodes, 4 seeds, 8 replicas; 1 warning``."""
    expected = [node for node in nodes if node.state != "left"]
    here = sum(node.state != "offline" for node in expected)
    replicas = sum(seed.ready + (seed.before.ready if seed.before else 0) for seed in seeds)
    parts = [
        f"{here} of {_count(len(expected), 'node')}",
        _count(len(seeds), "seed"),
        _count(replicas, "replica"),
    ]
    tail = f"; {_count(warnings, 'warning')}" if warnings else ""
    return f"{'healthy' if is_healthy else 'degraded'}: {', '.join(parts)}{tail}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _node_view(screen: Screen, member: Member, sample: PeerSample | None) -> NodeView:
    is_self = member.peer == screen.node
    is_live = member.peer in screen.situation.live
    ready = screen.situation.claims.count(member.peer, State.READY)
    fast = screen.situation.bundles.counted.get(member.peer)
    view = NodeView(
        node=member.peer.hex(),
        name=member.info.name,
        state="self" if is_self else "online" if is_live else absence_of(screen, member.peer),
        tier=Tier(member.certificate.tier).label,
        properties=member.certificate.properties,
        addresses=member.info.addresses,
        version=member.info.version,
        ready=ready,
        memory_bytes=member.info.memory_bytes,
        disk_bytes=0 if fast is None else fast.disk_bytes,
    )
    if sample is None:
        return view
    path, path_ms = path_of(screen, member.peer, sample)
    return msgspec.structs.replace(
        view,
        path=path,
        path_ms=path_ms,
        rtt_us=sample.rtt_us,
        bytes_out=sample.bytes_out,
        bytes_in=sample.bytes_in,
        direct=sample.direct,
    )


def path_of(screen: Screen, peer: PeerId, sample: PeerSample | None) -> tuple[str, int]:
    """How packets to a member go, and for how many milliseconds they have; empty without a link."""
    state = screen.paths.state(peer)
    if state is None:
        return "", 0
    since_ms = (screen.now - state.since) // MILLISECOND
    if state.address or (sample is not None and sample.direct):
        return "direct", since_ms
    hops = screen.paths.hops(peer)
    via = (sample.via if sample is not None else b"") or (hops[0] if hops else b"")
    return f"via {screen.members.name_of(PeerId(via)) if via else '?'}", since_ms


def absence_of(screen: Screen, peer: PeerId) -> str:
    """``left`` in good order is nothing to mend; whoever is ``offline`` is missed."""
    return "left" if screen.situation.has_left(peer) else "offline"


def _seed_view(
    screen: Screen, holding: Holding[Seed], samples: Mapping[Hash, SeedSample]
) -> SeedView:
    situation = screen.situation
    seed = situation.serving(holding)
    sample = samples.get(situation.answering(holding).seed)
    spec, is_halted = seed.spec, seed is not holding.holder
    hosts = situation.claims.hosts(seed.seed)
    at_fault = situation.claims.hosts(holding.holder.seed) if is_halted else []
    placement = situation.placement(seed.seed)
    view = SeedView(
        name=holding.name,
        seed=seed.seed.hex(),
        content=spec.content.hex(),
        size_bytes=spec.size_bytes,
        functions=spec.functions,
        publisher=seed.owner.hex(),
        publisher_name=screen.members.name_of(seed.owner),
        name_epoch=spec.name_epoch,
        ready=sum(host.state is State.READY for host in hosts),
        wanted=0 if placement is None else placement.wanted,
        replicas=[
            *(_replica_view(screen, seed.seed, host) for host in hosts),
            *(_replica_view(screen, holding.holder.seed, host) for host in at_fault),
        ],
        options=options_view(seed.options),
        shadowed=[s.owner.hex() for s in holding.shadowed],
        halted=holding.holder.seed.hex() if is_halted else "",
        before=_before_view(screen, holding, seed),
        kind=seed.kind,
        is_pinned=screen.is_pinned(holding.name),
        manifest={role: content.hex() for role, content in sorted(spec.manifest.items())},
        recipients=_recipients_view(screen, seed),
    )
    if sample is None:
        return view
    return msgspec.structs.replace(
        view,
        calls=sample.good + sample.failures,
        failures=sample.failures,
        cancelled=sample.cancelled,
        in_flight=sample.in_flight,
        queued=sample.queued,
        run_us=sample.run_us,
    )


def _recipients_view(screen: Screen, seed: Seed) -> dict[str, str]:
    """The names of those that it was sealed for; of one that is no member any more its digits."""
    if not seed.recipients:
        return {}
    names = {short(peer): screen.members.name_of(peer) for peer in screen.members.certificates}
    return {digits: names.get(digits, digits) for digits in seed.recipients}


def _before_view(screen: Screen, holding: Holding[Seed], seed: Seed) -> BeforeView | None:
    before = screen.situation.answering(holding)
    if before is seed:
        return None
    hosts = screen.situation.claims.nodes_in(before.seed, State.READY, State.DRAINING)
    return BeforeView(seed=before.seed.hex(), functions=before.spec.functions, ready=len(hosts))


def _replica_view(screen: Screen, seed: Hash, host: Host) -> ReplicaView:
    return ReplicaView(
        seed=seed.hex(),
        node=host.node.hex(),
        name=screen.members.name_of(host.node),
        state=host.state.label,
        reason=host.reason,
    )


def _warnings(screen: Screen, nodes: Sequence[NodeView], seeds: Sequence[SeedView]) -> list[str]:
    """What is wrong, then ``; see:`` and a command, or ``; there:`` and one for that node."""
    offline = [node.name for node in nodes if node.state == "offline"]
    found = [f"node {name} is offline; there: pln up -d" for name in offline]
    for member in screen.members.all_members():
        info = member.info
        if info.restarts >= limits.RESTARTS_QUARANTINE:
            text = f"{info.name} began {info.restarts} times in 10 m without a good end"
            if len(nodes) > 1:
                text += ", and takes no seeds until that is past or it is restarted in good order"
            found.append(f"{text}; there: pln logs")
    if screen.disk:
        found.append(screen.disk)
    if _has_no_admin(screen):
        text = "this cluster has no admin: nobody can invite, grant or deny, and memberships end"
        found.append(f"{text}; see: pln root status")
    if screen.clock.in_doubt:
        days = (screen.clock.wall_unix_ms - screen.clock.raw_unix_ms) / 86_400_000
        text = f"this machine's clock is {days:.1f} days behind what this node has seen"
        found.append(f"{text}, and too few members agree with it; see: pln doctor")
    if screen.shut_out:
        told = sorted(screen.members.name_of(peer) for peer in screen.shut_out)
        names = ", ".join(told[:3])
        more = f" and {len(screen.shut_out) - 3} more" if len(screen.shut_out) > 3 else ""
        text = f"{names}{more} let this node in no more"
        if denier := denied_by(screen):
            text = f"{text}: it was denied by {denier}"
            found.append(f"{text}; on an admin's machine: pln undeny {short(screen.node)}")
        else:
            text = f"{text}: it was denied, or its access ended"
            found.append(f"{text}; on an admin's machine: pln members")
    found += [warning for seed in seeds for warning in _seed_warnings(screen, seed)]
    own = screen.members.find(screen.node)
    if len(nodes) == 1 and own is not None and own.certificate.lineage:
        found.append("no other member has been reached since the start; see: pln doctor")
    for peer in screen.frozen:
        name = screen.members.name_of(peer)
        found.append(f"what {name} says stands still: it holds more than its tier may")
    for peer in screen.twins:
        name = screen.members.name_of(peer)
        found.append(f"two live processes use the key of {name}; there: pln down, in one of both")
    if screen.telemetry and screen.telemetry.events_dropped:
        found.append(f"{screen.telemetry.events_dropped} log lines were dropped")
    return found


def denied_by(screen: Screen) -> str:
    """Who denied this node, as most of those say that let it in no more; empty when none does."""
    told = sorted(filter(None, map(read_denier, screen.shut_out.values())))
    return max(told, key=told.count, default="")


def _has_no_admin(screen: Screen) -> bool:
    """No admin is a member any more, as far as this node knows those above it."""
    trust = screen.members.trust
    own = trust.certificates.get(screen.node)
    if own is None or any(peer in trust.current for peer in trust.admins):
        return False
    known = trust.known()
    return all(peer in known for peer in own.lineage)


def _seed_warnings(screen: Screen, seed: SeedView) -> list[str]:
    found = []
    for replica in seed.replicas:
        if replica.state == "refused":
            text = f"{replica.name} refuses {seed.name}: {replica.reason}"
            found.append(f"{text}; see: pln why place {seed.name}")
    if seed.halted:
        text = f"{seed.name}: version {seed.halted[:8]} is halted, {seed.seed[:8]} serves on"
        found.append(f"{text}; see: pln why place {seed.name}")
    if seed.before is not None:
        text = f"{seed.name}: version {seed.seed[:8]} is ready nowhere"
        text = f"{text}, {seed.before.seed[:8]} serves on"
        found.append(f"{text}; see: pln why place {seed.name}")
    elif _is_homeless(seed):
        found.append(f"no node may host {seed.name}; see: pln why place {seed.name}")
    elif seed.ready == 0 and seed.wanted:
        found.append(f"no replica of {seed.name} is ready; see: pln why place {seed.name}")
    for owner in seed.shadowed:
        name = screen.members.name_of(PeerId(bytes.fromhex(owner)))
        found.append(f"{seed.name} of {name} is shadowed; see: pln inspect {seed.name}")
    return found


def _is_homeless(seed: SeedView) -> bool:
    """It is to run, and no live node is a candidate."""
    is_to_run = seed.options.min_replicas > 0 or seed.options.everywhere
    return is_to_run and seed.wanted == 0 and seed.ready == 0


def _hints(screen: Screen, nodes: Sequence[NodeView], seeds: Sequence[SeedView]) -> list[str]:
    hints = []
    own = screen.members.find(screen.node)
    if len(nodes) == 1 and own is not None and own.certificate.tier == Tier.ADMIN:
        hints.append("add a machine: pln invite, then pln join TOKEN there")
    if not seeds:
        hints.append("run something: pln seed FILE.wasm NAME")
    if screen.has_root and len(nodes) > 1:
        hints.append("the root key is still on this machine; seal a copy: pln root export FILE")
    return hints
