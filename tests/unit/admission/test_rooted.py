"""The root key elsewhere: it is asked on paper, it is succeeded, it comes back and goes."""

from __future__ import annotations

import base64

import msgspec
import pytest

from pollen.core import codec, limits, restoring
from pollen.core.codec import Signed
from pollen.core.commands import AuditCommand, DenyCommand, GrantCommand, UndenyCommand
from pollen.core.ids import HOUR, SECOND, PeerId
from pollen.core.kinds import DENY, SUCCESSION
from pollen.core.records import Records
from pollen.core.rootwords import (
    Applied,
    ApplyCommand,
    HoldRootCommand,
    RootCommand,
    RootView,
    SucceedCommand,
)
from pollen.core.trust import RootRequest
from pollen.core.trust.certs import Certificate
from pollen.core.trust.denies import deny_key
from pollen.core.trust.leases import Credentials, decode_credentials
from tests.unit.admission.test_enrolment import key, trust_of
from tests.unit.admission.test_granting import members, refused, with_leaf
from tests.unit.authority import make_deny
from tests.unit.world import Machine, World, make_key, signer, verify


def signed(world: World, request: str, root: PeerId | None = None) -> str:
    """What the machine in the drawer answers to a request."""
    drawer = signer(make_key("drawer"), root or world._root)
    answer = RootRequest.answered(base64.b64decode(request), drawer, verify)
    assert isinstance(answer, bytes), answer
    return base64.b64encode(answer).decode()


def without_root(world: World) -> World:
    """The root key of a is in a drawer: nobody has it."""
    world.machines["a"].root = None
    world.ask("a", HoldRootCommand(root=""))
    return world


def tiers(world: World, at: str) -> dict[str, str]:
    """The tier of each member by its name, as one node shows it."""
    return {name: view.tier for name, view in members(world, at).items()}


def test_what_only_the_root_signs_is_asked_signed_elsewhere_and_counts_everywhere() -> None:
    """A leaf asks that d becomes an admin; b, an admin without the root key, publishes it."""
    world = without_root(with_leaf())
    assert refused(world, "b", GrantCommand(target="d", tier="admin"))[0] == "denied"
    said = world.ask("c", GrantCommand(target="d", tier="admin", by_root=True))
    assert (said.tier, bool(said.request)) == ("admin", True)
    world.run(2 * SECOND)
    assert tiers(world, "a")["d"] == "publisher", "a request changes nothing"
    done = world.ask("b", ApplyCommand(answer=signed(world, said.request)))
    assert done.changed
    assert done.done[0].startswith("d ")
    world.run(2 * SECOND)
    for name in "abcd":
        assert tiers(world, name)["d"] == "admin"
        assert members(world, name)["d"].issuer_name == "the root"
    acts = [(act.verb, act.subject_name) for act in world.ask("a", AuditCommand()).acts]
    assert ("grant", "d") in acts


def test_an_answer_that_was_published_changes_nothing_the_second_time() -> None:
    world = without_root(with_leaf())
    said = world.ask("a", GrantCommand(target="c", tier="admin", by_root=True))
    answer = signed(world, said.request)
    assert world.ask("a", ApplyCommand(answer=answer)).changed
    world.run(2 * SECOND)
    before = members(world, "a")["c"].generation
    for name in "ab":
        assert world.ask(name, ApplyCommand(answer=answer)).changed is False
    world.run(2 * SECOND)
    assert members(world, "a")["c"].generation == before


def test_an_answer_is_refused_when_the_member_was_denied_or_granted_meanwhile() -> None:
    """It knows nothing of that; what was decided later stands."""
    world = without_root(with_leaf())
    request = world.ask("c", GrantCommand(target="d", tier="admin", by_root=True)).request
    answer = signed(world, request)
    world.ask("b", GrantCommand(target="d", properties='{"x":1}'))
    world.run(2 * SECOND)
    slug, reason = refused(world, "b", ApplyCommand(answer=answer))
    assert (slug, "granted something else since" in reason) == ("root-file-stale", True)
    request = world.ask("c", GrantCommand(target="d", tier="admin", by_root=True)).request
    answer = signed(world, request)
    world.ask("b", DenyCommand(targets=["d"]))
    world.run(2 * SECOND)
    slug, reason = refused(world, "b", ApplyCommand(answer=answer))
    assert (slug, "was denied since" in reason) == ("root-file-stale", True)
    assert members(world, "a")["d"].state == "denied"


