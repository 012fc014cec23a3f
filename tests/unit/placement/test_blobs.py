"""Blobs: who may hold a copy, what room it needs, and how long it may take to come."""

from __future__ import annotations

from typing import Any

import pytest

from pollen.core import effects as fx
from pollen.core import limits
from pollen.core.codec import Refusal, encode
from pollen.core.commands import SeedCommand, Seeded, SeedOptions
from pollen.core.effects import BLOB, MODULE
from pollen.core.events import ModuleInspected
from pollen.core.ids import PeerId, RequestId
from pollen.core.placement import NodeFacts, State, may_rank, roles, tables
from pollen.core.placement.claims import Claims
from pollen.core.placement.space import Space
from pollen.core.policy import Party
from pollen.core.seeds import Seed, publishing, specs
from tests.unit.names.test_named import CONTENT, A, B, C, writer
from tests.unit.placement.bench import GIB, Bench
from tests.unit.turns import effects_of

MIB = 1 << 20
RED = Party(properties='{"team": "red"}')


def blob(size: int = 9, **options: Any) -> Seed:
    """What a publisher's node makes of a held file."""
    command = SeedCommand(
        name="film", content=CONTENT.hex(), kind=BLOB, options=SeedOptions(**options)
    )
    held = ModuleInspected(request=RequestId(1), content=CONTENT, size=size, functions=[])
    planned = publishing.plan_seed(command, held, writer(A), {})
    assert isinstance(planned, publishing.Publication), planned
    found = specs.decode_seed(A, planned.payload)
    assert isinstance(found, Seed)
    return found


def test_a_file_is_published_without_functions() -> None:
    seed = blob(size=5 * MIB)
    assert (seed.kind, seed.is_blob, seed.unknown) == (BLOB, True, [])
    assert (seed.spec.functions, seed.spec.size_bytes) == ([], 5 * MIB)
    row = tables.seed_row(seed.seed, {}, Claims(), (), lambda peer: 0, seed)
    assert row is not None and (row.kind, row.size) == (BLOB, 5 * MIB)


def test_a_kind_of_a_later_version_is_hosted_by_nobody() -> None:
    spec = specs.make_spec(
        name="x", name_epoch=1, content=CONTENT, size=9, functions=[], options=SeedOptions()
    )
    spec.options["kind"] = "bucket"
    seed = specs.decode_seed(A, specs.encode_record(encode(spec)))
    assert isinstance(seed, Seed) and seed.unknown == ["kind"]


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"memory_bytes": 1 << 30}, "--memory"),
        ({"timeout_ms": 5}, "--timeout"),
        ({"config": {"a": "b"}}, "--config"),
        ({"isolate": True}, "--isolate"),
    ],
)
def test_an_option_of_what_runs_is_refused(options: dict[str, Any], flag: str) -> None:
    command = SeedCommand(
        name="film", content=CONTENT.hex(), kind=BLOB, options=SeedOptions(**options)
    )
    held = ModuleInspected(request=RequestId(1), content=CONTENT, size=9, functions=[])
    refused = publishing.plan_seed(command, held, writer(A), {})
    assert isinstance(refused, Refusal) and flag in refused.remedy


def test_what_was_not_sent_and_what_is_no_kind_are_refused() -> None:
    command = SeedCommand(name="film", content=CONTENT.hex(), kind=BLOB)
    nothing = ModuleInspected(
        request=RequestId(1), content=CONTENT, size=0, functions=[], slug="blob-not-found"
    )
    refused = publishing.plan_seed(command, nothing, writer(A), {})
    assert isinstance(refused, Refusal) and refused.slug == "blob-not-found"
    other = SeedCommand(name="film", content=CONTENT.hex(), kind="bucket")
    refused = publishing.check_seed(other, writer(A), {})
    assert isinstance(refused, Refusal) and refused.slug == "bad-request"


def test_the_answer_says_what_it_is() -> None:
    command = SeedCommand(name="film", content=CONTENT.hex(), kind=BLOB)
    held = ModuleInspected(request=RequestId(1), content=CONTENT, size=9, functions=[])
    planned = publishing.plan_seed(command, held, writer(A), {})
    assert isinstance(planned, publishing.Publication)
    assert isinstance(planned.answer, Seeded) and planned.answer.kind == BLOB
    assert SeedCommand(name="x", content="").kind == MODULE


def test_a_holder_passes_the_gate_of_readers_as_well() -> None:
    """It can read what it holds. A module's host need not be among its callers."""
    gated = blob(allow=[("team", "red")], allow_if="caller.props.floor == 1")
    assert not roles.may_host(gated, RED)
    assert not roles.may_host(gated, Party(properties='{"floor": 1}'))
    assert roles.may_host(gated, Party(properties='{"team": "red", "floor": 1}'))


