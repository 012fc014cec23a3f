"""When a provider counts as failing, and what its node and the others make of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollen.core import events as ev
from pollen.core.codec import Rejection, encode
from pollen.core.effects import ProbeService
from pollen.core.ids import MILLISECOND, SECOND
from pollen.core.kinds import HEALTH, SERVICE
from pollen.core.services.health import (
    CALM,
    FALL,
    FALLS_MAX,
    REASON_MAX,
    RISE,
    Health,
    HealthRecord,
    State,
    decode_health,
    judged,
    record_of,
)
from pollen.core.servicewords import ConnectCommand, ServeCommand, UnserveCommand
from pollen.core.whywords import WhyServiceCommand
from tests.unit.services.helpers import providers, row, serve, served, shown, slug_of
from tests.unit.world import Machine, World, three

HTTP = "http:/healthz"
EVERY_MS = 1_000
FIRST = "127.0.0.1:8080"


# -- the pure rule ---------------------------------------------------------------------------------


def after(health: Health, results: str) -> Health:
    """The health after these results: ``+`` passed, ``-`` failed."""
    for result in results:
        health = judged(health, is_good=result == "+")
    return health


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ("+", State.HEALTHY),
        ("-", State.FAILING),
        ("+--", State.HEALTHY),
        ("+---", State.FAILING),
        ("+--+--", State.HEALTHY),
        ("-+", State.FAILING),
        ("-++", State.HEALTHY),
        ("-+-+-+", State.FAILING),
        ("-++--", State.HEALTHY),
    ],
)
def test_the_first_result_decides_then_three_failures_or_two_successes(
    results: str, state: State
) -> None:
    """In a row: one that says otherwise begins the count again."""
    assert after(Health(), results).state is state


def test_one_that_falls_again_needs_more_successes() -> None:
    """Two for each fall; ten falls are the most that count."""
    health = after(Health(), "+")
    for fall in range(1, FALLS_MAX + 3):
        health = after(health, "-" * FALL)
        assert (health.state, health.needed) == (State.FAILING, RISE * min(fall, FALLS_MAX))
        assert after(health, "+" * (health.needed - 1)).state is State.FAILING
        health = after(health, "+" * health.needed)
        assert health.state is State.HEALTHY


def test_falls_are_forgotten_while_it_stays_healthy() -> None:
    """One for thirty successes in a row; a failure among them begins the count again."""
    fell_twice = after(Health(), "+---++---++++")
    assert (fell_twice.state, fell_twice.falls) == (State.HEALTHY, 2)
    assert after(fell_twice, "+" * (CALM - 1)).falls == 2
    assert after(fell_twice, "+" * (CALM - 1) + "-" + "+" * (CALM - 1)).falls == 2
    assert after(fell_twice, "+" * CALM).falls == 1
    assert after(fell_twice, "+" * CALM * 5).falls == 0


@given(st.text(alphabet="+-", max_size=600))
def test_no_target_changes_its_mark_often(results: str) -> None:
    """Whatever it does, the fourth change and each one after cost more results than before it."""
    health, changes = Health(), 0
    for result in results:
        was, health = health.state, judged(health, is_good=result == "+")
        changes += health.state is not was
        assert 0 <= health.falls <= FALLS_MAX
        assert health.run < health.needed
    # A fall is forgotten by thirty good results, so pairs of changes cost at least this much.
    pairs, cost, spent = 0, FALL + RISE, 0
    while spent + cost <= len(results):
        spent, pairs, cost = spent + cost, pairs + 1, min(cost + RISE, FALL + RISE * FALLS_MAX)
    forgotten = len(results) // CALM
    assert changes <= 2 * (pairs + forgotten) + 3


# -- words and records -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "slug", "says"),
    [
        ({"check": "icmp"}, "usage", "is not a check"),
        ({"check": "http"}, "usage", "is not a check"),
        ({"check": "http:"}, "usage", "is not a check"),
        ({"check": "http:healthz"}, "usage", "is not a check"),
        ({"check": "http://other/healthz"}, "usage", "is not a check"),
        ({"check": "http:/a b"}, "usage", "is not a check"),
        ({"check": "http:/a\r\nX: y"}, "usage", "is not a check"),
        ({"check": "http:/\u00e9"}, "usage", "is not a check"),
        ({"check": "http:/a#b"}, "usage", "is not a check"),
        ({"check": "http:/" + "x" * 256}, "usage", "is not a check"),
        ({"check": "tcp", "target": "udp:53"}, "usage", "datagrams"),
        ({"check_every_ms": 5_000}, "usage", "no check whose times"),
        ({"check_timeout_ms": 5_000}, "usage", "no check whose times"),
        ({"check": "tcp", "check_every_ms": 999}, "config-invalid", "each 999 ms"),
        ({"check": "tcp", "check_every_ms": 3_600_001}, "config-invalid", "out of range"),
        ({"check": "tcp", "check_every_ms": -1}, "config-invalid", "out of range"),
        ({"check": "tcp", "check_timeout_ms": 99}, "config-invalid", "may not take 99 ms"),
        ({"check": "tcp", "check_timeout_ms": -5}, "config-invalid", "may not take -5 ms"),
        (
            {"check": "tcp", "check_every_ms": 1_000, "check_timeout_ms": 1_001},
            "config-invalid",
            "come again after 1000 ms",
        ),
    ],
)
def test_a_check_that_makes_no_sense_is_refused_with_a_remedy(
    fields: dict[str, Any], slug: str, says: str
) -> None:
    """And nothing is served."""
    world = three()
    reply = world.command("b", ServeCommand(**({"name": "api", "target": "8080"} | fields)))
    assert (reply.slug, says in reply.reason, bool(reply.remedy)) == (slug, True, True)
    assert row(world, "b") is None


def test_a_record_of_health_says_one_of_two_things() -> None:
    """A state that nobody knows, or a reason without end, is no record."""
    told = decode_health(record_of(State.FAILING, 5, "x" * 1_000))
    assert told == HealthRecord(2, 5, "x" * REASON_MAX)
    assert decode_health(record_of(State.HEALTHY, 5, "why")) == HealthRecord(1, 5, "")
    assert decode_health(record_of(State.FAILING, 5, "a\x1b[2J\n")) == HealthRecord(2, 5, "a?[2J?")
    odd = [HealthRecord(0, 5), HealthRecord(3, 5), HealthRecord(2, 5, "x" * 121)]
    for record in (*odd, HealthRecord(2, 5, "\x1b[2J"), HealthRecord(2, 5, "a\nb")):
        assert isinstance(decode_health(encode(record)), Rejection)
    assert isinstance(decode_health(b"\xff"), Rejection)


# -- whole nodes -----------------------------------------------------------------------------------


def checked(world: World, node: str, target: str = "8080", **more: Any) -> Any:
    """Serve ``api`` with a check each second."""
    return serve(world, node, target=target, check=HTTP, check_every_ms=EVERY_MS, **more)


def failing(world: World, at: str) -> list[str]:
    """The machines that a node's muscles try last for ``api``."""
    held = row(world, at)
    names = {machine.key: label for label, machine in world.machines.items()}
    return [] if held is None else [names[peer] for peer in held.failing]


