"""The kinds of records, and what holds for each whatever its payload means.

Decides: nothing; this is the closed vocabulary of what nodes tell each other for good.
Does not know: payloads, which each noun's own room reads and writes.
Invariants: a kind never changes its meaning. Each is either of a run (ephemeral) or kept on disk.
Source: docs/design/protocol.md#records.
"""

from __future__ import annotations

from collections.abc import Mapping

NODE = "node"
SPEC = "spec"
CLAIM = "claim"
FAST = "fast"
ACCUSE = "accuse"
REFUTE = "refute"
# What says who is a member (``trust``): one's own chain (key empty), a lease of somebody (its key
# is whose), a deny (its key is the deny's hash), a successor of the root (its key is that), the
# credentials that an admin gave somebody anew (its key is whose).
CERT = "cert"
LEASE = "lease"
DENY = "deny"
SUCCESSION = "succession"
GRANT = "grant"
# What the root says of who may do what (``trust.publishers``); its key is what it is about.
POLICY = "policy"
# What an admin did to the cluster (``admission``); its key is when, and a number by chance.
ACT = "act"
# That a node serves something under a name (``services``), which is its key.
SERVICE = "service"
# Whether the program of a service works (``services``); its key is the service's name.
HEALTH = "health"
# Who is directly linked with a node that some members cannot reach (``paths``).
NEAR = "near"
# Its key is a version of its owner's (``gc_key``): nothing of that owner at or below it lives.
GC = "gc"

# Kinds that say what a process is doing now: never on disk, void with the next epoch.
EPHEMERAL = frozenset({CLAIM, FAST, ACCUSE, REFUTE, NEAR, HEALTH})
# Kinds whose value this run states by itself, so that an older one of ours is never adopted.
OWN_EACH_RUN = frozenset({NODE, CLAIM, FAST, ACCUSE, REFUTE, NEAR, HEALTH})
# Kinds that outlive a collected owner (docs/design/protocol.md#deleting).
DURABLE = frozenset({SPEC, CERT, LEASE, DENY, SUCCESSION, GRANT, POLICY, ACT, GC, SERVICE})
# The level (``limits.SPEAKS``) that a node must speak before others may write a kind; else 1.
KIND_LEVELS: Mapping[str, int] = {}
