"""Every Hypothesis strategy of the suite, and its profiles.

``fast`` is the default; ``ci`` and ``nightly`` are chosen with HYPOTHESIS_PROFILE.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pollen.core.admission import Invite
from pollen.core.codec import encode
from pollen.core.events import SignedRecord
from pollen.core.ids import ClusterId, PeerId, hash_of
from pollen.core.peers.liveness import Accusation, Refutation
from pollen.core.placement import Need, NodeFacts, Standing
from pollen.core.placement.plan import Takes
from pollen.core.policy import HOSTS, Node, Policy, Scope, parse
from pollen.core.records import Record, decode_record
from pollen.core.records.record import Body, gc_key
from pollen.core.rng import Rng
from pollen.core.seeds.specs import Spec
from pollen.core.trust import Certificate
from pollen.core.trust.publishers import PublisherPolicy
from tests.unit.world import make_key, sign_with

_CALM = [HealthCheck.too_slow]
settings.register_profile("fast", max_examples=60, deadline=None, suppress_health_check=_CALM)
settings.register_profile("ci", max_examples=300, deadline=None, suppress_health_check=_CALM)
settings.register_profile("nightly", max_examples=5_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

CLUSTER = ClusterId(b"c" * 32)
OWNERS = [make_key(name) for name in ("a", "b")]

raw_ids = st.binary(min_size=32, max_size=32)
u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}", fullmatch=True)
pairs = st.lists(st.tuples(texts, texts), max_size=3)

bodies = st.builds(
    Body,
    cluster=raw_ids,
    owner=raw_ids,
    kind=texts,
    key=st.binary(max_size=40),
    epoch=u32,
    seq=u64,
    schema=st.integers(0, 255),
    tombstone=st.booleans(),
    payload=st.binary(max_size=60),
    prev_epoch=u32,
    prev_seq=u64,
)

certificates = st.builds(
    Certificate,
    cluster=raw_ids,
    subject=raw_ids,
    issuer=raw_ids,
    tier=st.integers(0, 2),
    properties=texts,
    lineage=st.lists(raw_ids, max_size=3),
    generation=u32,
    not_before=u64,
    access_deadline=u64,
)

invites = st.builds(
    Invite,
    cluster=raw_ids,
    root=raw_ids,
    issuer=raw_ids,
    addresses=st.lists(texts, max_size=3),
    issued=u64,
    expires=u64,
    nonce=st.binary(max_size=16),
    subject=st.binary(max_size=32),
    tier=st.integers(0, 2),
    properties=texts,
    access_ns=u64,
)

publisher_policies = st.builds(
    PublisherPolicy,
    cluster=raw_ids,
    root=raw_ids,
    about=texts,
    number=u32,
    issued=u64,
    text=texts,
    tree=texts,
)

specs = st.builds(
    Spec,
    name=names,
    name_epoch=u32,
    withdrawn=st.booleans(),
    content=raw_ids,
    size_bytes=u64,
    functions=st.lists(texts, max_size=3),
    min_replicas=u32,
    memory_bytes=u64,
    timeout_ms=u64,
    flags=st.integers(0, 255),
    allow=pairs,
    host=pairs,
    allow_hosts=st.lists(texts, max_size=2),
    config=st.dictionaries(texts, texts, max_size=2),
    env=st.dictionaries(texts, texts, max_size=2),
)


def make_record(
    owner: PeerId,
    kind: str,
    key: bytes,
    epoch: int,
    seq: int,
    tombstone: bool,
    payload: bytes,
    prev: tuple[int, int] | None = None,
) -> Record:
    """A record as it would come from its owner; ``prev`` is the version before, unless said."""
    before = prev or ((epoch, seq - 1) if seq > 1 else (0, 0))
    body = encode(Body(CLUSTER, owner, kind, key, epoch, seq, 1, tombstone, payload, *before))
    signed = SignedRecord(owner, body, sign_with(owner, b"pollen-record/1\0" + body))
    record = decode_record(signed, CLUSTER)
    assert isinstance(record, Record)
    return record


# Few keys and versions, so that records collide: equal versions with other bytes among them.
records = st.builds(
    make_record,
    owner=st.sampled_from(OWNERS),
    kind=st.sampled_from(["node", "spec", "claim", "gc"]),
    key=st.sampled_from([b"", b"k", gc_key((1, 1)), gc_key((1, 3)), gc_key((2, 1))]),
    epoch=st.integers(1, 2),
    seq=st.integers(1, 4),
    tombstone=st.booleans(),
    payload=st.sampled_from([b"", b"x", b"y"]),
)


CROWD = sorted(make_key(f"crowd-{i}") for i in range(5))


def make_evidence(
    owner: PeerId, subject: PeerId, seq: int, incarnation: int, charge: int, tombstone: bool
) -> Record:
    """An accusation, or a refutation where somebody speaks of itself."""
    if owner == subject:
        payload = encode(Refutation(incarnation))
        return make_record(owner, "refute", b"", 1, seq, False, payload)
    payload = b"" if tombstone else encode(Accusation(1, incarnation, charge))
    return make_record(owner, "accuse", subject, 1, seq, tombstone, payload)


# Few members, versions and incarnations, so that accusations meet their refutations.
evidence = st.builds(
    make_evidence,
    owner=st.sampled_from(CROWD),
    subject=st.sampled_from(CROWD),
    seq=st.integers(1, 4),
    incarnation=st.integers(0, 1),
    charge=st.integers(0, 2),
    tombstone=st.booleans(),
)

# What may happen among three cells of ``tests.unit.spread``: (what, who, which).
SPREAD_STEPS = ["publish", "claim", "bury", "lose", "keep", "cut", "link", "restart", "image"]
SPREAD_STEPS += ["run", "gc", "grave"]
spread_steps = st.lists(
    st.tuples(
        st.sampled_from(SPREAD_STEPS),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    max_size=25,
)

# Placement: few nodes and seeds, so that changes meet; a change is a call of the planner.


def policy_of(text: str, scope: Scope) -> Policy:
    """The policy of a text that parses."""
    tree = parse(text, scope)
    assert isinstance(tree, Node)
    return Policy(text=text, tree=tree, scope=scope)


plan_nodes = st.sampled_from([PeerId(hash_of("test-node", bytes([i]))) for i in range(6)])
plan_seeds = st.sampled_from([hash_of("test-seed", bytes([i])) for i in range(3)])
node_facts = st.builds(
    NodeFacts,
    disk_bytes=st.sampled_from([0, 1 << 28, 1 << 34]),
    memory_bytes=st.sampled_from([1 << 20, 1 << 30, 1 << 34, 1 << 40]),
    slots=st.integers(0, 4),
    properties=st.sampled_from(["{}", '{"zone": "attic"}']),
    tier=st.sampled_from(["leaf", "admin"]),
    is_open=st.booleans(),
    is_busy=st.booleans(),
)
policies = st.sampled_from(
    [
        policy_of(text, HOSTS)
        for text in ('node.props.zone == "attic"', 'node.tier == "admin"', "!has(node.props.zone)")
    ]
)
needs = st.builds(
    Need,
    takes=st.sampled_from(Takes),
    copies=st.integers(0, 4),
    everywhere=st.booleans(),
    gate=st.sampled_from([(), (("zone", "attic"),)]),
    policy=st.none() | policies,
)
standings = st.none() | st.sampled_from(Standing)
plan_changes = st.one_of(
    st.tuples(st.just("node"), plan_nodes, st.none() | node_facts),
    st.tuples(st.just("need"), plan_seeds, st.none() | needs),
    st.tuples(st.just("standing"), plan_seeds, plan_nodes, standings),
    st.tuples(st.just("demand"), plan_seeds, plan_nodes, st.none() | st.integers(0, 9_000)),
    st.tuples(st.just("advance"), st.integers(1, 9)),
)

# A drain with every view as stale as it likes: who looks, who hears of whom, who thinks what. Long
# runs of many kinds are drawn from a seed: drawn one by one they seldom get far.
DRAIN_KINDS = ("turn",) * 4 + ("hear",) * 3 + ("plan",) + ("loaded",)


def make_drain_steps(seed: int, length: int, is_death_wrong: bool) -> list[tuple[Any, ...]]:
    """A schedule; deaths that are believed wrongly are a kind of their own."""
    rng = Rng(seed)
    kinds = (*DRAIN_KINDS, "live") if is_death_wrong else DRAIN_KINDS
    steps: list[tuple[Any, ...]] = []
    for _ in range(length):
        kind, who, of = kinds[rng.below(len(kinds))], rng.below(3), rng.below(3)
        ranks = [0, 1, 2]
        rng.shuffle(ranks)
        more: dict[str, tuple[Any, ...]] = {
            "turn": ([1, 4, 4][rng.below(3)],),
            "hear": (of, 1 + rng.below(3)),
            "plan": (ranks, 1 + rng.below(2)),
            "live": (of, rng.below(4) > 0),
        }
        steps.append((kind, who, *more.get(kind, ())))
    return steps


drain_steps = st.builds(
    make_drain_steps, st.integers(0, (1 << 64) - 1), st.just(100), st.booleans()
)
