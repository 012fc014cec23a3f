"""What the runtime relies on of the muscles: the same claims for the fake and the real module."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core.ids import Hash, PeerId, Token
from pollen.options import SeedOptions
from pollen.runtime.loop.native import slug_of
from tests.contract.conftest import CLUSTER, DEADLINE, Side, linked

pytestmark = pytest.mark.timeout(60)
# Claims about sockets, which the fake has none of.
REAL = ["real"]


def make_record(side: Side, body: bytes = b"body") -> ev.SignedRecord:
    return ev.SignedRecord(side.peer, body, side.key.sign(b"pollen-record/1\0" + body))


def test_a_dial_ends_in_a_hello_on_both_sides(sides: Callable[[str], Side]) -> None:
    """Both learn who the other is, which side dialled, and its opaque chain."""
    a, b = sides("a"), sides("b")
    a.say_hello()
    b.say_hello()
    a.port.carry_out(fx.Dial(peer=b.peer, addresses=b.addresses))
    here, there = a.wait(ev.HelloReceived), b.wait(ev.HelloReceived)
    assert (b.peer, True, b"chain", CLUSTER) == (
        here.peer,
        here.dialled,
        here.chain,
        here.cluster,
    )
    assert (a.peer, False) == (there.peer, there.dialled)
    assert b"a".ljust(16, b".") == there.boot


def test_a_dial_to_nobody_fails_as_an_event(sides: Callable[[str], Side], native: Any) -> None:
    """No exception and no silence: ``DialFailed`` with a slug."""
    a = sides("a")
    a.say_hello()
    nobody = PeerId(native.generate_key().public)
    a.port.carry_out(fx.Dial(peer=nobody, addresses=["127.0.0.1:9"]))
    assert (nobody, "unreachable") == (a.wait(ev.DialFailed).peer, a.events[-1].slug)


def test_records_arrive_verified_and_forged_ones_are_counted(sides: Callable[[str], Side]) -> None:
    """A forged record never becomes an event; its count does."""
    a, b = linked(sides)
    forged = ev.SignedRecord(a.peer, b"other", b"\1" * 64)
    a.port.carry_out(fx.SendRecords(peer=b.peer, records=[make_record(a), forged]))
    event = b.wait(ev.RecordsReceived)
    assert ([make_record(a)], 1) == (event.records, event.rejected)


def test_what_is_sent_before_the_other_side_admits_is_not_lost(
    sides: Callable[[str], Side],
) -> None:
    """A admits and sends at once; B, slower, still gets it."""
    a, b = sides("a"), sides("b")
    a.say_hello()
    b.say_hello()
    a.port.carry_out(fx.Dial(peer=b.peer, addresses=b.addresses))
    a.port.carry_out(fx.AdmitLink(link=a.wait(ev.HelloReceived).link))
    a.port.carry_out(fx.SendRecords(peer=b.peer, records=[make_record(a)]))
    hello = b.wait(ev.HelloReceived)
    time.sleep(0.05)
    b.port.carry_out(fx.AdmitLink(link=hello.link))
    assert [make_record(a)] == b.wait(ev.RecordsReceived).records


def test_messages_arrive_whole(sides: Callable[[str], Side]) -> None:
    """One message, one event, the same bytes."""
    a, b = linked(sides)
    body = bytes(range(256)) * 400
    b.port.carry_out(fx.SendMessage(peer=a.peer, body=body))
    came = a.wait(ev.MessageReceived)
    assert (came.peer, came.body) == (b.peer, body)


def test_a_closed_link_is_told_to_both_with_the_code(sides: Callable[[str], Side]) -> None:
    """The peer sees the close code."""
    a, b = linked(sides)
    link = a.wait(ev.HelloReceived).link
    a.port.carry_out(fx.CloseLink(link=link, code=4, reason="denied"))
    closed = b.wait(ev.LinkClosed)
    assert (a.peer, 4) == (closed.peer, closed.code)


def test_a_join_is_asked_and_answered(sides: Callable[[str], Side]) -> None:
    """One opaque body each way; the joiner is known by its key."""
    import threading

    a, b = sides("a"), sides("b")
    a.say_hello()
    got: list[bytes] = []
    asker = threading.Thread(
        target=lambda: got.append(b.muscles.ask_join(a.addresses, a.peer, b"please", 10_000))
    )
    asker.start()
    asked = a.wait(ev.JoinRequested)
    a.port.carry_out(fx.AnswerJoin(request=asked.request, body=b"yes"))
    asker.join(DEADLINE)
    assert (b.peer, b"please", [b"yes"]) == (asked.peer, asked.body, got)


def test_a_join_at_nobody_is_unreachable(sides: Callable[[str], Side]) -> None:
    """A typed refusal with a slug, within the time-out."""
    a, b = sides("a"), sides("b")
    with pytest.raises(Exception) as caught:
        a.muscles.ask_join(["127.0.0.1:9"], b.peer, b"please", 1_000)
    assert slug_of(caught.value) == "unreachable"


def test_unknown_content_is_refused_by_inspection(sides: Callable[[str], Side]) -> None:
    """``ModuleInspected`` carries a slug and the request."""
    a = sides("a")
    a.port.carry_out(fx.InspectModule(request=ev.RequestId(7), content=Hash(b"\2" * 32)))
    event = a.wait(ev.ModuleInspected)
    assert event.request == 7
    assert event.slug


def test_the_bundle_of_an_inspection_is_an_id_or_nothing(sides: Callable[[str], Side]) -> None:
    """An id of another length is refused at once; empty bytes are no bundle."""
    a = sides("a")
    with pytest.raises(Exception) as caught:
        a.muscles.inspect_module(7, b"\2" * 32, b"short")
    assert slug_of(caught.value) == "bad-request"
    a.muscles.inspect_module(8, b"\2" * 32, b"")
    event = a.wait(ev.ModuleInspected)
    assert (event.request, event.slug) == (8, "blob-not-found")


@pytest.mark.parametrize("here", [True, False])
def test_a_call_of_the_brain_ends_in_one_event_with_its_token(
    sides: Callable[[str], Side], here: bool
) -> None:
    """Also when nothing can be called: the brain waits for the end of what it began."""
    a = sides("a")
    token = Token("check/00")
    call = fx.BeginCall(
        token=token, seed=Hash(b"?" * 32), function="run", budget_ms=1_000, here=here
    )
    a.port.carry_out(call)
    ended = a.wait(ev.CallEnded)
    assert (ended.token, ended.slug) == (token, "seed-not-found")
    assert ended.reason and "\n" not in ended.reason
    assert (ended.run_us, ended.output, ended.output_bytes) == (0, b"", 0)


def test_telemetry_names_each_field_of_its_samples(sides: Callable[[str], Side]) -> None:
    """A field that the muscles call otherwise would silently read as its default."""
    a, b = linked(sides)
    row = fx.SeedRow(
        name="counted",
        seed=Hash(b"s" * 32),
        publisher=b.peer,
        content=Hash(b"c" * 32),
        functions=["run"],
        replicas=[],
        wake=[],
        options=SeedOptions(),
    )
    service = fx.ServiceRow(key=Hash(b"k" * 32), name="api", providers=[], datagrams=False)
    lanes = {"seeds": fx.LaneRows(rows=[row]), "services": fx.LaneRows(rows=[service])}
    a.port.carry_out(fx.PushTables(generation=1, base=0, lanes=lanes, lease_ms=15_000))
    end = time.monotonic() + DEADLINE
    told: dict[str, Any] = {}
    while not (told.get("peers") and told.get("seeds")):
        assert time.monotonic() < end, told
        a.muscles.beat()
        select.select([a.muscles.event_fd()], [], [], 0.2)
        for event in msgspec.msgpack.decode(a.muscles.drain()):
            told = event if event["t"] == "telemetry" else told
    (peer,), (seed,), (reached,) = told["peers"], told["seeds"], told["services"]
    assert (peer["peer"], seed["seed"], reached["key"]) == (b.peer, row.seed, service.key)
    assert reached.keys() == set(ev.ServiceSample.__struct_fields__)
    assert peer.keys() == set(ev.PeerSample.__struct_fields__)
    assert seed.keys() == set(ev.SeedSample.__struct_fields__)
    assert told["mesh"].keys() == set(ev.MeshSample.__struct_fields__)


def listener(number: int, bind: str, **more: Any) -> fx.OpenListener:
    return fx.OpenListener(
        listener=number, bind=bind, service="api", datagrams=False, idle_ms=1_000, **more
    )


def test_a_listener_is_answered_with_its_address_or_a_slug(
    sides: Callable[[str], Side], folder: Path
) -> None:
    """Port 0 becomes a port; what is taken is ``port-in-use``, what is no address ``usage``."""
    a = sides("a")
    a.port.carry_out(listener(1, "127.0.0.1:0"))
    first = a.wait(ev.ListenerOpened)
    assert (first.listener, first.slug) == (1, "")
    host, _, port = first.bound.rpartition(":")
    assert host == "127.0.0.1" and int(port) > 0
    a.port.carry_out(listener(2, first.bound))
    assert (a.wait(ev.ListenerOpened, 2).listener, a.events[-1].slug) == (2, "port-in-use")
    a.port.carry_out(listener(3, "nowhere"))
    assert (a.wait(ev.ListenerOpened, 3).listener, a.events[-1].slug) == (3, "usage")
    a.port.carry_out(listener(4, f"unix:{folder}/s"))
    assert a.wait(ev.ListenerOpened, 4).bound == f"unix:{folder}/s"
    for number in (1, 2, 3, 4):
        a.port.carry_out(fx.CloseListener(listener=number))
    assert a.faults == []


def member(side: Side) -> fx.PeerRow:
    return fx.PeerRow(peer=side.peer, name=side.key.public.hex(), properties="{}", price_us=0)


def serve(a: Side, b: Side, target: str) -> None:
    """B serves ``api`` at ``target``, and both know of it."""
    key = Hash(b"s" * 32)
    peers = fx.LaneRows(rows=[member(side) for side in (a, b)])
    row = fx.ServiceRow(key=key, name="api", providers=[b.peer], datagrams=False)
    served = fx.ServedRow(
        key=key, name="api", target=target, datagrams=False, allow=[], idle_ms=1_000
    )
    services = fx.LaneRows(rows=[row])
    both = {"peers": peers, "services": services}
    here = both | {"served": fx.LaneRows(rows=[served])}
    for side, lanes in ((a, both), (b, here)):
        side.port.carry_out(fx.PushTables(generation=1, base=0, lanes=lanes, lease_ms=15_000))
        assert side.faults == []


@pytest.mark.parametrize("native", REAL, indirect=True)
def test_what_a_client_of_a_listener_says_comes_to_the_service_and_back(
    sides: Callable[[str], Side],
) -> None:
    """Through two muscles and a link; the client ends its half first, and hears the rest."""
    a, b = linked(sides)
    with socket.create_server(("127.0.0.1", 0)) as server:
        serve(a, b, f"127.0.0.1:{server.getsockname()[1]}")
        a.port.carry_out(listener(5, "127.0.0.1:0"))
        host, _, port = a.wait(ev.ListenerOpened).bound.rpartition(":")
        once_reachable(lambda: asked_at_the_door(a, ["api", None]))[0].close()
        server.settimeout(DEADLINE)
        server.accept()[0].close()
        with socket.create_connection((host, int(port)), timeout=DEADLINE) as client:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            end, _ = server.accept()
            with end:
                asked = b"".join(iter(lambda: end.recv(4096), b""))
                end.sendall(asked.upper())
            assert b"".join(iter(lambda: client.recv(4096), b"")) == b"QUESTION"
    a.port.carry_out(fx.CloseListener(listener=5))


def probe(number: int, target: str, path: str = "") -> fx.ProbeService:
    return fx.ProbeService(
        number=number, target=target, path=path, proxy_header=False, timeout_ms=5_000
    )


@pytest.mark.parametrize("path", ["", "/healthz"])
def test_a_check_of_a_program_that_is_not_there_fails_with_one_event(
    sides: Callable[[str], Side], folder: Path, path: str
) -> None:
    """Under its number, with a reason of one line that has no address."""
    a = sides("a")
    target = f"unix:{folder}/nobody"
    a.port.carry_out(probe(7, target, path))
    event = a.wait(ev.ServiceProbed)
    assert (event.number, event.slug) == (7, "provider-refused")
    assert event.reason and "\n" not in event.reason and "nobody" not in event.reason
    assert a.faults == []


@pytest.mark.parametrize("native", REAL, indirect=True)
def test_a_check_asks_a_program_and_says_how_it_answered(sides: Callable[[str], Side]) -> None:
    """Whoever accepts passes; by HTTP the status says."""
    a = sides("a")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE)
        target = f"127.0.0.1:{server.getsockname()[1]}"
        a.port.carry_out(probe(1, target))
        server.accept()[0].close()
        assert a.wait(ev.ServiceProbed).slug == ""
        for number, status in ((2, 204), (3, 503)):
            a.port.carry_out(probe(number, target, "/up"))
            end, _ = server.accept()
            with end:
                assert end.recv(4096).startswith(b"GET /up HTTP/1.1\r\n")
                end.sendall(f"HTTP/1.1 {status} so\r\n\r\n".encode())
            event = a.wait(ev.ServiceProbed, number)
            assert (event.number, bool(event.slug)) == (number, status == 503)
    assert event.reason == "it answered HTTP 503"


def asked_at_the_door(side: Side, body: object, ahead: bytes = b"") -> tuple[socket.socket, Any]:
    """A client of ``call.sock`` that wants a tunnel, and what it is answered."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(DEADLINE)
    client.connect(str(side.call_socket))
    asked = msgspec.msgpack.encode(body)
    client.sendall(b"\0pln-t1\n" + len(asked).to_bytes(4, "big") + asked + ahead)
    length = int.from_bytes(client.recv(4, socket.MSG_WAITALL), "big")
    return client, msgspec.msgpack.decode(client.recv(length, socket.MSG_WAITALL))


