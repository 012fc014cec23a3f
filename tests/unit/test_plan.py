"""Hosting and tables: what is loaded, claimed, routed and pushed."""

from __future__ import annotations

import msgspec

from pollen.core import effects as fx
from pollen.core import limits, plan, tables
from pollen.core.codec import encode
from pollen.core.events import LoadFinished
from pollen.core.ids import SECOND, Nanos, PeerId
from pollen.core.names import Holding
from pollen.core.plan import Claim, Host, Hosting, State
from pollen.core.tables import Tables
from tests.strategies import make_record
from tests.unit.test_names import A, B, C, seed

T0 = Nanos(1)
ECHO = seed(A)
NAMES = {"echo": Holding(name="echo", seed=ECHO, shadowed=[])}


def host(node: PeerId, state: State = State.READY) -> Host:
    return Host(node=node, state=state, reason="")


def test_the_publisher_is_asked_first_then_ready_hosts_by_id() -> None:
    """Only linked ones; a host that is loading has nothing to give."""
    hosts = [host(C), host(B), host(PeerId(b"\7" * 32), State.LOADING)]
    assert plan.plan_holders(ECHO, hosts, [A, B, C]) == [A, B, C]
    assert plan.plan_holders(ECHO, hosts, [B, C]) == [B, C]


def test_a_claim_of_another_epoch_does_not_count() -> None:
    """What a dead run said is void."""
    claim = encode(Claim(int(State.READY)))
    record = make_record(A, "claim", ECHO.seed, 2, 1, False, claim)
    assert plan.hosts_view([record], {A: 3}) == {}
    assert {ECHO.seed: [host(A)]} == plan.hosts_view([record], {A: 2})


def test_an_unreadable_claim_does_not_count() -> None:
    """A newer state or garbage is no host."""
    for payload in (b"", encode(Claim(9)), b"\xc1"):
        record = make_record(A, "claim", ECHO.seed, 2, 1, False, payload)
        assert plan.hosts_view([record], {A: 2}) == {}


def test_a_fetch_that_failed_is_tried_again_at_once_with_a_new_holder() -> None:
    """Else after a wait that doubles."""
    hosting = Hosting()
    hosting.converge(NAMES, {}, [], T0)
    failed = LoadFinished(seed=ECHO.seed, slug="unreachable", reason="nobody")
    (timer,) = hosting.on_load_finished(failed, T0)
    assert fx.SetTimer(token=timer.token, at=Nanos(T0 + limits.LOAD_RETRY_FIRST_NS)) == timer  # type: ignore[attr-defined]
    assert hosting.converge(NAMES, {}, [], Nanos(T0 + 1)) == []
    again = hosting.converge(NAMES, {}, [A], Nanos(T0 + 2))
    assert [fx.LoadSeed(seed=ECHO.seed, holders=[A])] == again


def test_a_refusal_is_claimed_with_its_reason_and_stands_for_a_while() -> None:
    """The Pi that cannot load says so instead of trying in a loop."""
    hosting = Hosting()
    hosting.converge(NAMES, {}, [A], T0)
    refused = LoadFinished(seed=ECHO.seed, slug="guest-out-of-memory", reason="no room")
    hosting.on_load_finished(refused, T0)
    claim = Claim(int(State.REFUSED), "guest-out-of-memory: no room")
    assert {ECHO.seed: encode(claim)} == hosting.claims_view()
    hosts = {ECHO.seed: [host(B)]}
    assert hosting.converge(NAMES, hosts, [A, B], Nanos(T0 + SECOND)) == []
    later = Nanos(T0 + limits.REFUSED_NS)
    assert len(hosting.converge(NAMES, hosts, [A, B], later)) == 1


def test_a_draining_node_loads_nothing_new_and_claims_to_drain() -> None:
    """Others drop it from their routes by the claim."""
    hosting = Hosting()
    hosting.converge(NAMES, {}, [A], T0)
    hosting.on_load_finished(LoadFinished(seed=ECHO.seed), T0)
    assert hosting.drain() == 1
    assert {ECHO.seed: encode(Claim(int(State.DRAINING)))} == hosting.claims_view()
    more = {**NAMES, "two": Holding(name="two", seed=seed(A, "two"), shadowed=[])}
    assert hosting.converge(more, {}, [A], T0) == []