def test_an_answer_that_was_published_is_too_old_once_the_member_is_denied() -> None:
    """Nobody is told that a member is an admin which was put out since."""
    world = without_root(with_leaf())
    said = world.ask("a", GrantCommand(target="c", tier="admin", by_root=True))
    answer = signed(world, said.request)
    assert world.ask("a", ApplyCommand(answer=answer)).changed
    world.run(2 * SECOND)
    said = world.ask("b", DenyCommand(targets=["c"], by_root=True))
    assert world.ask("b", ApplyCommand(answer=signed(world, said.request))).changed
    world.run(2 * SECOND)
    for name in "ab":
        reply = world.command(name, ApplyCommand(answer=answer))
        assert (reply.slug, "was denied since" in reply.reason) == ("root-file-stale", True)
        assert "pln undeny PEER --request FILE" in reply.remedy
    assert members(world, "a")["c"].state == "denied"


def test_a_node_that_has_not_heard_of_what_a_request_builds_on_says_so() -> None:
    world = without_root(with_leaf())
    world.kill("a")
    world.ask("b", GrantCommand(target="d", properties='{"x":1}'))
    world.run(SECOND)
    request = world.ask("b", GrantCommand(target="d", tier="admin", by_root=True)).request
    for name in "bcd":
        world.kill(name)
    world.start("a")
    world.run(SECOND)
    reason = refused(world, "a", ApplyCommand(answer=signed(world, request)))
    assert reason[0] == "root-file-stale"
    assert "has not heard yet" in reason[1]


def test_denies_and_undenies_of_what_the_root_gave_are_signed_elsewhere_as_well() -> None:
    """b is the root's own: with it d would fall, but d is kept and stands below the root."""
    world = without_root(with_leaf())
    asked = DenyCommand(targets=["b"], cascade=False, reason="sold", by_root=True)
    said = world.ask("c", asked)
    assert [kept.name for kept in said.kept] == ["d"]
    done = world.ask("a", ApplyCommand(answer=signed(world, said.request)))
    assert any("sold" in line for line in done.done)
    world.run(2 * SECOND)
    for name in "acd":
        states = {n: v.state for n, v in members(world, name).items()}
        assert (states["b"], states["d"] != "denied") == ("denied", True)
    said = world.ask("d", UndenyCommand(target="b", by_root=True))
    world.ask("a", ApplyCommand(answer=signed(world, said.request)))
    world.run(200 * SECOND)
    assert tiers(world, "c")["b"] == "admin"
    assert members(world, "c")["b"].state == "online"


def test_a_request_that_no_file_would_hold_is_refused_where_it_is_made() -> None:
    """And not where the root key is, far away: members with large properties are fewer to ask."""
    world = with_leaf()
    large = '{"x":"' + "y" * 4_000 + '"}'
    for number in range(26):
        name = f"m{number}"
        assert isinstance(world.join(name, world.invite("b", "publisher")), Machine)
        world.run(SECOND)
        world.ask("b", GrantCommand(target=name, properties=large))
    world.run(3 * SECOND)
    without_root(world)
    asked = DenyCommand(targets=["b"], cascade=False, by_root=True)
    reply = world.command("a", asked)
    assert (reply.slug, "KiB" in reply.reason) == ("bad-request", True)
    assert "pln undeny" in reply.remedy
    assert members(world, "a")["b"].state != "denied"
    said = world.ask("a", DenyCommand(targets=["b"], by_root=True))
    assert len(base64.b64decode(said.request)) < RootRequest.BYTES_MAX


def test_a_member_that_is_no_admin_publishes_no_certificate_of_the_root() -> None:
    """Nobody would count its lease; a deny needs none."""
    world = without_root(with_leaf())
    said = world.ask("a", GrantCommand(target="d", tier="admin", by_root=True))
    slug, reason = refused(world, "c", ApplyCommand(answer=signed(world, said.request)))
    assert (slug, "not an admin" in reason) == ("denied", True)
    said = world.ask("a", DenyCommand(targets=["d"], by_root=True))
    assert isinstance(world.ask("c", ApplyCommand(answer=signed(world, said.request))), Applied)
    world.run(2 * SECOND)
    assert members(world, "a")["d"].state == "denied"


@pytest.mark.parametrize("answer", ["", "AAAA", "not base64", "kQ=="])
def test_what_is_not_an_answer_is_refused(answer: str) -> None:
    world = with_leaf()
    assert refused(world, "a", ApplyCommand(answer=answer))[0] == "root-file-invalid"