def once_reachable(ask: Callable[[], tuple[socket.socket, Any]]) -> tuple[socket.socket, Any]:
    """What is answered when the peer can be reached: on a busy machine its link may be silent for
    a moment, and then it is not waited for."""
    until = time.monotonic() + DEADLINE
    while True:
        client, answer = ask()
        if answer[0] != "unreachable" or time.monotonic() > until:
            return client, answer
        client.close()


@pytest.mark.parametrize("native", REAL, indirect=True)
def test_a_client_of_the_door_names_a_service_and_its_socket_is_the_tunnel(
    sides: Callable[[str], Side],
) -> None:
    """What it sent behind its frame goes first; who gets none reads a slug, and then the end."""
    a, b = linked(sides)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE)
        serve(a, b, f"127.0.0.1:{server.getsockname()[1]}")
        for want in (["api", None], ["api", b.peer]):
            client, answer = once_reachable(lambda want=want: asked_at_the_door(a, want, b"early"))
            assert answer == ["", "", "", b.peer]
            end, _ = server.accept()
            with client, end:
                assert end.recv(5, socket.MSG_WAITALL) == b"early"
                end.sendall(b"late")
                end.shutdown(socket.SHUT_WR)
                assert client.recv(64, socket.MSG_WAITALL) == b"late"
    for want, slug in (
        (["api", None], "provider-refused"),
        (["other", None], "service-not-found"),
        (["api", a.peer], "service-not-found"),
        ("nonsense", "bad-request"),
    ):
        client, answer = asked_at_the_door(a, want, b"early")
        with client:
            assert (answer[0], answer[3], client.recv(1)) == (slug, None, b"")
            assert answer[1]


