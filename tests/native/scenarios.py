"""What happens to a process with muscles in it. Each function is run in a process of its own."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec

from pollen import _native
from pollen.core import effects as fx
from pollen.core import limits
from pollen.sdk import door
from tests import recorder
from tests.native.muscle import Muscle, link, metric, wait_for

VECTORS = Path(__file__).parents[1] / "vectors"
# About a second of one core.
SLOW_PRIMES = b"2000000"


def forked() -> None:
    """A child of fork has the handles and none of the threads: each use says so."""
    side = Muscle()
    child = os.fork()
    if child == 0:
        slugs = set()
        uses = (side.raw.beat, side.raw.metrics, side.raw.drain, lambda: side.raw.close(0))
        for use in uses:
            try:
                use()
                slugs.add("none")
            except _native.NativeError as error:
                slugs.add(error.slug)
        os._exit(0 if slugs == {"forked"} else 1)
    assert os.waitpid(child, 0)[1] == 0
    recorder.note("forked")
    side.raw.beat()
    side.raw.close(0)


def trapped() -> None:
    """A guest's trap is a signal that the engine handles, also when faulthandler is there first."""
    assert faulthandler.is_enabled()
    side = Muscle()
    side.seed("trap", ["trap", "error", "status"])
    client = side.client()
    for _ in range(3):
        failed = client.call("trap", "trap")
        assert isinstance(failed, door.Failed) and failed.slug == "guest-trapped", failed
    answered = client.call("trap", "status")
    assert isinstance(answered, door.Answered) and answered.guest_status == 7, answered
    side.raw.close(0)


def cancelled_span() -> None:
    """Who waits for a call goes away: its spans end there, at both nodes, and say so."""
    a, b = Muscle(), Muscle()
    link(a, b)
    for side in (a, b):
        side.raw.keep_spans(1_000_000)
        side.seed("loop", ["loop"], [b.peer])
        side.push([a.peer, b.peer])
    client = a.client()
    client.send("loop", "loop")
    wait_for(lambda: metric(b, "running") == 1, "the call runs")
    client.socket.close()
    spans: list[list[dict[str, object]]] = [[], []]

    def both() -> bool:
        for number, side in enumerate((a, b)):
            spans[number] += msgspec.msgpack.decode(side.raw.drain_spans())
        return all(spans)

    wait_for(both, "a span on each side")
    (asked,), (ran,) = spans
    assert [asked["slug"], ran["slug"]] == ["cancelled", "cancelled"]
    assert [asked["ran"], ran["ran"]] == [False, True]
    assert asked["trace"] == ran["trace"] and asked["span"] == ran["parent"]
    assert [asked["node"], ran["node"]] == [b.peer, b.peer]
    assert [asked["attempts"], ran["attempts"]] == [1, 1]
    assert asked["seed"] == ran["seed"] == "loop" and asked["function"] == ran["function"]
    for side in (a, b):
        side.raw.close(0)


def cancelled_counts() -> None:
    """A call whose caller went away is counted once at its own node: here, there, or waiting."""
    a, b = Muscle(), Muscle()
    link(a, b)
    for side, hosts in ((a, [b.peer]), (b, [b.peer])):
        side.seed("loop", ["loop"], hosts)
        side.push([a.peer, b.peer])
    seed = a.rows[0].seed
    # Over a link, then on the own node.
    for number, (side, runs) in enumerate(((a, b), (b, b))):
        client = side.client()
        client.send("loop", "loop")
        wait_for(lambda runs=runs: metric(runs, "running") == 1, "the call runs")
        client.socket.close()
        wait_for(lambda side=side: side.sample(seed)["cancelled"] == 1, f"counted, {number}")
        wait_for(lambda: metric(b, "running") == 0, "the guest ended")
    # While it waits for a link to the only host.
    c = Muscle()
    c.seed("loop", ["loop"], [b.peer])
    c.push([c.peer, b.peer])
    client = c.client()
    client.send("loop", "loop")
    wait_for(lambda: c.sample(seed)["calls"] == 1, "the call waits")
    client.socket.close()
    wait_for(lambda: c.sample(seed)["cancelled"] == 1, "counted while it waits")
    told = [side.sample(seed) for side in (a, b, c)]
    assert [held["cancelled"] for held in told] == [1, 1, 1], told
    assert [held["failures"] for held in told] == [0, 0, 0], told
    for side in (a, b, c):
        side.raw.close(0)


