"""Which wheel a node takes over the mesh: who signed it, when, and what was taken before."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from pollen.core import limits
from pollen.core.admission.releases import Release, Standing, judge_release
from pollen.core.codec import Refusal, Signed, decode, encode
from pollen.core.commands import AuditCommand
from pollen.core.ids import SECOND, ClusterId, Hash, Nanos, PeerId, hash_of
from pollen.core.rootwords import ReleaseSigned, SignReleaseCommand, TakeReleaseCommand
from tests.unit.admission.test_granting import with_leaf
from tests.unit.world import World, make_key, signer, verify

CLUSTER = ClusterId(hash_of("cluster", b"ours"))
FIRST, NEWEST, STRANGE = make_key("first"), make_key("newest"), make_key("strange")
NOW = Nanos(1_000 * Release.LIFE_NS)
WHEEL = "ab" * 32


def made(**fields: Any) -> Release:
    """A release of the newest root, signed now."""
    told = {
        "cluster": CLUSTER,
        "root": NEWEST,
        "issued": NOW,
        "expires": NOW + Release.LIFE_NS,
        "wheel": Hash(bytes.fromhex(WHEEL)),
        "size": 18 << 20,
        "version": "0.2.0",
        "tags": "py3-none-any",
    }
    return Release(**{**told, **fields})


def signed(by: PeerId | None = None, **fields: Any) -> Signed:
    release = made(**fields)
    key = by or PeerId(release.root)
    return release.signed(signer(key, key))


def judged(carried: Signed | None, **fields: Any) -> Release | Refusal:
    told: dict[str, Any] = {
        "cluster": CLUSTER,
        "roots": [FIRST, NEWEST],
        "wall": NOW,
        "takes_from": "root",
        **fields,
    }
    return judge_release(carried, Standing(**told), verify)


def slug(carried: Signed | None, **fields: Any) -> str:
    found = judged(carried, **fields)
    return found.slug if isinstance(found, Refusal) else ""


def test_what_the_newest_root_signed_is_taken() -> None:
    assert judged(signed()) == made()


def test_a_node_that_takes_none_takes_none_of_the_root_either() -> None:
    """Whatever the setting says that is not root; nothing else is looked at."""
    for word in ("nobody", "", "anybody"):
        assert slug(signed(), takes_from=word) == "upgrade-not-taken"
        assert slug(None, takes_from=word) == "upgrade-not-taken"


@pytest.mark.parametrize(
    "carried",
    [
        None,
        Signed(b"", bytes(64)),
        Signed(b"\x90", bytes(64)),
        signed(cluster=ClusterId(hash_of("cluster", b"theirs"))),
        signed(root=FIRST),
        signed(root=STRANGE),
        signed(by=STRANGE),
        signed(by=FIRST),
        msgspec.structs.replace(signed(), body=signed(allow_older=True).body),
        signed(size=0),
        signed(size=Release.SIZE_MAX + 1),
    ],
)
def test_who_else_signed_is_refused(carried: Signed | None) -> None:
    """Junk, another cluster, a root with a successor, a stranger, other bytes, no wheel."""
    assert slug(carried) == "release-denied"


def test_a_root_counts_until_it_has_a_successor() -> None:
    assert slug(signed(root=FIRST), roots=[FIRST]) == ""
    assert slug(signed(root=FIRST), roots=[FIRST, NEWEST]) == "release-denied"


def test_a_displaced_successor_is_refused() -> None:
    """It is in no line of roots, and says that it is one."""
    found = judged(signed(root=STRANGE))
    assert isinstance(found, Refusal) and "is not a root of this cluster" in found.reason


def test_a_release_has_its_time() -> None:
    """Until it expires, by the clock of the node; one of the future only within the tolerance."""
    end = Nanos(NOW + Release.LIFE_NS)
    assert slug(signed(), wall=Nanos(end - 1)) == ""
    assert slug(signed(), wall=end) == "release-stale"
    assert slug(signed(), wall=Nanos(NOW - limits.CLOCK_TOLERANCE_NS)) == ""
    assert slug(signed(), wall=Nanos(NOW - limits.CLOCK_TOLERANCE_NS - 1)) == "release-stale"


def test_an_older_release_is_no_replay() -> None:
    """The last one taken may come again, and a later one; nothing from before it, and no other of
    its very moment."""
    last = signed()
    assert slug(last, last=last) == ""
    assert slug(signed(issued=NOW + 1), last=last) == ""
    assert slug(signed(issued=NOW - 1), last=last) == "release-stale"
    assert slug(signed(version="0.1.0"), last=last) == "release-stale"


def test_a_new_root_counts_from_its_first_release_and_junk_on_the_disk_binds_nobody() -> None:
    last = signed(root=FIRST, issued=NOW + 2 * SECOND)
    assert slug(signed(), last=last) == ""
    assert slug(signed(), last=Signed(b"junk", bytes(64))) == ""


# -- whole nodes ---------------------------------------------------------------------------------


def command(**fields: Any) -> SignReleaseCommand:
    told = {"wheel": WHEEL, "size": 18 << 20, "version": "0.2.0", "tags": "py3-none-any"}
    return SignReleaseCommand(**{**told, **fields})


def released(world: World, name: str = "a") -> str:
    said = world.ask(name, command())
    assert isinstance(said, ReleaseSigned)
    return said.release


def test_the_node_of_the_root_signs_and_the_others_take_it() -> None:
    """It stands among the acts; each node logs what it took."""
    world = with_leaf()
    release = released(world)
    world.run(2 * SECOND)
    for name in "bcd":
        taken = world.ask(name, TakeReleaseCommand(release=release, takes_from="root"))
        assert (taken.wheel, taken.version, taken.allow_older) == (WHEEL, "0.2.0", False)
        assert [log.event for log in world.machines[name].logs][-1] == "release-taken"
        acts = world.ask(name, AuditCommand()).acts
        assert any(act.verb == "release" and WHEEL in act.detail for act in acts)


def test_without_the_root_key_nothing_is_signed() -> None:
    world = with_leaf()
    reply = world.command("b", command())
    assert reply.slug == "root-not-here" and "pln root import" in reply.remedy


def test_what_is_not_a_wheel_is_not_signed() -> None:
    world = with_leaf()
    for fields in ({"wheel": "ab"}, {"size": 0}, {"size": 1 << 31}, {"version": ""}, {"tags": ""}):
        assert world.command("a", command(**fields)).slug == "bad-request", fields


def test_a_refusal_is_in_the_log_of_the_node() -> None:
    world = with_leaf()
    for text in ("", "no base64!", base64.b64encode(b"junk").decode()):
        reply = world.command("b", TakeReleaseCommand(release=text, takes_from="root"))
        assert reply.slug == "release-denied"
        assert [log.event for log in world.machines["b"].logs][-1] == "release-refused"
    own = base64.b64decode(released(world))
    held = decode(Signed, own, "release")
    assert isinstance(held, Signed)
    forged = Signed(held.body, bytes(64))
    text = base64.b64encode(encode(forged)).decode()
    reply = world.command("b", TakeReleaseCommand(release=text, takes_from="root"))
    assert reply.slug == "release-denied" and "did not sign" in reply.reason