def probes(world: World, node: str) -> list[ProbeService]:
    return [e for e in world.machines[node].trace if isinstance(e, ProbeService)]


def health_of(world: World, at: str, node: str) -> tuple[str, str]:
    (view,) = [p for p in shown(world, at).providers if p.name == node]
    return view.health, view.health_reason


def test_a_program_is_checked_at_once_and_then_each_time() -> None:
    """As it was asked for; the muscles get what they need for it."""
    world = three()
    serve(world, "b", check=HTTP, check_every_ms=5_000, check_timeout_ms=700, proxy_header=True)
    first = probes(world, "b")[0]
    assert (first.target, first.path, first.proxy_header) == (FIRST, "/healthz", True)
    assert first.timeout_ms == 700
    assert len(probes(world, "b")) == 1
    world.run(20 * SECOND)
    assert len(probes(world, "b")) == 5
    assert probes(world, "a") == []


def test_defaults_are_ten_seconds_and_two() -> None:
    """A check that comes each second may take that second."""
    world = three()
    serve(world, "b", check="tcp")
    view = shown(world, "b").check
    assert (view.check, view.every_ms, view.timeout_ms) == ("tcp", 10_000, 2_000)
    serve(world, "c", name="fast", check="tcp", check_every_ms=1_000)
    assert shown(world, "c", "fast").check.timeout_ms == 1_000
    assert probes(world, "c")[0].path == ""


def test_a_provider_that_fails_is_last_after_three_checks_and_back_after_two() -> None:
    """On every node; who serves the name stays as it is."""
    world = three()
    checked(world, "b")
    checked(world, "c", beside=True)
    assert [failing(world, at) for at in "abc"] == [[]] * 3
    world.machines["b"].failing_targets.add(FIRST)
    world.run(2 * SECOND)
    assert failing(world, "a") == []
    world.run(1_500 * MILLISECOND)
    assert [failing(world, at) for at in "abc"] == [["b"]] * 3
    assert [providers(world, at)[-1] for at in "abc"] == ["b"] * 3
    assert health_of(world, "a", "b") == ("failing", "it answered HTTP 500")
    assert health_of(world, "a", "c") == ("healthy", "")
    world.machines["b"].failing_targets.clear()
    world.run(3 * SECOND)
    assert [failing(world, at) for at in "abc"] == [[]] * 3
    assert health_of(world, "a", "b") == ("healthy", "")
    assert told_of(world.machines["b"]) == ["service-failing", "service-healthy"]