def test_the_plan_asks_for_the_same_as_the_host() -> None:
    gated = blob(allow=[("team", "red")], allow_if="caller.props.floor == 1")
    need = roles.need_of(gated)
    for properties in ("{}", '{"team": "red"}', '{"floor": 1}', '{"team": "red", "floor": 1}'):
        facts = NodeFacts(memory_bytes=0, disk_bytes=MIB, properties=properties)
        assert may_rank(need, facts, None) == roles.may_host(gated, facts.party), properties


def test_a_node_without_room_on_its_disk_refuses() -> None:
    """Its memory says nothing of it."""
    large = blob(size=40 * MIB)
    bench = Bench(own=B, holding=large)
    bench.hosting.space.free_bytes, bench.hosting.space.disk_free_bytes = 0, 39 * MIB
    bench.plan(bench.own, of=large)
    bench.turn(of=large)
    claim = bench.hosting.claim(large.seed)
    assert claim is not None and State(claim.state) is State.REFUSED
    assert claim.reason == "no room: needs 40 MiB, 39 MiB are free on the disk"
    bench.hosting.space.disk_free_bytes = 41 * MIB
    bench.turn(limits.REFUSED_NS, of=large)
    bench.turn(of=large)
    assert bench.state(large) is State.LOADING


def test_copies_take_no_more_than_their_quota() -> None:
    """Of the disk more is free. What is published here is here, whatever it takes."""
    film, other = blob(size=40 * MIB), blob(size=30 * MIB)
    space = Space(GIB, quota_bytes=60 * MIB)
    space.disk_free_bytes = 500 * MIB
    assert space.lack(film, is_here=False) == "" and space.offered(500 * MIB) == 60 * MIB
    space.note(film, State.LOADING, is_here=False, is_coming=True)
    lack = "no room: needs 30 MiB, 20 MiB are free of blob_bytes"
    assert space.lack(other, is_here=False) == lack
    space.note(film, State.READY, is_here=True, is_coming=False)
    assert space.lack(other, is_here=False) == lack and space.lack(other, is_here=True) == ""
    assert space.offered(500 * MIB) == 20 * MIB and space.offered(9 * MIB) == 9 * MIB
    space.note(film, State.ABSENT, is_here=False, is_coming=False)
    assert space.lack(other, is_here=False) == "" and space.offered(500 * MIB) == 60 * MIB


def test_a_quota_that_is_over_offers_nothing() -> None:
    """It was lowered; what is here stays."""
    film = blob(size=40 * MIB)
    space = Space(GIB, quota_bytes=10 * MIB)
    space.disk_free_bytes = 500 * MIB
    space.note(film, State.READY, is_here=True, is_coming=False)
    assert space.offered(500 * MIB) == 0


def test_a_blob_that_found_no_room_comes_when_there_is_some() -> None:
    """It was refused for five minutes, whatever its user removed meanwhile."""
    large = blob(size=40 * MIB)
    bench = Bench(own=B, holding=large)
    bench.hosting.space.disk_free_bytes = 39 * MIB
    bench.plan(bench.own, of=large)
    bench.turn(of=large)
    assert bench.state(large) is State.REFUSED and bench.hosting.roomless() == [large.seed]
    bench.turn(limits.ROOM_AGAIN_NS, of=large)
    assert bench.state(large) is State.REFUSED, "there is still no room"
    bench.hosting.space.disk_free_bytes = 41 * MIB
    bench.turn(of=large)
    bench.turn(of=large)
    assert bench.state(large) is State.LOADING and bench.hosting.roomless() == []


def test_a_refusal_for_room_stands_for_ten_seconds_at_least() -> None:
    large = blob(size=40 * MIB)
    bench = Bench(own=B, holding=large)
    bench.hosting.space.disk_free_bytes = 39 * MIB
    bench.plan(bench.own, of=large)
    bench.turn(of=large)
    bench.hosting.space.disk_free_bytes = 41 * MIB
    bench.turn(limits.ROOM_AGAIN_NS - 1, of=large)
    assert bench.state(large) is State.REFUSED


def test_a_large_file_may_take_longer_than_a_module() -> None:
    small, large = roles.load_deadline(blob()), roles.load_deadline(blob(size=1 << 30))
    assert small == pytest.approx(limits.LOAD_DEADLINE_NS, rel=0.01)
    assert large - small > 3_600 * 1_000_000_000


def test_the_publisher_needs_no_room_for_what_is_on_its_disk() -> None:
    """It was refused where the file had taken more than half of the disk."""
    large = blob(size=40 * MIB)
    bench = Bench(own=A, holding=large)
    bench.hosting.space.disk_free_bytes = 1 * MIB
    effects_of(bench.now, lambda turn: bench.hosting.held.note(large.seed, turn, is_held=True))
    bench.plan(A, of=large)
    assert bench.turn(of=large) == [fx.LoadSeed(seed=large.seed, holders=[])]