def test_a_late_load_of_something_gone_is_unloaded() -> None:
    """The name was withdrawn while the muscles compiled."""
    assert [fx.UnloadSeed(seed=ECHO.seed)] == Hosting().on_load_finished(
        LoadFinished(seed=ECHO.seed), T0
    )


def test_replicas_are_nearest_first_and_by_id_among_equals() -> None:
    """A host without a price is not live."""
    hosts = {ECHO.seed: [host(A), host(B), host(C), host(PeerId(b"\7" * 32))]}
    assert tables.replicas_of(ECHO.seed, hosts, {A: 5, B: 5, C: 1}) == [C, A, B]


def rows(*nodes: PeerId) -> dict[bytes, fx.SeedRow]:
    hosts = {ECHO.seed: [host(node) for node in nodes]}
    return tables.seed_rows(NAMES, hosts, [], dict.fromkeys(nodes, 1))  # type: ignore[return-value]


def pushes(out: list[fx.Effect]) -> list[fx.PushTables]:
    return [effect for effect in out if isinstance(effect, fx.PushTables)]


def test_the_first_push_is_whole_and_the_next_a_delta() -> None:
    """Generations rise by one; a delta names its base."""
    held = Tables()
    held.stage(rows(A), {})  # type: ignore[arg-type]
    (whole,) = pushes(held.push(T0, is_urgent=False))
    held.stage(rows(A, B), {})  # type: ignore[arg-type]
    (delta,) = pushes(held.push(Nanos(T0 + SECOND), is_urgent=False))
    assert (whole.generation, whole.base, delta.generation, delta.base) == (1, 0, 2, 1)


def test_changes_that_can_wait_are_pushed_ten_times_a_second() -> None:
    """A replica more is no hurry; a timer carries it."""
    held = Tables()
    held.stage(rows(A), {})  # type: ignore[arg-type]
    held.push(T0, is_urgent=False)
    held.stage(rows(A, B), {})  # type: ignore[arg-type]
    (timer,) = held.push(Nanos(T0 + 1), is_urgent=False)
    assert isinstance(timer, fx.SetTimer)
    assert held.push(Nanos(T0 + 2), is_urgent=False) == []
    assert len(pushes(held.push(timer.at, is_urgent=False))) == 1


def test_a_row_that_goes_is_pushed_at_once() -> None:
    """Deny and loss never wait."""
    held = Tables()
    held.stage(rows(A), {})  # type: ignore[arg-type]
    held.push(T0, is_urgent=False)
    held.stage({}, {})
    (push,) = pushes(held.push(Nanos(T0 + 1), is_urgent=False))
    assert [ECHO.seed] == push.gone_seeds


def test_a_lease_is_renewed_when_nothing_changes() -> None:
    """An empty delta, well before the lease ends."""
    held = Tables()
    held.stage(rows(A), {})  # type: ignore[arg-type]
    held.push(T0, is_urgent=False)
    assert limits.TABLE_RENEW_NS * 3 < limits.TABLE_LEASE_MS * 1_000_000
    assert held.push(Nanos(T0 + SECOND), is_urgent=False) == []
    (push,) = pushes(held.push(Nanos(T0 + limits.TABLE_RENEW_NS), is_urgent=False))
    assert (push.base, push.seeds) == (1, [])


def test_a_stale_table_is_pushed_whole() -> None:
    """The muscles restarted or lost a push."""
    held = Tables()
    held.stage(rows(A), {})  # type: ignore[arg-type]
    held.push(T0, is_urgent=False)
    held.forget()
    (push,) = pushes(held.push(Nanos(T0 + 1), is_urgent=False))
    assert (push.base, len(push.seeds)) == (0, 1)


def test_a_seed_is_hosted_only_where_its_host_gate_lets_it() -> None:
    """A node without the property loads nothing, and unloads what it may host no more."""
    spec = msgspec.structs.replace(ECHO.spec, host=[("zone", "attic")])
    gated = msgspec.structs.replace(ECHO, spec=spec)
    names = {"echo": Holding(name="echo", seed=gated, shadowed=[])}
    assert ([gated], []) == plan.plan_hosting(names, {}, '{"zone": "attic"}')
    assert plan.plan_hosting(names, {}, "{}") == ([], [])
    assert ([], [gated.seed]) == plan.plan_hosting(names, {gated.seed: State.READY}, "{}")