def test_an_answer_of_another_cluster_is_refused() -> None:
    """Also when it bears the same names."""
    world, other = without_root(with_leaf()), with_leaf()
    other.cluster_id = world.cluster_id
    request = RootRequest(b"x" * 32, world._root, key(world, "a"), 1, _papers(world))
    raw = request.sealed(signer(key(world, "a"), None))
    answer = RootRequest.answered(raw, signer(make_key("drawer"), world._root), verify)
    assert getattr(answer, "slug", "") == "root-file-invalid", "its documents are of this cluster"
    stranger = make_key("stranger")
    said = world.ask("a", GrantCommand(target="c", tier="admin", by_root=True))
    forged = RootRequest.answered(
        base64.b64decode(said.request), signer(make_key("drawer"), stranger), verify
    )
    assert getattr(forged, "slug", "") == "root-file-invalid", "another key signed it"


def _papers(world: World) -> list[object]:
    said = world.ask("a", GrantCommand(target="c", tier="admin", by_root=True))
    request = RootRequest.read(base64.b64decode(said.request), verify)
    assert isinstance(request, RootRequest)
    return list(request.papers)


def test_an_answer_for_a_root_that_is_not_known_is_foreign() -> None:
    """A succession of a strange root, of a cluster that says it is this one."""
    world, stranger = with_leaf(), make_key("stranger")
    own = signer(stranger, stranger)
    carried = RootRequest.succession(world.cluster_id, stranger, make_key("next"), 1, own)
    request = RootRequest.of_succession(carried, stranger, world.cluster_id, 1)
    answer = RootRequest.answered(request.sealed(own), own, verify)
    assert isinstance(answer, bytes)
    text = base64.b64encode(answer).decode()
    assert refused(world, "a", ApplyCommand(answer=text))[0] == "root-file-foreign"


# -- succession ---------------------------------------------------------------------------------


def record_set(world: World, name: str) -> Records:
    """The records that a node holds."""
    node = world.machines[name].node
    assert node is not None
    return node._records


def line_on_disk(world: World, name: str) -> list[Signed]:
    """The successions in the credentials that a machine's disk holds."""
    identity = restoring.read_identity(world.machines[name].disk.restored())
    assert identity is not None
    shown = decode_credentials(identity.chain)
    assert isinstance(shown, Credentials)
    return shown.successions


def succeed(world: World, name: str, successor: PeerId) -> RootView:
    """A node's root is succeeded, and the new key takes its place there."""
    view: RootView = world.ask(name, SucceedCommand(successor=successor.hex()))
    machine = world.machines[name]
    machine.root = successor
    world.kill(name)
    world.start(name)
    world.run(3 * SECOND)
    return view


def test_a_successor_signs_like_the_root_on_every_node_and_for_newcomers() -> None:
    """What the old root gave goes on to count; two successions of one node both stand."""
    world = with_leaf()
    for number in range(2):
        successor = make_key(f"root-{number}")
        view = succeed(world, "a", successor)
        assert [link.root for link in view.line][-1] == successor.hex()
    world.run(5 * SECOND)
    assert world.ask("a", RootCommand()).held == successor.hex()
    world.ask("a", GrantCommand(target="d", tier="admin"))
    world.run(3 * SECOND)
    assert isinstance(world.join("e", world.invite("d")), Machine)
    world.run(5 * SECOND)
    for name in "abcde":
        view = world.ask(name, RootCommand())
        assert len(view.line) == 3
        assert tiers(world, name) == {
            "a": "admin", "b": "admin", "c": "publisher", "d": "admin", "e": "publisher",
        }  # fmt: skip
        assert view.line[2].members == ["d"]
        assert len(list(record_set(world, name).live_of(SUCCESSION))) == 2
        assert len(line_on_disk(world, name)) == 2, "a node that is down knows its roots as well"
    for name in "abcde":
        world.kill(name)
    for name in "bde":
        world.start(name)
    world.run(30 * SECOND)
    assert len(world.ask("e", RootCommand()).line) == 3, "also after a restart without a"
    assert tiers(world, "e")["d"] == "admin"