def test_a_program_that_takes_all_of_its_time_is_failing_too() -> None:
    """Its result comes a moment after the next check is due."""
    world = three()
    world.machines["b"].probe_ns = 1_002 * MILLISECOND
    checked(world, "b", check_timeout_ms=1_000)
    world.machines["b"].failing_targets.add(FIRST)
    world.run(5 * SECOND)
    assert failing(world, "a") == ["b"]
    assert shown(world, "b").check.bad >= 3


def test_a_check_that_the_muscles_never_answer_does_not_end_the_checks() -> None:
    world = three()
    world.machines["b"].probe_ns = 3_600 * SECOND
    checked(world, "b")
    world.run(20 * SECOND)
    assert 4 <= len(probes(world, "b")) <= 12


def test_a_mark_for_which_there_was_no_room_is_told_when_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = three()
    checked(world, "b")
    world.run(2 * SECOND)
    brain = world.machines["b"].node
    assert brain is not None
    monkeypatch.setattr(brain._intake, "has_room", lambda slot, size: False)
    world.machines["b"].failing_targets.add(FIRST)
    world.run(6 * SECOND)
    assert failing(world, "a") == []
    monkeypatch.undo()
    world.run(3 * SECOND)
    assert failing(world, "a") == ["b"]
    assert told_of(world.machines["b"]) == ["service-failing"]


def test_one_without_a_check_goes_before_one_that_fails() -> None:
    """It says nothing of its health, and where all fail all are tried."""
    world = three()
    checked(world, "b")
    serve(world, "c", beside=True)
    world.machines["b"].failing_targets.add(FIRST)
    world.run(4 * SECOND)
    assert [providers(world, at) for at in "abc"] == [["c", "b"]] * 3
    assert health_of(world, "a", "c") == ("", "")
    world.crash("c")
    world.run(30 * SECOND)
    assert (providers(world, "a"), failing(world, "a")) == (["b"], ["b"])


def test_a_node_that_starts_again_checks_again_and_its_mark_of_before_is_void() -> None:
    """The first result decides: a program that still fails is marked by one check."""
    world = three()
    checked(world, "b")
    checked(world, "c", beside=True)
    world.machines["b"].failing_targets.add(FIRST)
    world.run(4 * SECOND)
    assert failing(world, "a") == ["b"]
    world.crash("b")
    world.run(30 * SECOND)
    world.machines["b"].failing_targets.clear()
    world.start("b")
    world.run(10 * SECOND)
    assert health_of(world, "a", "b") == ("healthy", "")
    assert failing(world, "a") == []
    world.kill("b")
    world.machines["b"].failing_targets.add(FIRST)
    world.run(SECOND)
    world.start("b")
    world.run(10 * SECOND)
    assert health_of(world, "a", "b")[0] == "failing"
    held = served(world, "b")
    assert held is not None and shown(world, "b").check.check == HTTP


def test_another_target_begins_anew_and_the_same_again_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A result of the program of before says nothing of the one that is served now."""
    world = three()
    checked(world, "b")
    world.machines["b"].failing_targets.add(FIRST)
    world.run(4 * SECOND)
    assert failing(world, "a") == ["b"]
    assert checked(world, "b").unchanged
    assert failing(world, "a") == ["b"]
    # From now on the muscles answer no check by themselves.
    monkeypatch.setattr(Machine, "probed", lambda *_: ev.ServiceProbed(number=0))
    world.run(SECOND)
    before = probes(world, "b")[-1].number
    checked(world, "b", target="9090")
    assert (failing(world, "a"), health_of(world, "a", "b")) == ([], ("", ""))
    assert probes(world, "b")[-1].target == "127.0.0.1:9090"
    world.post("b", refusal(before))
    world.run(10 * MILLISECOND)
    assert shown(world, "b").check.state == "unknown"
    world.post("b", refusal(probes(world, "b")[-1].number))
    world.run(10 * MILLISECOND)
    assert shown(world, "b").check.state == "failing"
    serve(world, "b", target="9090")
    assert (shown(world, "b").check, health_of(world, "a", "b")) == (None, ("", ""))
    count = len(probes(world, "b"))
    world.run(5 * SECOND)
    assert len(probes(world, "b")) == count


def refusal(number: int, slug: str = "provider-refused") -> ev.ServiceProbed:
    return ev.ServiceProbed(number=number, slug=slug, reason="no")


def test_what_is_unserved_or_taken_over_is_checked_no_more() -> None:
    """Its record goes with it."""
    world = three()
    checked(world, "b")
    serve(world, "a", take_over=True)
    world.run(2 * SECOND)
    count = len(probes(world, "b"))
    world.run(5 * SECOND)
    assert len(probes(world, "b")) == count
    world.ask("a", UnserveCommand(name="api"))
    checked(world, "b")
    world.ask("b", UnserveCommand(name="api"))
    world.run(3 * SECOND)
    node = world.machines["a"].node
    assert node is not None
    assert [r for r in node._records.all_records() if r.body.kind == HEALTH and r.is_live] == []


def test_a_node_without_a_file_left_says_nothing_of_its_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is its own trouble."""
    world = three()
    checked(world, "b")
    monkeypatch.setattr(Machine, "probed", lambda _, number, __: refusal(number, "overloaded"))
    world.run(SECOND)
    good = shown(world, "b").check.good
    world.run(5 * SECOND)
    view = shown(world, "b").check
    assert (view.state, view.good, view.bad, view.error) == ("healthy", good, 0, "")