def test_a_publisher_whose_disk_was_lost_needs_room_like_anybody() -> None:
    """It was taken to have the file for ever, and filled its new disk."""
    large = blob(size=40 * MIB)
    bench = Bench(own=A, holding=large)
    bench.hosting.space.disk_free_bytes = 1 * MIB
    bench.plan(A, of=large)
    assert bench.turn(of=large) == []
    assert bench.state(large) is State.REFUSED


def one_loads_and_one_waits() -> tuple[Bench, Seed, Seed]:
    """A file of 30 MiB comes, 45 were free; one of 20 is wanted next."""
    film, book = blob(size=30 * MIB), blob(size=20 * MIB, min_replicas=3)
    bench = Bench(own=B, holding=film)
    bench.hosting.space.disk_free_bytes = 45 * MIB
    bench.plan(B, of=film)
    bench.turn(of=film)
    return bench, film, book


def test_room_is_promised_once() -> None:
    """Two files that fit alone and not together: the second one is refused, not overfilled."""
    bench, _, book = one_loads_and_one_waits()
    bench.hold(book)
    bench.plan(B, of=book)
    bench.turn(of=book)
    claim = bench.hosting.claim(book.seed)
    assert claim is not None and State(claim.state) is State.REFUSED
    assert claim.reason == "no room: needs 20 MiB, 15 MiB are free on the disk"


def test_a_load_that_nobody_wants_any_more_takes_its_room_until_it_ends() -> None:
    """The muscles bring it to its end. Its room was promised to the next blob at once."""
    bench, film, book = one_loads_and_one_waits()
    bench.hold(book)
    bench.turn(of=film)
    assert bench.state(film) is State.ABSENT
    bench.plan(B, of=book)
    bench.turn(of=book)
    assert bench.state(book) is State.REFUSED
    bench.finish(of=film)
    bench.turn(limits.REFUSED_NS, of=book)
    bench.turn(of=book)
    assert bench.state(book) is State.LOADING


def test_what_came_is_taken_off_until_the_disk_is_looked_at_again() -> None:
    """Between the end of a load and the next telemetry the room was promised a second time."""
    bench, film, book = one_loads_and_one_waits()
    bench.finish(of=film)
    assert bench.state(film) is State.READY
    bench.hold(book)
    bench.plan(B, of=book)
    bench.turn(of=book)
    assert bench.state(book) is State.REFUSED


def test_a_load_is_not_tried_again_on_a_disk_that_filled_meanwhile() -> None:
    """The retry looked at no disk."""
    film = blob(size=30 * MIB)
    bench = Bench(own=B, holding=film)
    bench.hosting.space.disk_free_bytes = 45 * MIB
    bench.plan(B, of=film)
    bench.turn(of=film)
    bench.finish("unreachable", of=film)
    bench.hosting.space.disk_free_bytes = 10 * MIB
    assert bench.turn(limits.LOAD_RETRY_FIRST_NS, of=film) == []
    assert bench.state(film) is State.REFUSED


def test_no_blob_is_judged_before_the_disk_was_looked_at() -> None:
    """A node that just started knows nothing of its disk: it neither loads nor refuses."""
    film = blob(size=30 * MIB)
    bench = Bench(own=B, holding=film)
    bench.plan(B, of=film)
    assert bench.turn(of=film) == [] and bench.state(film) is State.ABSENT
    bench.hosting.space.disk_free_bytes = 45 * MIB
    bench.turn(of=film)
    assert bench.state(film) is State.LOADING


def test_a_copy_that_the_plan_gave_up_leaves_the_disk() -> None:
    """Content of modules stays where a call may wake them. Nobody wakes a blob: copies that did not
    count filled the disks of the next three ranks."""
    film = blob(min_replicas=1)
    bench = Bench(own=B, holding=film)
    bench.hosting.space.disk_free_bytes = MIB
    bench.serve(of=film)
    bench.plan(A, B, wanted=1, of=film)
    bench.claim(A, State.READY, of=film)
    bench.turn(of=film)
    bench.turn(limits.DRAIN_HOLD_NS, of=film)
    claim = bench.hosting.claim(film.seed)
    assert claim is not None and State(claim.state) is State.DRAINING
    bench.claim(A, State.READY, of=film, witnessed=[(B, claim.drain)])
    out = bench.turn(limits.DRAIN_SETTLE_NS, of=film)
    assert out == [fx.UnloadSeed(seed=film.seed, keep=False)]