def test_whom_a_displaced_successor_denied_is_a_member_and_shown_everywhere() -> None:
    """Two successors made apart: each node says alike which is void, and whose deny with it."""
    world, stands, void = with_leaf(), make_key("stands"), make_key("void")
    for name in "bcd":
        world.kill(name)
    succeed(world, "a", stands)
    world.kill("a")
    world.machines["b"].root = world._root
    for name in "bcd":
        world.start(name)
    world.run(5 * SECOND)
    succeed(world, "b", void)
    assert world.ask("b", DenyCommand(targets=["c"])).denied[0].name == "c"
    world.run(3 * SECOND)
    assert members(world, "d")["c"].state == "denied"
    world.start("a")
    world.run(200 * SECOND)
    for name in "abcd":
        view = world.ask(name, RootCommand())
        assert [link.root for link in view.line] == [world._root.hex(), stands.hex()]
        shown = [(r.root, r.before, r.denied, r.ids) for r in view.displaced]
        assert shown == [(void.hex(), world._root.hex(), ["c"], [key(world, "c").hex()])]
        assert members(world, name)["c"].state in ("online", "self"), name
    world.ask("a", DenyCommand(targets=["c"]))
    world.run(3 * SECOND)
    for name in "abd":
        assert world.ask(name, RootCommand()).displaced[0].denied == []
        assert members(world, name)["c"].state == "denied"


def test_a_succession_that_was_signed_elsewhere_is_published() -> None:
    world, successor = without_root(with_leaf()), make_key("next")
    drawer = signer(world._root, world._root)
    carried = RootRequest.succession(world.cluster_id, world._root, successor, 7, drawer)
    request = RootRequest.of_succession(carried, world._root, world.cluster_id, 7)
    answer = RootRequest.answered(request.sealed(drawer), drawer, verify)
    assert isinstance(answer, bytes)
    text = base64.b64encode(answer).decode()
    assert successor.hex() in world.ask("c", ApplyCommand(answer=text)).done[0]
    world.run(3 * SECOND)
    for name in "abcd":
        assert world.ask(name, RootCommand()).line[-1].root == successor.hex()
    other = RootRequest.succession(world.cluster_id, world._root, make_key("rival"), 9, drawer)
    request = RootRequest.of_succession(other, world._root, world.cluster_id, 9)
    late = RootRequest.answered(request.sealed(drawer), drawer, verify)
    assert isinstance(late, bytes)
    text = base64.b64encode(late).decode()
    slug, reason = refused(world, "a", ApplyCommand(answer=text))
    assert (slug, "has a successor already" in reason) == ("root-file-stale", True)


@pytest.mark.parametrize(
    ("successor", "slug"),
    [("ff", "bad-request"), (make_key("b").hex(), "bad-request")],
)
def test_a_successor_is_a_new_key(successor: str, slug: str) -> None:
    world = with_leaf()
    assert refused(world, "a", SucceedCommand(successor=successor))[0] == slug


def test_who_has_no_root_key_does_not_succeed_it_and_an_old_one_does_not_again() -> None:
    world = with_leaf()
    command = SucceedCommand(successor=make_key("next").hex())
    assert refused(world, "b", command)[0] == "root-not-here"
    assert world.ask("a", command).line[-1].root == command.successor
    assert world.ask("a", command).line[-1].root == command.successor, "the same changes nothing"
    rival = SucceedCommand(successor=make_key("rival").hex())
    assert refused(world, "a", rival)[0] == "root-file-stale"


def test_a_line_of_roots_has_an_end() -> None:
    """Nodes follow so many successions and no more, so no more are made."""
    world = with_leaf()
    for number in range(limits.SUCCESSIONS_MAX):
        succeed(world, "a", make_key(f"root-{number}"))
    slug, reason = refused(world, "a", SucceedCommand(successor=make_key("last").hex()))
    assert (slug, "is the limit" in reason) == ("denied", True)


# -- here or not --------------------------------------------------------------------------------


def test_a_key_that_comes_here_signs_and_one_that_left_signs_no_more() -> None:
    """Without a restart; a key that is not a root of this cluster is refused."""
    world = without_root(with_leaf())
    assert world.ask("a", RootCommand()).held == ""
    assert refused(world, "a", GrantCommand(target="c", tier="admin"))[0] == "denied"
    stranger = HoldRootCommand(root=make_key("stranger").hex())
    assert refused(world, "a", stranger)[0] == "root-file-foreign"
    assert world.ask("a", RootCommand()).held == ""
    machine = world.machines["b"]
    machine.root = world._root
    world.kill("b")
    world.start("b")
    world.run(2 * SECOND)
    assert world.ask("b", HoldRootCommand(root=world._root.hex())).held == world._root.hex()
    world.ask("b", GrantCommand(target="c", tier="admin"))
    world.run(2 * SECOND)
    assert world.ask("d", RootCommand()).admins == ["a", "b", "c"]


