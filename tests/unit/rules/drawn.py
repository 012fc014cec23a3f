"""Plays scripts of the attempt loop, and draws some by chance with the answers of the reference.

``PYTHONPATH=src:. python -m tests.unit.rules.drawn`` writes ``tests/vectors/attempts_drawn.json``.
The Rust side runs the file: where the two differ, one of them is wrong. Each step follows from the
answer before it, so that a script is a call that could be.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec

from pollen.core.ids import MILLISECOND
from pollen.core.rules.attempts import Attempts, Failure, Look, Over, Place, Step, Try, View, Wait

FILE = Path(__file__).parents[2] / "vectors" / "attempts_drawn.json"
COUNT = 200
STEPS = 12
SLUGS = ("unreachable", "overloaded", "seed-not-found", "guest-failed")


def action_of(step: Step) -> Any:
    """An action as the scripts write it."""
    match step.action:
        case Try(index):
            return {"try": index}
        case Wait(until):
            return {"wait_ms": until // MILLISECOND}
        case Over(end):
            return {"end": end.value}
        case Look():
            return "look"


def play(script: Any) -> list[Any]:
    """What the reference answers at each step: the action, and the place that is wanted."""
    attempts: Attempts[str] = Attempts(
        deadline=script["deadline_ms"] * MILLISECOND,
        idempotent=script.get("idempotent", False),
        retries=script.get("retries", 3),
    )
    answers = []
    for row in script["steps"]:
        event: View[str] | Failure
        if "look" in row:
            places = msgspec.convert(row["look"]["places"], list[Place[str]])
            event = View(**{**row["look"], "places": places})
        else:
            event = msgspec.convert(row["failed"], Failure)
        step = attempts.poll(event, row["at_ms"] * MILLISECOND)
        answers.append((action_of(step), step.wanted))
    return answers


def _place(chance: random.Random, node: int) -> dict[str, Any]:
    place: dict[str, Any] = {"node": f"n{node}", "price_us": chance.choice((0, 100, 100, 900))}
    place["in_flight"], place["service_us"] = chance.randrange(4), chance.choice((0, 50, 700))
    for flag in ("ejected", "saturated"):
        if chance.random() < 0.3:
            place[flag] = True
    if chance.random() < 0.3:
        place["ejected"] = place["unlinked"] = True
    elif chance.random() < 0.2:
        place["ejected"] = place["silent"] = True
    return place


def _look(chance: random.Random) -> dict[str, Any]:
    nodes = chance.sample(range(7), chance.choice((0, 1, 1, 2, 3, 5)))
    places = [_place(chance, node) for node in nodes]
    look: dict[str, Any] = {"places": places, "draw": chance.getrandbits(64)}
    flags = {"cold": 0.3, "idempotent": 0.7, "changed": 0.3}
    return look | {flag: chance.random() < share for flag, share in flags.items()}


def _failure(chance: random.Random) -> dict[str, Any]:
    flags = {
        "may_have_executed": chance.random() < 0.2,
        "remote": chance.random() < 0.9,
        "streamed": chance.random() < 0.1,
        "cut": chance.random() < 0.5,
    }
    return {"slug": chance.choice(SLUGS), **flags}


def _script(number: int) -> dict[str, Any]:
    chance = random.Random(number)
    script: dict[str, Any] = {
        "name": f"drawn {number}",
        "deadline_ms": chance.choice((0, 900, 7_000, 30_000, 60_000)),
        "idempotent": chance.random() < 0.3,
        "retries": chance.randrange(5),
        "steps": [],
    }
    now, answer = 0, "look"
    for _ in range(STEPS):
        row: dict[str, Any] = {"at_ms": now}
        row |= {"failed": _failure(chance)} if "try" in answer else {"look": _look(chance)}
        script["steps"].append(row)
        answer, wanted = play(script)[-1]
        row["expect"] = answer
        if wanted is not None:
            row["wanted"] = wanted
        if "end" in answer:
            break
        if "wait_ms" in answer:
            now = chance.choice((answer["wait_ms"], max(now, answer["wait_ms"] - 1), now + 1))
        else:
            now += chance.choice((0, 1, 40, 3_000))
    return script


def text() -> str:
    """The whole file, one script a line."""
    rows = [f"  {json.dumps(_script(number))}" for number in range(COUNT)]
    return "[\n" + ",\n".join(rows) + "\n]\n"


if __name__ == "__main__":
    FILE.write_text(text())