def closed_replica() -> None:
    """Calls wait until the brain opens the replica; the brain itself can call it before."""
    side = Muscle()
    row = side.load_closed("trap", ["status", "error"])
    client = side.client()
    client.send("trap", "status")
    assert side.begin(row.seed, "error")["slug"] == "guest-failed"
    ended = side.begin(row.seed, "status")
    assert (ended["slug"], ended["reason"]) == ("guest-status", "it returned 7")
    assert (ended["output"], ended["output_bytes"]) == (b"seven", 5)
    assert ended["run_us"] > 0
    # The client's call was there first, and still waits: nothing ran here for a caller.
    told = side.sample(row.seed)
    assert (told["calls"], told["good"], told["failures"], told["faults"]) == (1, 0, 0, 0), told
    side.open(row)
    answered = client.answer()
    assert isinstance(answered, door.Answered) and answered.guest_status == 7, answered
    wait_for(lambda: side.sample(row.seed)["failures"] == 1, "the client's call is counted")
    side.raw.close(0)


def given_up() -> None:
    """Who waits for a replica that fails its check is refused, and nothing ran for it."""
    side = Muscle()
    row = side.load_closed("trap", ["status"])
    client = side.client()
    client.send("trap", "status", budget_ms=3_000)
    wait_for(lambda: side.sample(row.seed)["in_flight"] == 1, "the call waits")
    side.raw.unload_seed(row.seed, True)
    failed = client.answer()
    assert isinstance(failed, door.Failed), failed
    assert not failed.may_have_executed
    assert side.begin(row.seed, "status")["slug"] == "seed-not-found"
    # The content was kept: it is loaded again, and closed again.
    side.raw.load_seed(row.seed, [])
    assert side.wait("load_finished", 2)["slug"] == ""
    assert side.begin(row.seed, "status")["slug"] == "guest-status"
    side.raw.close(0)


def own_call() -> None:
    """A call of the brain is in no demand when it is for this replica, and in it anywhere else."""
    side = Muscle()
    side.seed("echo", ["echo"])
    seed = side.rows[0].seed
    for number in range(3):
        ended = side.begin(seed, "echo", b"%d" % number)
        assert (ended["slug"], ended["output"]) == ("", b"%d" % number), ended
    told = side.sample(seed)
    assert (told["calls"], told["good"], told["run_us"]) == (0, 0, 0), told
    long = b"x" * (limits.OWN_OUTPUT_MAX_BYTES + 1)
    ended = side.begin(seed, "echo", long, here=False)
    assert (ended["output"], ended["output_bytes"]) == (long[:-1], len(long))
    told = side.sample(seed)
    assert (told["calls"], told["good"]) == (1, 1), told
    assert side.begin(seed, "other")["slug"] == "function-not-found"
    side.raw.close(0)


