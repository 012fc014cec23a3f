"""What an upgrade does next, given what is seen; and what a node lacks that was restarted.

Decides: the order of an upgrade and of its way back, from whatever moment it was cut off at.
Does not know: files, processes, sockets (``drive``).
Invariants: nothing is switched while a node runs. Each step brings the goal nearer, so whoever
    repeats ends. The goal turns once, from the new version to the old one, and never again.
Source: docs/decisions/an-upgrade-exchanges-two-folders.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec


class Which(Enum):
    """One of the two versions of an upgrade."""

    OLD = "old"
    NEW = "new"


class Step(Enum):
    """What is done next."""

    # End the node in order; its calls finish or move.
    DRAIN = "drain"
    # Exchange the two versions in the environment.
    SWITCH = "switch"
    START = "start"
    # Look whether the node is what it was before.
    LOOK = "look"
    # From now on the old version is what is wanted.
    TURN_BACK = "turn back"
    # Neither version is in the environment: somebody else changed it, and has the last word.
    FORSAKE = "forsake"
    # The goal is reached.
    FINISH = "finish"
    # Not even the old version comes up.
    GIVE_UP = "give up"


@dataclass(frozen=True)
class Seen:
    """Where an upgrade is.

    ``held`` is the version in the environment, None for a third one. ``is_own``: the node that
    runs was started from the files of the goal. ``fault`` is why the goal cannot be reached, empty
    while it may be.
    """

    goal: Which
    held: Which | None
    is_running: bool
    is_own: bool
    is_healthy: bool
    fault: str = ""


def next_step(seen: Seen) -> Step:
    """The one step to take now."""
    if seen.held is None:
        return Step.FORSAKE
    if seen.fault:
        return Step.TURN_BACK if seen.goal is Which.NEW else Step.GIVE_UP
    if seen.held is not seen.goal:
        return Step.DRAIN if seen.is_running else Step.SWITCH
    if not seen.is_running:
        return Step.START
    if not seen.is_own:
        # It began before the switch, or somebody started it meanwhile: nobody knows from what.
        return Step.DRAIN
    return Step.FINISH if seen.is_healthy else Step.LOOK


class Before(msgspec.Struct, frozen=True, kw_only=True):
    """What the node was before: ids of the neighbours that it saw online, seeds that were ready."""

    node: str
    cluster: str
    peers: list[str] = []
    seeds: list[str] = []


def before_of(status: Mapping[str, Any]) -> Before:
    """What is kept of the status of a node that is about to be upgraded."""
    return Before(
        node=status["node"],
        cluster=status["cluster"],
        peers=_online(status),
        seeds=[seed["name"] for seed in status["seeds"] if 0 < seed["wanted"] <= seed["ready"]],
    )


def _online(status: Mapping[str, Any]) -> list[str]:
    return [held["node"] for held in status["nodes"] if held["state"] == "online"]


def lacking(status: Mapping[str, Any], before: Before, version: str) -> str:
    """What the node is not yet that it was before; empty when it is all of it.

    Half of the neighbours are enough: one of them may have gone for reasons of its own. Guess.
    """
    if status["version"] != version:
        return f"its version is {status['version']}, not {version}"
    if (status["node"], status["cluster"]) != (before.node, before.cluster):
        return "it is another node, or in another cluster"
    found = len(set(before.peers) & set(_online(status)))
    if 2 * found < len(before.peers):
        return f"it sees {found} of {len(before.peers)} neighbours that it had"
    seeds = {seed["name"]: seed for seed in status["seeds"]}
    for name in before.seeds:
        seed = seeds.get(name)
        if seed is None:
            return f"it does not know the seed {name}"
        if seed["ready"] < seed["wanted"] or not seed["wanted"]:
            return f"the seed {name} is ready on {seed['ready']} of {seed['wanted']} nodes"
    return ""
