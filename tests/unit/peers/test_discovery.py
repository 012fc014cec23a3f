"""Discovery: the setting, static lists, sealed surveys, and when they begin by themselves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pollen.core import limits
from pollen.core.codec import Rejection, encode
from pollen.core.ids import DAY, SECOND, ClusterId, Nanos, Now, PeerId
from pollen.core.peers.discovery import contract, envelope, multicast
from pollen.core.peers.discovery.contract import Action, Context, Found, Send
from pollen.core.peers.discovery.envelope import Response, Survey, decode_datagram, encode_datagram
from pollen.core.peers.discovery.finder import Finder
from pollen.core.peers.discovery.multicast import Bucket, Multicast
from pollen.core.peers.discovery.static import Static
from pollen.core.rng import Rng
from pollen.errors import BadRequest
from tests.unit.world import make_key, signer, verify

CLUSTER = ClusterId(b"c" * 32)
HOME = ["192.0.2.1:60611"]
KNOWN: dict[str, contract.Factory] = {"static": Static, "multicast": Multicast}
VECTORS = Path(__file__).parents[2] / "vectors" / "discovery.json"


def seal(key: bytes, nonce: bytes, plain: bytes) -> bytes:
    """What an AEAD promises, for tests: a keyed stream and a tag."""
    stream = hashlib.shake_256(key + nonce).digest(len(plain))
    hidden = bytes(a ^ b for a, b in zip(plain, stream, strict=True))
    return hidden + hashlib.blake2b(nonce + hidden, key=key, digest_size=16).digest()


def unseal(key: bytes, nonce: bytes, sealed: bytes) -> bytes | None:
    hidden, tag = sealed[:-16], sealed[-16:]
    if hashlib.blake2b(nonce + hidden, key=key, digest_size=16).digest() != tag:
        return None
    stream = hashlib.shake_256(key + nonce).digest(len(hidden))
    return bytes(a ^ b for a, b in zip(hidden, stream, strict=True))


def context_of(name: str, cluster: ClusterId = CLUSTER, **change: Any) -> Context:
    node = make_key(name)
    fields: dict[str, Any] = {
        "node": node, "cluster": cluster, "rng": Rng(len(name)), "sign": signer(node, None),
        "verify": verify, "seal": seal, "unseal": unseal,
    }  # fmt: skip
    return Context(**{**fields, **change})


def at(seconds: int, day: int = 20_000) -> Now:
    return Now(Nanos(1 + seconds * SECOND), Nanos(day * DAY + seconds * SECOND))


def survey_of(context: Context, distance: int = 32, nonce: bytes = b"n" * 16) -> bytes:
    said = Survey(context.cluster, context.node, nonce, distance)
    data = encode_datagram(said, context, at(0).wall)
    assert data is not None
    return data


def advertising(name: str) -> Multicast:
    held = Multicast("", context_of(name))
    held.advertise(CLUSTER, HOME, Nanos(10**15))
    return held


def sent(actions: list[Action]) -> list[bytes]:
    return [action.data for action in actions if isinstance(action, Send)]


# -- the setting -----------------------------------------------------------------------------------


def test_an_unknown_scheme_is_refused_with_the_known_ones() -> None:
    """At the start, in words that help."""
    with pytest.raises(BadRequest) as caught:
        contract.parse_setting("multicat", KNOWN, context_of("a"))
    assert caught.value.slug == "config-invalid"
    assert "did you mean multicast? known schemes: multicast, static" in caught.value.remedy


@pytest.mark.parametrize(
    "setting", ["static:192.0.2.1:1 multicast", ["static:192.0.2.1:1", "multicast"]]
)
def test_a_setting_is_words_or_a_list(setting: str | list[str]) -> None:
    """In the order in which they stand."""
    found = contract.parse_setting(setting, KNOWN, context_of("a"))
    assert [scheme for scheme, _ in found] == ["static", "multicast"]


BAD_WORDS = [
    "static:",
    "static:host:1",
    "static:192.0.2.1",
    "static:zz@192.0.2.1:1",
    "multicast:192.0.2.1:1",
    "multicast:239.1.2.3",
    "multicast:nowhere:1",
]


@pytest.mark.parametrize("word", BAD_WORDS)
def test_a_bad_argument_is_refused_with_the_right_form(word: str) -> None:
    """It names the word and says how to write it."""
    with pytest.raises(BadRequest) as caught:
        contract.parse_setting(word, KNOWN, context_of("a"))
    assert caught.value.remedy.startswith("write ")


def test_a_group_has_a_port_and_may_have_an_interface() -> None:
    """Without any: the default groups of both families."""
    held = multicast.read_group("[ff02::7]:6000@eth0")
    assert (held.port, held.groups, held.interface) == (6000, ["ff02::7"], "eth0")
    default = multicast.read_group("")
    assert (default.port, default.groups) == (60613, ["239.86.66.11", "ff02::5642:11"])


# -- static ----------------------------------------------------------------------------------------


def test_a_static_list_is_emitted_once_a_search() -> None:
    """With the peer where it is known."""
    peer = make_key("b")
    held = Static(f"192.0.2.1:1,{peer.hex()}@[2001:db8::1]:2", context_of("a"))
    found = held.find(CLUSTER, 3, at(0))
    assert found == [
        Found(peer=None, addresses=["192.0.2.1:1"]),
        Found(peer=peer, addresses=["[2001:db8::1]:2"]),
    ]
    assert held.find(CLUSTER, 0, at(1)) == []


# -- datagrams -------------------------------------------------------------------------------------


def test_a_datagram_is_read_by_its_cluster_for_three_days() -> None:
    """Clocks differ: yesterday's and tomorrow's key are accepted, no other."""
    data = survey_of(context_of("a"))
    read = [decode_datagram(data, context_of("b"), at(0, 20_000 + d).wall) for d in range(-2, 3)]
    assert [isinstance(said, Survey) for said in read] == [False, True, True, True, False]


def test_a_datagram_tells_a_listener_nothing() -> None:
    """Neither cluster nor node stand in it, and no two are alike."""
    context = context_of("a")
    one, two = survey_of(context), survey_of(context)
    assert one[:24] != two[:24]
    for secret in (CLUSTER, context.node):
        assert secret not in one
    other = decode_datagram(one, context_of("b", ClusterId(b"d" * 32)), at(0).wall)
    assert other == Rejection("datagram-foreign")


def test_nobody_speaks_for_another() -> None:
    """Accepted only if the signer is the peer named; altered bytes are foreign."""
    thief = context_of("thief")
    said = Survey(CLUSTER, make_key("a"), b"n" * 16, 32)
    data = encode_datagram(said, thief, at(0).wall)
    assert data is not None
    assert decode_datagram(data, context_of("b"), at(0).wall) == Rejection("datagram-signature")
    altered = data[:40] + bytes([data[40] ^ 1]) + data[41:]
    assert decode_datagram(altered, context_of("b"), at(0).wall) == Rejection("datagram-foreign")


def test_a_datagram_never_outgrows_its_limit() -> None:
    """Nothing is cut: it is not sent."""
    said = Response(CLUSTER, make_key("a"), b"n" * 16, ["x" * 300] * 16)
    assert encode_datagram(said, context_of("a"), at(0).wall) is None
    big = decode_datagram(b"x" * (limits.DATAGRAM_MAX_BYTES + 1), context_of("a"), at(0).wall)
    assert big == Rejection("datagram-size", "2049 bytes")


def test_without_a_cipher_nothing_is_said_or_understood() -> None:
    """Muscles that cannot seal take no part."""
    deaf = context_of("a", seal=None, unseal=None)
    assert encode_datagram(Survey(CLUSTER, deaf.node, b"n" * 16, 32), deaf, at(0).wall) is None
    heard = decode_datagram(survey_of(context_of("b")), deaf, at(0).wall)
    assert isinstance(heard, Rejection)


@pytest.mark.parametrize("row", json.loads(VECTORS.read_text()), ids=lambda row: row["name"])
def test_golden_bytes_of_surveys(row: Any) -> None:
    """Key of the day and body, as written down in tests/vectors."""
    cluster, node, nonce = (bytes.fromhex(row[k]) for k in ("cluster", "node", "nonce"))
    assert row["key"] == envelope.key_of(ClusterId(cluster), row["day"]).hex()
    said = (
        Survey(cluster, node, nonce, row["distance"])
        if "distance" in row
        else Response(cluster, node, nonce, row["addresses"])
    )
    assert row["body"] == encode(said).hex()


# -- multicast -------------------------------------------------------------------------------------


def test_a_survey_is_answered_with_our_addresses_to_the_group() -> None:
    """And the asker finds us by it; so does everybody who hears it."""
    (data,) = sent(advertising("b").on_datagram(survey_of(context_of("a")), "x:1", at(0)))
    for name in ("a", "c"):
        found = Multicast("", context_of(name)).on_datagram(data, "x:1", at(0))
        assert found == [Found(peer=make_key("b"), addresses=HOME)]


def test_who_does_not_advertise_does_not_answer() -> None:
    """Not yet, not any more, or another cluster."""
    data = survey_of(context_of("a"))
    held = Multicast("", context_of("b"))
    assert held.on_datagram(data, "x:1", at(0)) == []
    held.advertise(CLUSTER, HOME, at(5).mono)
    assert len(held.on_datagram(data, "x:1", at(4))) == 1
    assert held.on_datagram(data, "x:1", at(5)) == []
    held.advertise(ClusterId(b"d" * 32), HOME, at(99).mono)
    assert held.on_datagram(data, "x:1", at(6)) == []


def test_own_datagrams_and_noise_are_dropped() -> None:
    """Noise is counted."""
    held = advertising("b")
    assert held.on_datagram(survey_of(context_of("b")), "x:1", at(0)) == []
    assert held.on_datagram(b"noise" * 20, "x:1", at(0)) == []
    assert held.faults == {"datagram-foreign": 1}


@pytest.mark.parametrize(
    ("own", "asker", "distance", "expected"),
    [
        (0b1000, 0b1111, 3, True),
        (0b1000, 0b0111, 3, False),
        (0b1000, 0b0111, 4, True),
        (0, 2**32 - 1, 31, False),
        (0, 2**32 - 1, 32, True),
        (0, 2**32 - 1, 255, True),
        (7, 7, 0, True),
    ],
)
def test_distance_counts_the_bits_that_may_differ(
    own: int, asker: int, distance: int, expected: bool
) -> None:
    """(last 4 bytes XOR last 4 bytes) >> distance == 0; 32 is everybody."""

    def peer(tail: int) -> PeerId:
        return PeerId(b"\xff" * 28 + tail.to_bytes(4, "big"))

    assert expected == multicast.is_within(peer(own), peer(asker), distance)


def test_a_repeated_question_gets_the_first_answer_until_addresses_change() -> None:
    """Signed once; a moved node never answers with where it was."""
    held, data = advertising("b"), survey_of(context_of("a"))
    first = sent(held.on_datagram(data, "x:1", at(0)))
    assert first == sent(held.on_datagram(data, "x:1", at(1)))
    held.advertise(CLUSTER, ["192.0.2.9:60611"], Nanos(10**15))
    (second,) = sent(held.on_datagram(data, "x:1", at(2)))
    found = Multicast("", context_of("a")).on_datagram(second, "x:1", at(2))
    assert found == [Found(peer=make_key("b"), addresses=["192.0.2.9:60611"])]


def test_at_most_eight_at_once_and_32_a_second_leave() -> None:
    """A flood of surveys makes no flood of answers."""
    held = advertising("b")
    asked = [survey_of(context_of("a"), nonce=i.to_bytes(16, "big")) for i in range(60)]
    answers = [len(held.on_datagram(data, "x:1", at(0))) for data in asked]
    assert sum(answers) == limits.DATAGRAM_BURST
    bucket = Bucket(32, 8)
    times = [Nanos(10 * SECOND + i * SECOND // 100) for i in range(200)]
    assert 32 * 2 - 2 <= sum(bucket.take(t) for t in times) <= 32 * 2 + 8


@pytest.mark.parametrize(
    ("expected", "limit", "distance"), [(0, 3, 32), (3, 3, 32), (6, 3, 31), (1000, 3, 24)]
)
def test_the_first_distance_follows_the_peers_expected(
    expected: int, limit: int, distance: int
) -> None:
    """A small network is asked whole at once."""
    assert distance == multicast.first_distance(expected, limit)


def test_a_survey_widens_step_by_step_and_then_waits_longer() -> None:
    """One nonce a search, so that repeated questions are known; it ends when told."""
    held = Multicast("", context_of("a"))
    held.expected = 24
    distances, times = [], []
    actions, now = held.find(CLUSTER, 3, at(0)), at(0)
    for _ in range(12):
        for data in sent(actions):
            said = decode_datagram(data, context_of("b"), now.wall)
            assert isinstance(said, Survey)
            distances.append(said.distance)
            times.append(now.mono)
        assert held.due is not None
        now = Now(held.due, now.wall)
        actions = held.on_timer(now)
    assert distances[:5] == [29, 30, 31, 32, 32]
    assert times[-1] - times[-2] > 4 * (times[1] - times[0])
    held.find(CLUSTER, 0, now)
    assert held.due is None


# -- together --------------------------------------------------------------------------------------


def finder_of(named: str) -> Finder:
    context = context_of("a")
    chosen = contract.parse_setting(named, KNOWN, context)
    return Finder(CLUSTER, chosen, [("multicast", lambda: Multicast("", context))])


def test_multicast_begins_by_itself_after_thirty_seconds_alone() -> None:
    """A power cut, new addresses everywhere: the LAN heals alone."""
    finder = finder_of("")
    for second in range(30):
        assert finder.tick(0, HOME, at(second)) == []
    ((held, action),) = finder.tick(0, HOME, at(30))
    assert (held.scheme, type(action)) == ("multicast", Send)


def test_a_reachable_peer_puts_it_off() -> None:
    """Thirty seconds without any, from the last one on."""
    finder = finder_of("")
    for second in range(60):
        assert finder.tick(int(second == 29), HOME, at(second)) == []
    assert len(finder.tick(0, HOME, at(60))) == 1


def test_a_named_multicast_is_not_started_twice() -> None:
    """The automatic one is only for who has none."""
    finder = finder_of("multicast")
    for second in range(40):
        finder.tick(0, HOME, at(second))
    assert [held.scheme for held in finder.running] == ["multicast"]


def test_a_search_ends_with_a_link_and_begins_again_without() -> None:
    """Static lists are tried again every thirty seconds while the node is alone."""
    finder = finder_of("static:192.0.2.1:1")
    seen = [len(finder.tick(linked, HOME, at(s))) for s, linked in enumerate([0, 0, 1, 1, 0, 0])]
    assert seen == [1, 0, 0, 0, 1, 0]
    later = [held.scheme for s in range(6, 70) for held, _ in finder.tick(0, HOME, at(s))]
    assert later.count("static") == 2
