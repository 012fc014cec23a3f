"""The check of a new replica: nobody calls it before, and a failure is said and tried again."""

from __future__ import annotations

import msgspec
import pytest

from pollen.core import effects as fx
from pollen.core import limits, timers
from pollen.core.events import CallEnded, SeedSample, SeedWoken
from pollen.core.ids import MILLISECOND, SECOND, Nanos, Now, Token
from pollen.core.names import Holding
from pollen.core.placement import State, checking
from pollen.core.placement.tables import Tables
from pollen.core.seeds import Seed
from pollen.options import SeedOptions
from tests.unit.names.test_named import A, B, C, plan, seed
from tests.unit.placement.bench import ECHO, Bench
from tests.unit.placement.test_tables import NEW, claimed, row_of
from tests.unit.turns import effects_of


def checked(base: Seed, **options: object) -> Seed:
    """The same seed with a check; only the options differ."""
    given = SeedOptions(check="run", **options)  # type: ignore[arg-type]
    return msgspec.structs.replace(base, options=given)


CHECKED = checked(ECHO)


def begun(bench: Bench) -> fx.BeginCall:
    """The plan wants it here, and the muscles loaded it."""
    bench.plan(bench.own)
    bench.turn()
    (call,) = bench.finish()
    assert isinstance(call, fx.BeginCall)
    bench.turn()
    return call


def ended(bench: Bench, token: Token, slug: str = "", reason: str = "no disk") -> list[fx.Effect]:
    event = CallEnded(token=token, slug=slug, reason=reason if slug else "")
    return effects_of(bench.now, lambda turn: bench.hosting.on_call_ended(event, turn))


def woken(bench: Bench) -> list[fx.Effect]:
    event = SeedWoken(seed=ECHO.seed)
    return effects_of(bench.now, lambda turn: bench.hosting.on_woken(event, bench.view, turn))


def unloaded(effects: list[fx.Effect]) -> list[fx.Effect]:
    return [effect for effect in effects if not isinstance(effect, fx.Log)]


def test_a_replica_is_ready_when_its_check_succeeded_and_not_before() -> None:
    """checked-before-ready: the muscles call the function here, with an empty input."""
    bench = Bench(holding=CHECKED)
    call = begun(bench)
    assert (call.function, call.input, call.here) == ("run", b"", True)
    assert bench.state() is State.LOADING
    assert ended(bench, call.token) == []
    assert bench.state() is State.READY


@pytest.mark.parametrize("timeout_ms", [1, limits.CHECK_MS, limits.CHECK_MS + 1])
def test_a_check_may_take_five_seconds_or_the_time_out_of_its_seed(timeout_ms: int) -> None:
    """Whichever is less."""
    call = begun(Bench(holding=checked(ECHO, timeout_ms=timeout_ms)))
    assert call.budget_ms == min(timeout_ms, 5_000)


def test_a_failed_check_is_claimed_with_its_reason_and_is_no_fault_of_the_version() -> None:
    """What it looks for may be missing on one host alone; its content stays for the next try."""
    bench = Bench(holding=CHECKED)
    out = ended(bench, begun(bench).token, "guest-failed")
    assert unloaded(out) == [fx.UnloadSeed(seed=ECHO.seed, keep=True)]
    (line,) = [effect for effect in out if isinstance(effect, fx.Log)]
    assert (line.event, line.fields["seed"]) == ("check-failed", "echo")
    claim = bench.hosting.claim(ECHO.seed)
    assert claim is not None
    assert claim.state == State.REFUSED
    assert claim.reason == "check `run` failed: guest-failed: no disk"
    assert not claim.is_fault
    assert claim.until == bench.mono + limits.CHECK_RETRY_FIRST_NS


def test_a_code_other_than_zero_fails_the_check() -> None:
    """A program says by it what went wrong."""
    bench = Bench(holding=CHECKED)
    ended(bench, begun(bench).token, "guest-status", "it returned 3")
    claim = bench.hosting.claim(ECHO.seed)
    assert claim is not None
    assert claim.reason == "check `run` failed: it returned 3"


def test_a_failed_check_is_tried_again_after_a_wait_that_doubles() -> None:
    """Up to that of any refusal; one success begins again with the first."""
    bench, wait = Bench(holding=CHECKED), limits.CHECK_RETRY_FIRST_NS
    for _ in range(3):
        ended(bench, begun(bench).token, "deadline")
        bench.turn(wait - 1)
        assert bench.state() is State.REFUSED
        bench.turn(1)
        assert bench.state() is State.ABSENT
        wait *= 2
    ended(bench, begun(bench).token)
    assert bench.state() is State.READY
    assert checking.retry_wait(100) == limits.REFUSED_NS
    assert checking.retry_wait(1) == limits.CHECK_RETRY_FIRST_NS