def judges_callers() -> None:
    """Rows of the vectors through the seam: who passes is served, who does not is told the text."""
    side, file = Muscle(), json.loads((VECTORS / "policy.json").read_text())
    side.seed("echo", ["echo"])
    client, (row,) = side.client(), side.rows
    drawn = [*file["rows"][::40], *(["?", tree, 5, False] for tree in file["malformed"])]
    for text, tree, number, passes in drawn:
        party, properties = file["parties"][number]
        words, seed = [(word, said) for word, said in party], [(w, s) for w, s in file["seed"]]
        policy = fx.PolicyRow(tree=tree, seed=seed, lets_strangers=False)
        options = msgspec.structs.replace(row.options, allow_if=text)
        side.rows[0] = msgspec.structs.replace(row, policy=policy, options=options)
        side.push([side.peer], words=words, properties=properties)
        answer = client.call("echo", "echo", b"x")
        if passes:
            assert isinstance(answer, door.Answered), (text, words, properties, answer)
        else:
            assert isinstance(answer, door.Failed), (text, words, properties, answer)
            assert (answer.slug, answer.may_have_executed) == ("denied", False)
            assert answer.reason.endswith(f"not true of this caller: {text}"), answer
            assert answer.remedy == "pln why call echo"
    assert {passes for *_, passes in drawn} == {True, False}
    side.raw.close(0)


def full_queue() -> None:
    """Nobody drains: messages wait at the sender, log lines are dropped, both are counted."""
    a, b = Muscle(), Muscle(event_capacity=4)
    link(a, b)
    wait_for(lambda: bool(a.take(0.01)) or metric(a, "links") == 1, "linked")
    for number in range(200):

        def sent(number: int = number) -> bool:
            try:
                a.raw.send_message(b.peer, number.to_bytes(4, "big") * 1_000)
            except _native.NativeError as error:
                assert error.slug == "overloaded", error
                # The link's own queue is full, since the other side does not read: make it.
                b.take(0.01)
                return False
            return True

        wait_for(sent, f"message {number} is taken")
    b.wait("message", 200)
    bodies = [event["body"][:4] for event in b.events if event["t"] == "message"]
    assert bodies == [number.to_bytes(4, "big") for number in range(200)]
    assert metric(b, "control_stalls") > 0
    assert metric(b, "events_dropped") == 0
    for side in (a, b):
        side.raw.close(0)


def flooded() -> None:
    """A guest's log flood fills its share of the queue and no more."""
    side = Muscle(event_capacity=4)
    side.seed("hog", ["log"])
    # As many lines as one call may log: each takes 256 bytes of its 64 KiB beside its text.
    answered = side.client().call("hog", "log", b"200")
    assert isinstance(answered, door.Answered), answered
    wait_for(lambda: metric(side, "events_dropped") >= 190, "the rest is dropped")
    assert metric(side, "events_waiting") <= 5
    side.raw.close(0)


def closed_busy() -> None:
    """What ends within the grace ends well; new calls are refused meanwhile."""
    side = Muscle()
    side.seed("primes", ["primes"])
    early, late = side.client(), side.client()
    early.send("primes", "primes", SLOW_PRIMES)
    wait_for(lambda: metric(side, "running") == 1, "the call runs")
    closing = threading.Thread(target=side.raw.close, args=(20_000,))
    closing.start()
    refused: list[object] = []

    def is_refused() -> bool:
        refused[:] = [late.call("primes", "primes", b"10")]
        return not isinstance(refused[0], door.Answered)

    wait_for(is_refused, "new calls are refused")
    answered = early.answer()
    closing.join(30)
    assert not closing.is_alive()
    assert isinstance(answered, door.Answered), answered
    # Refused in words, or by the end of the connection when the last call was done just then.
    if isinstance(refused[0], door.Failed):
        assert (refused[0].slug, refused[0].may_have_executed) == ("unreachable", False)


def closed_over_endless() -> None:
    """What does not end is dropped when the grace is over, and its caller is told."""
    side = Muscle()
    side.seed("loop", ["loop"])
    client = side.client()
    client.send("loop", "loop")
    wait_for(lambda: metric(side, "running") == 1, "the call runs")
    began = time.monotonic()
    side.raw.close(200)
    assert 0.2 <= time.monotonic() - began < 5
    assert not isinstance(client.answer(), door.Answered)
    side.raw.close(0)


