"""Every Hypothesis strategy of the suite, and its profiles.

``fast`` is the default; ``ci`` and ``nightly`` are chosen with HYPOTHESIS_PROFILE.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pollen.core.certs import Certificate
from pollen.core.codec import encode
from pollen.core.events import SignedRecord
from pollen.core.ids import ClusterId, PeerId
from pollen.core.invites import Invite
from pollen.core.liveness import Accusation, Refutation
from pollen.core.records import Body, Record, decode_record, gc_key
from pollen.core.specs import Spec
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
    before = (epoch, seq - 1) if prev is None else prev
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
spread_steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["publish", "claim", "bury", "lose", "keep", "cut", "link", "restart", "image", "run"]
        ),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    max_size=25,
)