def test_a_member_that_gets_the_root_key_makes_itself_an_admin() -> None:
    """All admins are gone: the root key on any member brings them back."""
    world = with_leaf()
    for name in "ab":
        world.kill(name)
    world.machines["c"].root = world._root
    world.kill("c")
    world.start("c")
    world.run(3 * SECOND)
    slug, _ = refused(world, "c", GrantCommand(target="d", tier="leaf"))
    assert slug == "denied"
    assert world.ask("c", GrantCommand(target="c", tier="admin")).tier == "admin"
    world.run(3 * SECOND)
    world.ask("c", GrantCommand(target="d", tier="admin"))
    world.run(3 * SECOND)
    assert tiers(world, "d")["c"] == "admin"
    assert tiers(world, "d")["d"] == "admin"
    assert isinstance(world.join("e", world.invite("c")), Machine)


def test_of_two_answers_of_one_generation_the_later_counts_whatever_the_member_shows() -> None:
    """One was thrown away and never published, but a signed certificate counts for who has it."""
    world = without_root(with_leaf())
    first = world.ask("c", GrantCommand(target="c", tier="admin", by_root=True)).request
    world.run(SECOND)
    second = world.ask("c", GrantCommand(target="c", properties='{"x":1}', by_root=True)).request
    world.ask("b", ApplyCommand(answer=signed(world, second)))
    world.run(2 * SECOND)
    kept = RootRequest.read_answer(base64.b64decode(signed(world, first)), verify)
    assert isinstance(kept, tuple)
    for name in "abd":
        trust_of(world, name).declare(key(world, "c"), kept[1])
        assert tiers(world, name)["c"] == "publisher"


def test_a_request_whose_generation_no_deny_could_name_is_refused() -> None:
    """Once signed, its subject could not be denied any more."""
    world = without_root(with_leaf())
    asked = world.ask("c", GrantCommand(target="c", tier="admin", by_root=True)).request
    sealed = codec.decode(Signed, base64.b64decode(asked), "root-request")
    assert isinstance(sealed, Signed)
    request = codec.decode(RootRequest, sealed.body, "root-request")
    assert isinstance(request, RootRequest)
    certificate = request.papers[0].read()
    assert isinstance(certificate, Certificate)
    for generation in (limits.DENY_GENERATION_MAX, limits.DENY_GENERATION_MAX + 1):
        body = codec.encode(msgspec.structs.replace(certificate, generation=generation))
        paper = msgspec.structs.replace(request.papers[0], body=body)
        forged = msgspec.structs.replace(request, papers=[paper])
        raw = forged.sealed(signer(key(world, "c"), None))
        is_taken = isinstance(RootRequest.read(raw, verify), RootRequest)
        assert is_taken is (generation <= limits.DENY_GENERATION_MAX)


def test_whoever_signs_reads_all_that_a_certificate_does() -> None:
    """The whole key, and what is not as usual: what an admin gives, leases, a deny it lifts."""
    world = without_root(with_leaf())
    asked = world.ask("c", GrantCommand(target="c", tier="admin", by_root=True)).request
    request = RootRequest.read(base64.b64decode(asked), verify)
    assert isinstance(request, RootRequest)
    paper = request.papers[0]
    certificate = paper.read()
    assert isinstance(certificate, Certificate)
    whole = key(world, "c").hex()
    assert paper.sentence() == f"c {whole} is an admin, {{}}"
    odd = msgspec.structs.replace(
        certificate, properties='{"x":1}', lease_ns=2 * HOUR, cites=b"\xab" * 32
    )
    said = msgspec.structs.replace(paper, body=codec.encode(odd)).sentence()
    assert said == (
        f'c {whole} is an admin, {{"x":1}}; it gives any property; its leases last 2 h; '
        "this lifts the deny abababab"
    )


def test_a_key_that_no_certificate_can_bring_back_is_refused_in_words() -> None:
    """A deny of the last generation: what would lift it nobody would take."""
    world = with_leaf()
    node = world.machines["a"].node
    assert node is not None
    deny = make_deny(
        key(world, "c"),
        world._root,
        limits.DENY_GENERATION_MAX,
        cluster=world.cluster_id,
        evidence=[],
    )
    node._records.publish(DENY, deny_key(deny), deny)
    world.run(2 * SECOND)
    for name in "ab":
        world.kill(name)
        world.start(name)
    world.run(2 * SECOND)
    slug, reason = refused(world, "a", UndenyCommand(target="c"))
    assert slug == "denied" and "too often" in reason