def test_a_delta_on_another_generation_is_stale(sides: Callable[[str], Side]) -> None:
    """The port turns it into a flag; the driver asks the node to push whole."""
    a = sides("a")
    push = fx.PushTables(generation=5, base=4, lanes={}, lease_ms=15_000)
    a.port.carry_out(push)
    assert (a.port.is_stale, a.faults) == (True, [])


def test_a_lane_of_rows_that_the_muscles_do_not_know_is_refused(
    sides: Callable[[str], Side],
) -> None:
    """A brain that is newer than its muscles is told so, and the tables stay as they were."""
    a = sides("a")
    with pytest.raises(Exception, match="moon") as caught:
        a.muscles.push_tables(generation=9, base=0, lanes={"moon": fx.LaneRows()}, lease_ms=1_000)
    assert slug_of(caught.value) == "bad-request"


def test_keys_survive_their_file_and_are_never_overwritten(native: Any, folder: Path) -> None:
    """The same public key comes back; mode 0600; an existing file is kept."""
    path = folder / "node.key"
    key = native.generate_key()
    key.save(str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert key.public == native.load_key(str(path)).public
    with pytest.raises(Exception):  # noqa: B017 the real and the fake raise other classes
        native.generate_key().save(str(path))
    assert key.public == native.load_key(str(path)).public


def test_signatures_hold_for_the_exact_bytes_only(native: Any) -> None:
    """Malformed keys and signatures are False, never an error."""
    key = native.generate_key()
    good = (key.public, b"message", key.sign(b"message"))
    assert native.verify(
        [good, (good[0], b"massage", good[2]), (b"short", b"m", good[2]), (good[0], b"m", b"")]
    ) == [True, False, False, False]


def test_the_descriptor_is_quiet_once_drained(sides: Callable[[str], Side]) -> None:
    """Else the loop would spin: readable means that something waits."""
    a, b = linked(sides)
    b.port.carry_out(fx.SendMessage(peer=a.peer, body=b"one"))
    a.wait(ev.MessageReceived)
    quiet = 0
    for _ in range(40):
        if select.select([a.muscles.event_fd()], [], [], 0.01)[0]:
            a.events += a.port.drain()
        else:
            quiet += 1
    assert quiet > 30


def test_closing_twice_is_harmless(native: Any, folder: Path) -> None:
    """Every handle closes idempotently, started or not."""
    key = native.generate_key()
    muscles = native.open_muscles(
        key=key, boot=b"z" * 16, directory=str(folder), memory_bytes=1 << 28
    )
    muscles.close(0)
    muscles.close(0)