def test_a_flapping_target_does_not_flood_the_mesh() -> None:
    """In 120 checks of the worst rhythm the node tells of it 17 times, and not forty."""
    world = three()
    checked(world, "b")
    machine = world.machines["b"]
    begun, events = len(probes(world, "b")), len(told_of(machine))
    while len(probes(world, "b")) < begun + 120:
        # Whatever changes its mark as soon as it can be changed.
        if shown(world, "b").check.state == "healthy":
            machine.failing_targets.add(FIRST)
        else:
            machine.failing_targets.discard(FIRST)
        world.run(100 * MILLISECOND)
    assert 12 <= len(told_of(machine)) - events <= 17


def told_of(machine: Machine) -> list[str]:
    """What a node's log has of its programs."""
    return [log.event for log in machine.logs if log.event.startswith("service-")]


def test_why_tells_of_the_check() -> None:
    """On the node itself with the last result, elsewhere with the reason."""
    world = three()
    checked(world, "b")
    serve(world, "c", beside=True)
    assert f"it is checked here each 1 s ({HTTP}): healthy; the last one: it passed" in told(world)
    world.machines["b"].failing_targets.add(FIRST)
    world.run(1_500 * MILLISECOND)
    assert "in a row speak against that; after 3 it fails" in told(world)
    world.run(3 * SECOND)
    assert "failing; the last one: it answered HTTP 500" in told(world)
    far = told(world, "a")
    assert "the service at b fails its check: it answered HTTP 500" in far
    assert "clients go there when no other takes them" in far
    assert "c is tried first, the only one that is online and does not fail its check" in far
    ways = world.ask("a", WhyServiceCommand(target="api")).providers
    assert {way.name: way.health for way in ways} == {"b": "failing", "c": ""}
    assert "is checked here" not in told(world, "c")
    world.crash("c")
    world.run(30 * SECOND)
    assert "no other is left: it is tried all the same" in told(world, "a")


def told(world: World, at: str = "b") -> str:
    return "\n".join(world.ask(at, WhyServiceCommand(target="api")).why)


def test_the_node_itself_shows_the_newest_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others keep the one for which it fell: a reason that changes is no change."""
    world = three()
    checked(world, "b")
    world.machines["b"].failing_targets.add(FIRST)
    world.run(4 * SECOND)
    monkeypatch.setattr(Machine, "probed", lambda _, number, __: refusal(number))
    world.run(2 * SECOND)
    assert health_of(world, "b", "b") == ("failing", "no")
    assert health_of(world, "a", "b") == ("failing", "it answered HTTP 500")
    assert "the service at b fails its check: no" in told(world)


def test_a_health_of_a_name_that_its_owner_does_not_serve_moves_nobody() -> None:
    """A member that lies about itself is tried last, and nobody else is."""
    world = three()
    serve(world, "b")
    serve(world, "c", beside=True)
    node = world.machines["a"].node
    assert node is not None
    node._records.publish(HEALTH, b"api", record_of(State.FAILING, 1, "no"))
    node._records.publish(HEALTH, b"\xff\xfe", record_of(State.FAILING, 1, "no"))
    world.run(2 * SECOND)
    assert [failing(world, at) for at in "abc"] == [[]] * 3
    kinds = {record.body.kind for record in node._records.all_records()}
    assert {SERVICE, HEALTH} <= kinds


def test_a_provider_that_is_meant_is_reached_though_it_fails() -> None:
    """``NAME@NODE`` picks, whatever its health."""
    world = three()
    checked(world, "b")
    serve(world, "c", beside=True)
    world.machines["b"].failing_targets.add(FIRST)
    world.run(4 * SECOND)
    assert world.ask("a", ConnectCommand(service="api@b", local="7000")).provider == "b"
    assert slug_of(world, "a", ConnectCommand(service="api@a", local="7001")) == "service-not-found"