def exits_busy() -> None:
    """The interpreter goes while guests run, nobody closed anything."""
    side = Muscle()
    side.seed("loop", ["loop"])
    clients = [side.client() for _ in range(4)]
    for client in clients:
        client.send("loop", "loop")
    wait_for(lambda: metric(side, "running") == 4, "the calls run")
    print("leaving", flush=True)


def exits_by_sys_exit_in_a_call() -> None:
    """Also from another thread's point of view: a blocking call is under way at the exit."""
    side = Muscle()
    side.seed("loop", ["loop"])
    blocked = threading.Thread(
        target=lambda: side.raw.run_workload(
            name="",
            seed="loop",
            function="loop",
            service="",
            input=b"",
            rate=0,
            concurrency=2,
            duration_ms=60_000,
            warm_up_ms=0,
        ),
        daemon=True,
    )
    blocked.start()
    wait_for(lambda: metric(side, "running") >= 1, "a call runs")
    sys.exit(3)


def consumer_raises() -> None:
    """An exception in who drains loses the batch it was about, not the wake-up for the next."""
    side = Muscle()
    heard: list[dict[str, object]] = []
    faults: list[BaseException] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
        done = loop.create_future()

        def drain() -> None:
            os.read(side.raw.event_fd(), 4096)
            events = msgspec.msgpack.decode(side.raw.drain())
            if not faults:
                raise RuntimeError("the first batch is too much")
            heard.extend(event for event in events if event["t"] == "telemetry")
            if heard and not done.done():
                done.set_result(None)

        loop.add_reader(side.raw.event_fd(), drain)
        await asyncio.wait_for(done, 40)
        loop.remove_reader(side.raw.event_fd())

    side.raw.beat()
    asyncio.run(run())
    assert len(faults) == 1 and heard
    side.raw.close(0)


def brain_stops() -> None:
    """Nobody beats; the watchdog ends the process before we do."""
    side = Muscle()
    side.raw.beat()
    signal.pause()


def waits_for_a_link() -> None:
    """The only replica is alive and not linked: the brain is asked, once, and the calls go on."""
    a, b = Muscle(), Muscle()
    b.seed("echo", ["echo"])
    b.push([a.peer, b.peer])
    a.seed("echo", ["echo"], replicas=[b.peer])
    clients = [a.client() for _ in range(8)]
    for client in clients:
        client.send("echo", "echo", b"over there")
    assert bytes(a.wait("link_wanted")["peer"]) == b.peer
    link(a, b)
    for side in (a, b):
        wait_for(lambda side=side: bool(side.take(0.01)) or metric(side, "links") == 1, "linked")
    answers = [client.answer() for client in clients]
    assert all(isinstance(answer, door.Answered) for answer in answers), answers
    assert len([event for event in a.events if event["t"] == "link_wanted"]) == 1
    for side in (a, b):
        side.raw.close(0)


