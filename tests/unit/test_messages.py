"""Messages between brains: tags are fixed, the unknown is counted, noise is refused."""

from __future__ import annotations

import pytest

from pollen.core import messages
from pollen.core.codec import Rejection, encode
from pollen.core.messages import KINDS, Have, Want, decode_message, encode_message


def test_a_message_comes_back_as_it_was_said() -> None:
    said = Have([Want(b"o" * 32, 3, 9)])  # type: ignore[arg-type]
    assert said == decode_message(encode_message(said))


def test_every_tag_is_its_own() -> None:
    """A tag never changes its meaning: two kinds with one would be told apart by chance."""
    tags = [kind.__struct_config__.tag for kind in KINDS]
    assert len(tags) == len(set(tags))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([9_999, 1, 2], "message-unknown"),
        ([6], "message-malformed"),
        ([6, 1], "message-malformed"),
        ([-3], "message-malformed"),
        (["x"], "message-malformed"),
        ([], "message-malformed"),
        ({}, "message-malformed"),
        (7, "message-malformed"),
    ],
)
def test_what_is_no_message_is_a_rejection(value: object, kind: str) -> None:
    judged = decode_message(encode(value))
    assert isinstance(judged, Rejection)
    assert kind == judged.kind


def test_a_message_over_a_frame_is_not_even_decoded() -> None:
    judged = decode_message(b"\x90" * (messages.MESSAGE_MAX_BYTES + 1))
    assert isinstance(judged, Rejection)
    assert judged.kind == "message-too-large"


def test_fields_appended_by_a_newer_peer_are_ignored() -> None:
    assert decode_message(encode([6, [], True, "new"])) == Have([], True)