def test_a_copy_stays_while_fewer_are_ready_than_were_asked_for() -> None:
    """No node is open to it or to another one. The plan wants none then, and one was left."""
    film = blob(min_replicas=2)
    bench = Bench(own=B, holding=film)
    bench.hosting.space.disk_free_bytes = MIB
    bench.serve(of=film)
    bench.plan(of=film)
    bench.claim(A, State.READY, of=film)
    bench.turn(of=film)
    assert bench.turn(limits.DRAIN_HOLD_NS, of=film) == []
    assert bench.state(film) is State.READY
    bench.claim(C, State.READY, of=film)
    bench.turn(of=film)
    bench.turn(limits.DRAIN_HOLD_NS, of=film)
    assert bench.state(film) is State.DRAINING


def test_what_is_let_go_has_its_row_until_then() -> None:
    """The muscles find the content to let go by the row. It left before the unload, and what was
    unseeded stayed on the disks of all who had held it."""
    film = blob()
    bench = Bench(own=B, holding=film)
    bench.hosting.space.disk_free_bytes = MIB
    bench.serve(of=film)
    bench.roles.clear()
    assert bench.turn(of=film) == [fx.UnloadSeed(seed=film.seed, keep=False)]
    assert bench.hosting.seed(film.seed) == film
    assert bench.hosting.take_unloaded() == [film.seed]
    assert bench.hosting.seed(film.seed) is None


def test_what_was_unseeded_while_it_came_is_let_go_when_it_is_here() -> None:
    """Its row stays as long as the load goes on."""
    film = blob()
    bench = Bench(own=B, holding=film)
    bench.hosting.space.disk_free_bytes = MIB
    bench.plan(B, of=film)
    bench.turn(of=film)
    bench.roles.clear()
    bench.turn(of=film)
    bench.hosting.take_unloaded()
    assert bench.hosting.seed(film.seed) == film
    assert bench.finish(of=film) == [fx.UnloadSeed(seed=film.seed, keep=False)]
    assert bench.hosting.take_unloaded() == [film.seed]
    assert bench.hosting.seed(film.seed) is None


def test_nothing_is_fetched_before_it_is_known_what_the_others_hold() -> None:
    """A node that starts copied nearly every blob that others held."""
    film = blob(size=40 * MIB)
    bench = Bench(own=B, holding=film)
    space = bench.hosting.space
    space.disk_free_bytes, space.has_heard = 50 * MIB, False
    bench.plan(bench.own, of=film)
    assert bench.turn(of=film) == [] and bench.state(film) is State.ABSENT
    space.has_heard = True
    assert bench.turn(of=film) == [fx.LoadSeed(seed=film.seed, holders=[A])]


def test_what_is_on_the_disk_waits_for_nobody() -> None:
    film = blob(size=40 * MIB)
    bench = Bench(own=B, holding=film)
    effects_of(bench.now, lambda turn: bench.hosting.held.note(film.seed, turn, is_held=True))
    bench.hosting.space.disk_free_bytes, bench.hosting.space.has_heard = MIB, False
    bench.plan(bench.own, of=film)
    assert bench.turn(of=film) == [fx.LoadSeed(seed=film.seed, holders=[])]


def held_film(*others: PeerId) -> tuple[Bench, Seed]:
    """A copy is ready here, and on these."""
    film = blob(size=40 * MIB)
    bench = Bench(own=B, holding=film)
    bench.hosting.space.disk_free_bytes = 50 * MIB
    bench.serve(film)
    for other in others:
        bench.claim(other, State.READY, of=film)
    return bench, film


def test_a_damaged_copy_counts_no_more_and_is_let_go() -> None:
    """Another node makes a copy of what the others hold; this one tries again later."""
    bench, film = held_film(A)
    assert fx.UnloadSeed(seed=film.seed) in bench.finish("state-unusable", of=film)
    assert bench.state(film) is State.REFUSED and film.seed not in bench.hosting.held
    claim = bench.hosting.claim(film.seed)
    assert claim is not None and claim.reason == "state-unusable: because" and not claim.is_fault
    assert bench.finish("state-unusable", of=film) == [], "it is said twice"


def test_the_only_copy_that_is_left_stays_damaged_as_it_is() -> None:
    bench, film = held_film()
    assert bench.finish("state-unusable", of=film) == []
    assert bench.state(film) is State.READY and film.seed in bench.hosting.held


def test_what_came_of_a_slow_fetch_is_kept_for_the_next_try() -> None:
    film = blob(size=40 * MIB)
    bench = Bench(own=B, holding=film)
    bench.hosting.space.disk_free_bytes = 50 * MIB
    bench.plan(bench.own, of=film)
    bench.turn(of=film)
    assert bench.turn(roles.load_deadline(film), of=film) == [
        fx.UnloadSeed(seed=film.seed, keep=True)
    ]
    assert bench.state(film) is State.REFUSED