def test_an_answer_to_a_check_that_was_given_up_counts_for_nothing() -> None:
    """The plan took the seed away while it ran, and gave it back."""
    bench = Bench(holding=CHECKED)
    first = begun(bench)
    bench.plan(B, C)
    assert bench.turn() == [fx.UnloadSeed(seed=ECHO.seed, keep=True)]
    second = begun(bench)
    assert first.token != second.token
    assert ended(bench, first.token) == []
    assert bench.state() is State.LOADING
    ended(bench, second.token)
    assert bench.state() is State.READY


def test_the_answer_to_no_check_changes_nothing() -> None:
    """Tokens are text from outside the core."""
    bench = Bench(holding=CHECKED)
    begun(bench)
    for token in ("", "check", "check/zz", "check/" + "00" * 40, timers.token_for("sweep")):
        assert ended(bench, Token(token)) == []
    assert bench.state() is State.LOADING


def test_a_check_that_never_ends_is_refused_as_a_load_that_takes_too_long() -> None:
    """The muscles' answer was lost: the host does not hold its rank for ever."""
    bench = Bench(holding=CHECKED)
    call = begun(bench)
    assert bench.turn(limits.LOAD_DEADLINE_NS) == [fx.UnloadSeed(seed=ECHO.seed)]
    assert bench.state() is State.REFUSED
    assert ended(bench, call.token) == []
    assert bench.state() is State.REFUSED


def test_a_seed_that_a_call_woke_is_checked_before_it_is_ready() -> None:
    """The plan does not know of the call yet, and takes nothing away while the check runs."""
    bench = Bench(own=C, holding=checked(ECHO))
    bench.plan(A, B, C, wanted=0)
    (call,) = woken(bench)
    assert isinstance(call, fx.BeginCall)
    assert bench.turn() == []
    assert bench.state() is State.LOADING
    bench.turn(limits.CHECK_MS * MILLISECOND)
    ended(bench, call.token)
    bench.turn()
    assert bench.state() is State.READY


def test_one_check_runs_though_a_call_and_the_plan_ask_at_once() -> None:
    """The muscles tell of both ends of one load."""
    bench = Bench(holding=CHECKED)
    bench.plan(A)
    bench.turn()
    (call,) = woken(bench)
    assert bench.finish() == []
    assert isinstance(call, fx.BeginCall)
    ended(bench, call.token)
    assert bench.state() is State.READY


def test_a_withdrawn_seed_whose_check_failed_leaves_nothing_here() -> None:
    """Its content was kept for the next try, which never comes."""
    bench = Bench(holding=CHECKED)
    ended(bench, begun(bench).token, "guest-failed")
    bench.roles.clear()
    assert bench.turn() == [fx.UnloadSeed(seed=ECHO.seed)]
    assert bench.turn() == []


def test_a_check_that_succeeded_acquits_no_version() -> None:
    """halted-is-derived: a call has to succeed, and the muscles count a check as none."""
    new = msgspec.structs.replace(checked(seed(A, epoch=2)), previous=ECHO)
    bench = Bench(holding=new)
    bench.plan(A, of=new)
    bench.turn(of=new)
    (call,) = bench.finish(of=new)
    assert isinstance(call, fx.BeginCall)
    ended(bench, call.token)
    faults = SeedSample(new.seed, 0, limits.FAULT_CALLS, 0, 0, 0, 0, limits.FAULT_CALLS)
    effects_of(bench.now, lambda turn: bench.hosting.note_samples([faults], turn))
    assert bench.state(new) is State.REFUSED


def test_the_replicas_of_a_seed_with_a_check_leave_at_once() -> None:
    """urgent-never-waits: its host opens by its own row, before others hear of the claim."""
    bare = row_of(NEW.seed, claimed())
    assert bare is not None
    for is_urgent, options in ((True, SeedOptions(check="run")), (False, SeedOptions())):
        held = Tables()
        for replicas, now in (([], SECOND), ([A], SECOND + 1)):
            row = msgspec.structs.replace(bare, replicas=replicas, options=options)
            held.seeds.set(NEW.seed, row)
            at = Now(Nanos(now), Nanos(now))
            pushed = effects_of(at, lambda turn, held=held: held.push(turn, is_urgent=False))
        assert any(isinstance(effect, fx.PushTables) for effect in pushed) == is_urgent


def test_a_check_that_the_module_does_not_export_is_refused_with_the_exports() -> None:
    """At seed time, before any host loads it."""
    held: dict[str, Holding[Seed]] = {}
    refused = plan(A, held, options={"check": "ping"})
    assert (refused.slug, refused.remedy) == ("function-not-found", "name one of: run")
    assert "'ping'" in refused.reason
    assert plan(A, held, options={"check": "run"}).name == "echo"