def wakes_who_let_it_go() -> None:
    """A replica has drained, and a row is older than the others: a call of it is not lost."""
    a, b = Muscle(), Muscle()
    link(a, b)
    b.seed("echo", ["echo"], replicas=[])
    a.seed("echo", ["echo"], replicas=[b.peer])
    wait_for(lambda: bool(a.take(0.01)) or metric(a, "links") == 1, "linked")
    [warm], [held] = a.rows, b.rows
    cold = msgspec.structs.replace(warm, replicas=[], wake=[b.peer])
    client = a.client()
    # The caller's row is the old one: refused, and woken at the same node when the row has come.
    b.rows = [msgspec.structs.replace(held, wake=[b.peer])]
    b.push([a.peer, b.peer])
    client.send("echo", "echo", b"too late", retries=1)
    wait_for(lambda: bool(a.take(0.01)) or metric(a, "retries") == 1, "refused")
    a.rows = [cold]
    a.push([a.peer, b.peer])
    answered = client.answer()
    assert isinstance(answered, door.Answered) and answered.wake_us > 0, answered
    # The host's own row is the old one.
    b.raw.unload_seed(held.seed, True)
    b.rows = [msgspec.structs.replace(held, replicas=[b.peer])]
    b.push([a.peer, b.peer])
    answered = client.call("echo", "echo", b"too early")
    assert isinstance(answered, door.Answered) and answered.wake_us > 0, answered
    # Others woke it there meanwhile: the row that comes names the replica that refused the call.
    b.raw.unload_seed(held.seed, True)
    a.rows = [warm]
    a.push([a.peer, b.peer])
    before = metric(a, "retries")
    client.send("echo", "echo", b"once more", retries=1)
    wait_for(lambda: bool(a.take(0.01)) or metric(a, "retries") > before, "refused")
    b.raw.load_seed(held.seed, [])
    assert b.wait("load_finished")["slug"] == ""
    a.rows = [msgspec.structs.replace(warm, wake=[b.peer])]
    a.push([a.peer, b.peer])
    answered = client.answer()
    assert isinstance(answered, door.Answered), answered
    for side in (a, b):
        side.raw.close(0)


def gives_up_without_a_link() -> None:
    """Nobody links: the call fails in good time, and its reason is true."""
    a, b = Muscle(), Muscle()
    a.seed("echo", ["echo"], replicas=[b.peer])
    began = time.monotonic()
    failed = a.client().call("echo", "echo")
    assert isinstance(failed, door.Failed), failed
    assert (failed.slug, failed.may_have_executed) == ("unreachable", False)
    # The rules let it wait for 10 s (docs/internals/seam.md#the-rules-of-a-request).
    assert 9 < time.monotonic() - began < 15
    for side in (a, b):
        side.raw.close(0)


def goes_to_the_nearest() -> None:
    """The present prices say who is near; a row's order is as old as the row."""
    a, b, c = Muscle(), Muscle(), Muscle()
    for host in (b, c):
        link(a, host)
        host.seed("echo", ["echo"])
        host.push([a.peer, b.peer, c.peer])
    a.seed("echo", ["echo"], replicas=[b.peer, c.peer])
    wait_for(lambda: bool(a.take(0.01)) or metric(a, "links") == 2, "both are linked")
    client = a.client()
    for far, near in ((b, c), (c, b)):
        a.push([a.peer, b.peer, c.peer], prices={far.peer: 1_000_000_000, near.peer: 100})
        for _ in range(10):
            answered = client.call("echo", "echo", b"hi")
            assert isinstance(answered, door.Answered), answered
            assert answered.node == near.peer
    for side in (a, b, c):
        side.raw.close(0)


def lease_ends() -> None:
    """When the tables' lease is over nothing is admitted from afar; a push brings it back."""
    a, b = Muscle(), Muscle()
    link(a, b)
    b.seed("echo", ["echo"])
    b.push([a.peer, b.peer])
    a.seed("echo", ["echo"], replicas=[b.peer])
    client = a.client()

    def answered() -> bool:
        a.take(0.01)
        b.take(0.01)
        return isinstance(client.call("echo", "echo", b"one"), door.Answered)

    wait_for(answered, "a calls what b hosts")
    b.push([a.peer, b.peer], lease_ms=200)
    failed: list[object] = []

    def refused() -> bool:
        a.take(0.01)
        b.take(0.01)
        failed[:] = [client.call("echo", "echo", b"two")]
        return isinstance(failed[0], door.Failed)

    wait_for(refused, "the lease ends")
    error = failed[0]
    assert isinstance(error, door.Failed)
    assert (error.slug, error.may_have_executed) == ("unreachable", False), error
    # Its own callers are served all the same: routes fail static.
    assert isinstance(b.client().call("echo", "echo", b"here"), door.Answered)
    b.push([a.peer, b.peer])
    wait_for(answered, "a new push renews it")
    for side in (a, b):
        side.raw.close(0)
