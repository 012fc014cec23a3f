"""Requests to the root and its answers: what goes in comes out, and no byte changes on the way."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollen.cli import paper
from pollen.core.codec import Refusal, encode
from pollen.core.ids import ClusterId, PeerId
from pollen.core.limits import DENY_GENERATION_MAX
from pollen.core.policy import PUBLISHERS, Node, packed, parse
from pollen.core.trust import Certificate, RootRequest
from pollen.core.trust.denies import Deny
from pollen.core.trust.papers import CERTIFICATE, DENY, SUCCESSION, Paper
from pollen.core.trust.publishers import PublisherPolicy
from pollen.core.trust.succession import Succession
from pollen.errors import PollenError
from pollen.plain import escaped
from pollen.runtime.control.app import BODY_MAX
from tests import strategies as own
from tests.unit.world import make_key, signer, verify

ROOT, ASKER = make_key("root"), make_key("asker")
DRAWER = signer(ROOT, ROOT)


def certificate(subject: bytes, tier: int, generation: int) -> Paper:
    held = Certificate(own.CLUSTER, PeerId(subject), ROOT, tier, "{}", [], generation, 7)
    return Paper(CERTIFICATE, encode(held), "pi", b"before", [subject])


def deny(subject: bytes, reason: str) -> Paper:
    return Paper(DENY, encode(Deny(own.CLUSTER, PeerId(subject), 3, ROOT, 9, reason)), "pi")


def successor(key: bytes) -> Paper:
    return Paper(SUCCESSION, encode(Succession(own.CLUSTER, ROOT, PeerId(key), 11)))


def policy(text: str, number: int) -> Paper:
    """The next policy on publishers of a root that signed the one before."""
    tree = parse(text, PUBLISHERS)
    assert isinstance(tree, Node)
    before = PublisherPolicy(own.CLUSTER, ROOT, "publish", number, 12, text, packed(tree))
    held = before.signed(DRAWER)
    after = msgspec.structs.replace(before, number=number + 1)
    return RootRequest.papers_of_policy(after, held)[0]


papers = st.one_of(
    st.builds(certificate, own.raw_ids, st.integers(0, 2), st.integers(0, DENY_GENERATION_MAX)),
    st.builds(deny, own.raw_ids, own.texts),
    st.builds(successor, own.raw_ids),
    st.builds(
        policy,
        st.sampled_from(["true", 'caller.tier == "admin"', 'seed.name.startsWith("lab-")']),
        st.integers(0, PublisherPolicy.NUMBER_MAX - 1),
    ),
)
requests = st.builds(
    RootRequest,
    st.just(own.CLUSTER),
    st.just(ROOT),
    st.just(ASKER),
    own.u64,
    st.lists(papers, min_size=1, max_size=4),
)


def sealed(request: RootRequest) -> bytes:
    return request.sealed(signer(ASKER, None))


def answered(request: RootRequest) -> bytes:
    answer = RootRequest.answered(sealed(request), DRAWER, verify)
    assert isinstance(answer, bytes), answer
    return answer


@given(requests)
def test_a_request_and_its_answer_come_back_as_they_were(request: RootRequest) -> None:
    """Each document with a signature of the root."""
    assert RootRequest.read(sealed(request), verify) == request
    read = RootRequest.read_answer(answered(request), verify)
    assert not isinstance(read, Refusal)
    assert read[0] == request
    assert [signed.body for signed in read[1]] == [paper.body for paper in request.papers]


@given(requests, st.integers(0, 1 << 30), st.integers(1, 255))
def test_one_flipped_byte_is_refused(request: RootRequest, at: int, mask: int) -> None:
    """Wherever it stands, in a request and in an answer."""
    for raw, read in (
        (sealed(request), RootRequest.read),
        (answered(request), RootRequest.read_answer),
    ):
        flipped = bytearray(raw)
        flipped[at % len(raw)] ^= mask
        result = read(bytes(flipped), verify)
        assert isinstance(result, Refusal)
        assert result.slug == "root-file-invalid"


@given(st.binary(max_size=300))
def test_hostile_bytes_are_refused_and_never_raise(raw: bytes) -> None:
    assert isinstance(RootRequest.read(raw, verify), Refusal)
    assert isinstance(RootRequest.read_answer(raw, verify), Refusal)


@given(st.lists(own.texts, max_size=3), st.binary(max_size=2000), st.sampled_from(["\n", "\r\n"]))
def test_a_sheet_gives_its_bytes_back_whatever_words_stand_above(
    words: list[str], raw: bytes, ends: str
) -> None:
    """Also with other ends of lines, and with words that look like its lines."""
    said = [*words, f"-----BEGIN {paper.ANSWER}-----", f"-----END {paper.REQUEST}-----"]
    text = paper.sheet(said, paper.ANSWER, raw).replace("\n", ends)
    assert paper.bytes_of(text, paper.ANSWER) == raw


@given(st.binary(min_size=1, max_size=500), st.integers(0, 1 << 30))
def test_a_letter_that_no_sheet_has_is_refused(raw: bytes, at: int) -> None:
    text = paper.sheet([], paper.REQUEST, raw)
    begin = text.index("-----\n") + 6
    inner = len(text[begin : text.index("-----END")])
    where = begin + at % inner
    damaged = text[:where] + "*" + text[where + 1 :]
    with pytest.raises(PollenError) as refused:
        paper.bytes_of(damaged, paper.REQUEST)
    assert refused.value.slug == "root-file-invalid"


@pytest.mark.parametrize("fault", ["cluster", "root", "lineage", "name", "many", "none"])
def test_a_request_for_what_is_not_the_roots_is_refused(fault: str) -> None:
    """Another cluster's document, another root's, one below somebody, a name that is not one."""

    def asking(cluster: bytes, issuer: PeerId, lineage: list[PeerId], name: str = "") -> Paper:
        held = Certificate(ClusterId(cluster), ASKER, issuer, 0, "{}", lineage, 1, 7)
        return Paper(CERTIFICATE, encode(held), name)

    made = {
        "cluster": [asking(b"x" * 32, ROOT, [])],
        "root": [asking(own.CLUSTER, ASKER, [])],
        "lineage": [asking(own.CLUSTER, ROOT, [ROOT])],
        "name": [asking(own.CLUSTER, ROOT, [], "\x1b[2J")],
        "many": [asking(own.CLUSTER, ROOT, [])] * (RootRequest.PAPERS_MAX + 1),
        "none": [],
    }[fault]
    good = RootRequest(own.CLUSTER, ROOT, ASKER, 1, [asking(own.CLUSTER, ROOT, [])])
    assert RootRequest.read(sealed(good), verify) == good
    request = RootRequest(own.CLUSTER, ROOT, ASKER, 1, made)
    assert isinstance(RootRequest.read(sealed(request), verify), Refusal)


def test_the_largest_request_and_its_answer_fit_a_file_and_a_body_of_the_control_api() -> None:
    """Words and all: those of the answer repeat each document, with what steers a terminal
    written as escapes."""
    held, space = [*range(RootRequest.PAPERS_MAX)], RootRequest.BYTES_MAX
    text = '{"x":"' + "\x7f" * (space // len(held) - 224) + '"}'
    made = [Certificate(own.CLUSTER, make_key(f"peer-{n}"), ROOT, 2, text, [], 1, 7) for n in held]
    request = RootRequest(
        own.CLUSTER, ROOT, ASKER, 1, [Paper(CERTIFICATE, encode(each), "p" * 63) for each in made]
    )
    assert space - 4096 < len(sealed(request)) <= space
    answer = answered(request)
    body = json.dumps({"answer": base64.b64encode(answer).decode()})
    assert len(body) <= BODY_MAX
    said = [escaped(sentence) for sentence in request.sentences()]
    for label, raw in ((paper.REQUEST, sealed(request)), (paper.ANSWER, answer)):
        assert len(paper.sheet(said, label, raw).encode()) <= paper.FILE_MAX
