"""What follows from the records and who is alive: names, roles, claims that count, and the plan.

Decides: which projections a change touches, and brings those up to date.
Does not know: effects; how records came; what is done about a projection.
Invariants: every projection is a function of the records, the live members and the wall clock (for
    overdue claims), whatever the order in which they came. A change costs what it touches: no
    projection is rebuilt whole.
Source: docs/design/protocol.md#names-and-specs, docs/design/protocol.md#placement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from pollen.core import limits
from pollen.core.codec import Rejection
from pollen.core.ids import Hash, Nanos, Now, PeerId
from pollen.core.kinds import ACCUSE, ACT, CLAIM, FAST, GC, NODE, REFUTE, SPEC
from pollen.core.names import Holding, check_may_seed, resolve
from pollen.core.peers import Facts, Membership, Verdict
from pollen.core.placement.bundle import Bundles
from pollen.core.placement.claims import Claims, State, is_halted, is_homeless
from pollen.core.placement.demand import bucket_of, value_of
from pollen.core.placement.overdue import Overdue
from pollen.core.placement.plan import NodeFacts, Placement, Standing, effective_version
from pollen.core.placement.planner import Planner
from pollen.core.placement.roles import Role, need_of, roles_of
from pollen.core.records import Change, Record, as_buried
from pollen.core.seeds import Seed, decode_seed
from pollen.core.trust import Certificate, Member, Members
from pollen.core.work import taken


def _live_owner(holding: Holding[Seed] | None) -> PeerId | None:
    return holding.holder.owner if holding is not None and holding.is_live else None


# What becomes of a record of one kind: a member that follows from it, or the fault in it.
Projection = Callable[[Record, Nanos], Member | Rejection | None]


class Situation:
    """The projections of one node."""

    def __init__(self, own: PeerId, members: Members, membership: Membership) -> None:
        self._own = own
        self._members = members
        self._membership = membership
        self._specs: dict[str, dict[PeerId, Seed]] = {}
        self._named_by: dict[PeerId, dict[str, None]] = {}
        self._stale_names: dict[str, None] = {}
        self._stale_nodes: dict[PeerId, None] = {}
        self.halted: dict[Hash, None] = {}
        self._homeless: dict[Hash, None] = {}
        self._demand: dict[Hash, dict[PeerId, int]] = {}
        self._called_from: dict[PeerId, dict[Hash, int]] = {}
        self._wall = Nanos(0)
        self._loading = Overdue()
        self._touched: dict[Hash, None] = {}
        self._touched_peers: dict[PeerId, None] = {}
        self.is_stale = True
        self.names: dict[str, Holding[Seed]] = {}
        # Who publishes a name and does not count, because of the root's policy on publishers.
        self.refused_by_name: dict[str, list[PeerId]] = {}
        self._policy = members.trust.publishers.counts
        self.roles: dict[Hash, Role] = {}
        self._able: Mapping[PeerId, int] = {}
        self.live: dict[PeerId, int] = {}
        self.claims = Claims()
        self.bundles = Bundles()
        self.planner = Planner()
        self.kinds = self._projections()

    # -- records --------------------------------------------------------------------------------

    def note_change(self, change: Change, now: Nanos) -> Member | Rejection | None:
        """A record changed: a member that follows from it, or the fault in it."""
        kind = change.record.body.kind
        if kind == NODE and change.is_gone:
            self._forget_member(change.record)
            return None
        if kind == CLAIM and change.is_gone:
            self.claims.end_run(change.record)
            return None
        record = as_buried(change.record) if change.is_gone else change.record
        take = self.kinds.get(kind)
        return None if take is None else take(record, now)

    def _projections(self) -> dict[str, Projection]:
        """Who takes which kind of record. ``GC`` and ``ACT`` say nothing that follows."""
        return {
            **dict.fromkeys(Members.KINDS, self._note_member),
            ACCUSE: self._note_evidence,
            REFUTE: self._note_evidence,
            CLAIM: lambda record, now: self.claims.apply(record),
            FAST: lambda record, now: self._note_fast(record),
            SPEC: lambda record, now: self._note_spec(record),
            GC: lambda record, now: None,
            ACT: lambda record, now: None,
        }

    def _note_member(self, record: Record, now: Nanos) -> Member | Rejection | None:
        """A record of ``Members.KINDS``: membership hears of a member's epoch and phase."""
        member = self._members.apply(record)
        if isinstance(member, Member):
            self._note_alive(member, now)
            self.note_member(member.peer)
        return member

    def _note_alive(self, member: Member, now: Nanos) -> None:
        info = member.info
        facts = Facts(epoch=member.epoch, phase=info.phase, restarts=info.restarts)
        self._membership.note_member(member.peer, facts, now)

    def _forget_member(self, record: Record) -> None:
        """Its owner was buried: nobody any more, though what it published goes on."""
        peer = record.body.owner
        if peer == self._own:
            # A gc_version from before our disk was lost: we say it again at once, above that.
            return
        self._members.forget(peer)
        self._membership.forget_member(peer)
        self.note_member(peer)

    def note_standing(self, peer: PeerId, now: Nanos) -> None:
        """The certificate or the lease of a key came, changed or ended."""
        self.note_member(peer)
        self.claims.look_again(peer)
        self._stale_names.update((name, None) for name in self._named_by.get(peer, ()))
        member = self._members.find(peer)
        if self._members.trust.is_denied(peer):
            self._membership.forget_member(peer)
        elif member is not None:
            # One that was let in again says nothing new of itself: what it said counts again.
            self._note_alive(member, now)

    def note_member(self, peer: PeerId) -> None:
        """What a member says of itself changed."""
        self.is_stale = True
        self._stale_nodes[peer] = None
        self._touched_peers[peer] = None

    def _note_evidence(self, record: Record, now: Nanos) -> Rejection | None:
        return self._membership.note_record(record, now)

    def _note_fast(self, record: Record) -> Rejection | None:
        """Fast values; where their owner is, which it says seldom, is its price while unlinked."""
        peer = record.body.owner
        before = self.bundles.place_of(peer)
        fault = self.bundles.apply(record)
        self._stale_nodes[peer] = None
        if self.bundles.place_of(peer) != before:
            self._touched_peers[peer] = None
        return fault

    def _note_spec(self, record: Record) -> Rejection | None:
        if record.is_opaque:
            return None
        owner, name = record.body.owner, record.body.key.decode("utf-8", "replace")
        seed: Seed | Rejection | None = None
        if record.is_live:
            seed = decode_seed(owner, record.body.payload)
            if isinstance(seed, Seed) and seed.spec.name.encode() != record.body.key:
                seed = Rejection("spec-key", seed.spec.name)
        held = self._specs.setdefault(name, {})
        self._named_by.setdefault(owner, {})[name] = None
        if isinstance(seed, Seed):
            held[owner] = seed
        else:
            held.pop(owner, None)
        self._stale_names[name] = None
        return seed if isinstance(seed, Rejection) else None

    # -- bringing up to date --------------------------------------------------------------------

    def refresh(self, now: Now) -> None:
        """Bring every projection but the plan up to date; the planner is told what changed."""
        self._wall = now.wall
        policy = self._members.trust.publishers.counts
        if policy is not self._policy:
            self._policy = policy
            self._stale_names.update(dict.fromkeys(self._specs))
        if self.is_stale:
            self._refresh_live()
        self._refresh_names()
        self._refresh_claims(now.wall)
        # A version that was halted, or is no more, changes the roles of its name.
        self._refresh_names()
        self._refresh_nodes()

    def _refresh_live(self) -> None:
        self.is_stale = False
        live = self._members.current_of(self._membership.live)
        able = self._membership.able
        held, self.live = self.live, live
        was_able, self._able = self._able, able
        for peer in [*(p for p in held if p not in live), *live]:
            epoch = live.get(peer)
            if held.get(peer) != epoch:
                self.claims.set_live(peer, epoch)
                self.bundles.set_live(peer, epoch)
                self._touched_peers[peer] = None
            elif (peer in able) == (peer in was_able):
                continue
            self._stale_nodes[peer] = None

    def _refresh_names(self) -> None:
        for name in taken(self._stale_names, limits.PLACE_SLICE_SEEDS):
            specs = self._specs.get(name, {})
            seeds = [specs[owner] for owner in sorted(specs)]
            publishers, members = self._members.trust.publishers, self._members.certificates
            holding = resolve(seeds, members, publishers.lets).get(name)
            self._note_refused(name, seeds)
            held = self.names.get(name)
            before = self._roles_of(held)
            if holding is None:
                self.names.pop(name, None)
            else:
                self.names[name] = holding
            self._set_roles(before, self._roles_of(holding))
            for known in (held, holding):
                if known is not None:
                    self._check_halted(known.holder.seed)

    def _note_refused(self, name: str, seeds: Sequence[Seed]) -> None:
        """Whom the policy on publishers keeps from having a name that it publishes."""
        self.refused_by_name.pop(name, None)
        publishers, members = self._members.trust.publishers, self._members.certificates
        if publishers.counts is None:
            return
        owners = [seed.owner for seed in seeds if not seed.is_withdrawn]
        able = [o for o in owners if o in members and check_may_seed(members[o]) is None]
        refused = [owner for owner in able if not publishers.lets(name, members[owner])]
        if refused:
            self.refused_by_name[name] = refused

    def _roles_of(self, holding: Holding[Seed] | None) -> list[Role]:
        if holding is None:
            return []
        newest = holding.holder.seed
        is_halted, is_homeless = newest in self.halted, newest in self._homeless
        return roles_of(holding, is_halted, is_homeless)

    def _set_roles(self, before: list[Role], after: list[Role]) -> None:
        for role in before:
            key = role.seed.seed
            self._touched[key] = None
            if self.roles.get(key) == role:
                del self.roles[key]
        for role in after:
            key = role.seed.seed
            self._touched[key] = None
            # A seed that one name serves and another has replaced is one to serve.
            if key not in self.roles or role.heir == key:
                self.roles[key] = role
        for role in (*before, *after):
            self._set_need(role.seed.seed)

    def _set_need(self, key: Hash) -> None:
        role = self.roles.get(key)
        if role is None or role.heir != key:
            self.planner.set_need(key, None)
            return
        is_new = self.planner.placement(key) is None
        self.planner.set_need(key, need_of(role.seed))
        if not is_new:
            return
        for node in self.claims.nodes_of(key):
            self.planner.set_standing(key, node, self._standing(key, node, self._wall))
        for origin, milli in self._demand.get(key, {}).items():
            self.planner.set_demand(key, origin, milli)

    def _refresh_claims(self, wall: Nanos) -> None:
        for key, node in taken(self.claims.changed, 4 * limits.PLACE_SLICE_SEEDS):
            self._loading.set((key, node), self.claims.changes_at(key, node))
            self.planner.set_standing(key, node, self._standing(key, node, wall))
            self._touch_kin(key)
            self._check_halted(key)
        for key, node in self._loading.take_due(wall):
            self.planner.set_standing(key, node, self._standing(key, node, wall))

    def _standing(self, key: Hash, node: PeerId, wall: Nanos) -> Standing | None:
        """Nobody waits for who was put out."""
        standing = self.claims.standing(key, node, wall)
        is_out = standing is Standing.AWAY and self._members.trust.is_denied(node)
        return None if is_out else standing

    @property
    def next_overdue(self) -> int | None:
        """The wall time at which some host's loading is overdue, if any is loading."""
        return self._loading.first

    def _touch_kin(self, key: Hash) -> None:
        """The seed, and those of the same name, whose rows and drains depend on it."""
        self._touched[key] = None
        role = self.roles.get(key)
        if role is not None:
            for kin in self._roles_of(self.names.get(role.name)):
                self._touched[kin.seed.seed] = None

    def _check_halted(self, key: Hash) -> None:
        role = self.roles.get(key)
        holding = None if role is None else self.names.get(role.name)
        if holding is None or holding.holder.seed != key or holding.holder.previous is None:
            self.halted.pop(key, None)
            self._homeless.pop(key, None)
            return
        hosts, before = self.claims.hosts(key), None
        for held, is_now in (
            (self.halted, is_halted(hosts)),
            (self._homeless, is_homeless(hosts)),
        ):
            if is_now == (key in held):
                continue
            before = before or self._roles_of(holding)
            if is_now:
                held[key] = None
            else:
                del held[key]
        if before is not None:
            self._set_roles(before, self._roles_of(holding))

    def _refresh_nodes(self) -> None:
        for peer in taken(self._stale_nodes, limits.PLACE_SLICE_SEEDS):
            self.planner.set_node(peer, self._facts_of(peer))
            fast = self.bundles.counted.get(peer)
            told = {} if fast is None else {row.seed: row.milli for row in fast.demand}
            for key in [k for k in self._called_from.pop(peer, {}) if k not in told]:
                del self._demand[key][peer]
                self.planner.set_demand(key, peer, None)
            for key, milli in told.items():
                self._demand.setdefault(key, {})[peer] = milli
                self.planner.set_demand(key, peer, milli)
            if told:
                self._called_from[peer] = told

    def _facts_of(self, peer: PeerId) -> NodeFacts | None:
        member = self._members.find(peer)
        if peer not in self.live or member is None:
            return None
        fast, info = self.bundles.counted.get(peer), member.info
        stated = value_of(bucket_of(info.memory_bytes))
        return NodeFacts(
            memory_bytes=stated if fast is None else fast.free_bytes,
            disk_bytes=0 if fast is None else fast.disk_bytes,
            slots=1 if fast is None else fast.slots,
            properties=member.certificate.properties,
            tier=member.certificate.party.tier,
            id=peer.hex(),
            is_open=peer in self._able,
            is_busy=fast is not None and fast.is_busy,
            plan_version=info.plan_version,
        )

    # -- what changed, and views ----------------------------------------------------------------

    def touch(self, key: Hash) -> None:
        """Something about this seed is to be looked at again."""
        self._touched[key] = None

    def take_touched(self) -> list[Hash]:
        """Seeds about which something changed and was not looked at, the plan included."""
        for key in self.planner.take_changed():
            self._touched[key] = None
            role = self.roles.get(key)
            if role is not None and role.elder is not None:
                self._touched[role.elder] = None
        return taken(self._touched, limits.PLACE_SLICE_SEEDS)

    @property
    def has_work(self) -> bool:
        """True while some projection, or what follows from it, is not up to date."""
        return bool(
            self._touched
            or self._stale_names
            or self._stale_nodes
            or self.claims.changed
            or self.planner.has_work
        )

    def take_touched_peers(self) -> list[PeerId]:
        """The peers about which something changed since the last call."""
        touched, self._touched_peers = self._touched_peers, {}
        return list(touched)

    def has_left(self, peer: PeerId) -> bool:
        """Whether a member said so itself."""
        return self._membership.verdict_of(peer) is Verdict.LEFT

    def moved(
        self, may: Callable[[str, Certificate], bool]
    ) -> list[tuple[str, PeerId | None, PeerId | None]]:
        """The names that another policy on publishers would move, by name: who has each live now,
        and who would have it then."""
        found = []
        for name in sorted(self._specs):
            seeds = [self._specs[name][owner] for owner in sorted(self._specs[name])]
            then = resolve(seeds, self._members.certificates, may).get(name)
            before, after = _live_owner(self.names.get(name)), _live_owner(then)
            if before != after:
                found.append((name, before, after))
        return found

    def top_epoch(self, name: str) -> int:
        """The highest epoch under a name of who has the tier, refused by the policy or not."""
        members, specs = self._members.certificates, self._specs.get(name, {})
        able = [o for o in specs if o in members and check_may_seed(members[o]) is None]
        return max((specs[owner].name_epoch for owner in able), default=0)

    def fallen(self, name: str, owner: PeerId) -> Seed | None:
        """What somebody publishes under a name and the policy on publishers does not count."""
        is_refused = owner in self.refused_by_name.get(name, ())
        return self._specs.get(name, {}).get(owner) if is_refused else None

    def refused(self) -> list[tuple[str, PeerId]]:
        """The names that do not count because of the policy on publishers, with who publishes."""
        return sorted((n, owner) for n, owners in self.refused_by_name.items() for owner in owners)

    def held_by(self, peers: Collection[PeerId]) -> tuple[list[str], int]:
        """The names that these members publish, and how many replicas they host."""
        names = [name for name, held in self.names.items() if held.holder.owner in peers]
        return sorted(names), sum(self.claims.count(peer, State.READY) for peer in peers)

    def is_called(self, key: Hash) -> bool:
        """Whether some other member lists a seed among those that it called lately."""
        return bool(self._demand.get(key, {}).keys() - {self._own})

    def touch_all(self) -> None:
        """Every seed is to be looked at again."""
        self._touched.update(dict.fromkeys(self.roles))

    def serving(self, holding: Holding[Seed]) -> Seed:
        """What a name leads to: the version before while the newest is halted."""
        roles = self._roles_of(holding)
        return roles[0].seed if roles else holding.holder

    def answering(self, holding: Holding[Seed]) -> Seed:
        """What a call of a name gets: while no host has the version that is to serve, the one that
        it takes over from."""
        serving = self.serving(holding)
        role = self.roles.get(serving.seed)
        elder = None if role is None or role.elder is None else self.roles.get(role.elder)
        callable_in = (State.READY, State.DRAINING)
        if elder is None or self.claims.nodes_in(serving.seed, *callable_in):
            return serving
        return elder.seed if self.claims.nodes_in(elder.seed.seed, *callable_in) else serving

    def plan_version(self) -> int:
        """The plan version in force."""
        members = (self._members.find(peer) for peer in self.live)
        return effective_version(m.info.plan_version for m in members if m is not None)

    def placement(self, key: Hash) -> Placement | None:
        """Where a seed should run, as far as the plan is up to date."""
        return self.planner.placement(key)
