"""Whole nodes: the root says who may publish what, and what follows everywhere."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from pollen.core import limits
from pollen.core.admission.policies import NAMES_SHOWN
from pollen.core.codec import Refusal, encode
from pollen.core.commands import AuditCommand, GrantCommand, UnseedCommand
from pollen.core.ids import SECOND
from pollen.core.kinds import POLICY, SUCCESSION
from pollen.core.rootwords import (
    ApplyCommand,
    PoliciesCommand,
    PolicyView,
    SetPolicyCommand,
)
from pollen.core.trust import RootRequest
from pollen.core.trust.succession import Succession, issue_succession
from pollen.core.whywords import WhyCallCommand, WhyPlaceCommand
from tests.unit.admission.test_granting import refused, with_leaf
from tests.unit.admission.test_rooted import signed, without_root
from tests.unit.world import World, make_key, signer, verify

RED = 'has(caller.props.red) || caller.tier == "admin"'


def shown(world: World, name: str) -> PolicyView:
    """The policy on publishers as a node shows it."""
    (policy,) = world.ask(name, PoliciesCommand()).policies
    assert isinstance(policy, PolicyView)
    return policy


def set_to(world: World, expression: str, name: str = "a", **fields: Any) -> Any:
    """What setting a policy answers; it then travels."""
    said = world.ask(name, SetPolicyCommand(expression=expression, **fields))
    world.run(2 * SECOND)
    return said


def known(world: World, name: str) -> list[str]:
    """The live names at a node."""
    node = world.machines[name].node
    assert node is not None
    return sorted(held for held, holding in node._situation.names.items() if holding.is_live)


def holder(world: World, at: str, name: str) -> str:
    """Who has a name at a node, by its machine; empty for nobody."""
    node = world.machines[at].node
    assert node is not None
    holding = node._situation.names.get(name)
    if holding is None or not holding.is_live:
        return ""
    return next(m for m, held in world.machines.items() if held.key == holding.holder.owner)


def test_without_a_policy_all_is_as_the_tiers_say() -> None:
    world = with_leaf()
    assert shown(world, "c") == PolicyView(about="publish")
    assert not world.seed("c", "echo").slug


def test_a_policy_of_the_root_binds_every_node() -> None:
    """Who may not is refused at its own node, with the expression; who may is not."""
    world = with_leaf()
    said = set_to(world, RED)
    assert (said.changed, said.falls, said.policy.number) == (True, [], 1)
    for name in "abcd":
        assert shown(world, name).text == RED
    reply = world.seed("c", "echo")
    assert reply.slug == "denied"
    assert "has(caller.props.red) is false" in reply.reason
    assert RED in reply.remedy and "pln grant" in reply.remedy
    world.ask("a", GrantCommand(target="c", properties='{"red":true}'))
    world.run(2 * SECOND)
    assert not world.seed("c", "echo").slug
    assert not world.seed("b", "other").slug


def test_a_name_that_the_policy_refuses_falls_and_comes_back() -> None:
    """It is shown before; `pln why` says of it why it does not count."""
    world = with_leaf()
    world.seed("c", "echo")
    world.seed("b", "other")
    world.run(3 * SECOND)
    planned = world.ask("a", SetPolicyCommand(expression=RED, dry_run=True))
    (falls,) = planned.falls
    assert (falls.name, falls.node_name) == ("echo", "c")
    assert falls.why == 'has(caller.props.red) is false; caller.tier == "admin" is false'
    assert known(world, "d") == ["echo", "other"], "a dry run changes nothing"
    assert shown(world, "a").number == 0
    set_to(world, RED)
    for name in "abcd":
        assert known(world, name) == ["other"]
        assert [held.name for held in shown(world, name).refused] == ["echo"]
    for command in (WhyPlaceCommand(target="echo"), WhyCallCommand(target="seed/echo")):
        slug, reason = refused(world, "d", command)
        assert slug == "seed-not-found"
        assert "does not let c publish 'echo': has(caller.props.red) is false" in reason
    why = world.ask("d", WhyCallCommand(target="other")).why
    assert f"the root's policy on publishers lets b publish it: {RED}" in why
    assert refused(world, "c", UnseedCommand(target="other"))[0] == "denied"
    set_to(world, "", clear=True)
    assert [known(world, name) for name in "abcd"] == [["echo", "other"]] * 4
    assert shown(world, "d") == PolicyView(
        about="publish",
        number=2,
        since_unix_ms=shown(world, "a").since_unix_ms,
        root=shown(world, "a").root,
    )


def test_a_policy_that_brings_a_withdrawn_name_back_says_so_first() -> None:
    """The withdrawal of who may not publish counts no more than its seed would."""
    world = with_leaf()
    world.seed("c", "echo")
    world.run(3 * SECOND)
    world.ask("b", UnseedCommand(target="echo"))
    world.run(3 * SECOND)
    assert known(world, "d") == []
    text = 'caller.tier == "publisher"'
    planned = world.ask("a", SetPolicyCommand(expression=text, dry_run=True))
    (gained,) = planned.gains
    assert (gained.name, gained.node_name, gained.from_node) == ("echo", "c", "")
    assert planned.falls == []
    set_to(world, text)
    assert known(world, "d") == ["echo"]
    (lost,) = world.ask("a", SetPolicyCommand(clear=True, dry_run=True)).falls
    assert (lost.name, lost.why) == ("echo", "a version that withdrew it counts again")


def test_a_policy_that_moves_a_name_says_from_whom_to_whom() -> None:
    """Before it is set: two nodes publish one name, and the policy refuses who has it."""
    world = with_leaf()
    world.seed("b", "echo")
    world.run(3 * SECOND)
    set_to(world, 'caller.tier == "publisher"')
    world.seed("c", "echo", b"other")
    world.run(3 * SECOND)
    assert holder(world, "d", "echo") == "c"
    planned = world.ask("a", SetPolicyCommand(expression=RED, dry_run=True))
    (gained,) = planned.gains
    assert (gained.name, gained.from_name, gained.node_name) == ("echo", "c", "b")
    set_to(world, RED)
    assert holder(world, "d", "echo") == "b"


def assert_refused_stands_below(world: World) -> None:
    """While c is refused b publishes its name; with the policy gone b has it everywhere."""
    set_to(world, RED)
    assert not world.seed("b", "echo", b"admin").slug
    world.run(2 * SECOND)
    set_to(world, "", clear=True)
    assert [holder(world, at, "echo") for at in "abcd"] == ["b"] * 4


def test_a_name_stays_with_who_published_it_while_another_was_refused() -> None:
    """However often the refused one had published it: it comes back below, not above."""
    world = with_leaf()
    for content in (b"1", b"2", b"3"):
        world.seed("c", "echo", content)
        world.run(SECOND)
    assert_refused_stands_below(world)


def test_a_withdrawal_from_before_does_not_kill_what_was_published_since() -> None:
    """A refused member's withdrawal counts again with the policy gone, below the newer seed."""
    world = with_leaf()
    world.seed("c", "echo")
    world.run(SECOND)
    world.ask("c", UnseedCommand(target="echo"))
    world.run(SECOND)
    assert_refused_stands_below(world)


def test_who_published_a_name_that_fell_may_withdraw_it() -> None:
    """It does not come back then, and nobody loses the name who has it meanwhile."""
    world = with_leaf()
    world.seed("c", "echo")
    world.seed("c", "radio")
    world.run(SECOND)
    set_to(world, RED)
    assert not world.seed("b", "radio", b"admin").slug
    world.run(2 * SECOND)
    for name in ("echo", "seed/radio"):
        world.ask("c", UnseedCommand(target=name))
    world.run(2 * SECOND)
    assert shown(world, "a").refused == []
    set_to(world, "", clear=True)
    assert [holder(world, at, "radio") for at in "abcd"] == ["b"] * 4
    assert [holder(world, at, "echo") for at in "abcd"] == [""] * 4


def test_an_answer_lists_so_many_names_and_says_how_many_more() -> None:
    """Ten thousand names would not fit a body of the control API."""
    world = with_leaf()
    for number in range(NAMES_SHOWN + 3):
        world.seed("c", f"radio-{number}")
    world.run(3 * SECOND)
    planned = set_to(world, RED)
    assert (len(planned.falls), planned.falls_more) == (NAMES_SHOWN, 3)
    view = shown(world, "a")
    assert (len(view.refused), view.refused_more) == (NAMES_SHOWN, 3)
    planned = set_to(world, "", clear=True)
    assert (len(planned.gains), planned.gains_more) == (NAMES_SHOWN, 3)


def test_nobody_has_the_root_sign_the_last_number() -> None:
    """A request with harmless words would end all policies: the root signs the next number only."""
    world = without_root(with_leaf())
    set_by_paper(world, RED)
    node, machine = world.machines["c"].node, world.machines["c"]
    assert node is not None
    publishers = node._members.trust.publishers
    planned, before = publishers.plan(world._root, 7, "true"), publishers.before(world._root)
    for number, held, is_good in (
        (2, before, True),
        ((1 << 32) - 2, before, False),
        (1, before, False),
        (2, None, False),
        (3, before, False),
    ):
        policy = msgspec.structs.replace(planned, number=number)  # type: ignore[type-var]
        papers = RootRequest.papers_of_policy(policy, held)  # type: ignore[arg-type]
        request = RootRequest(world.cluster_id, world._root, machine.key, 7, papers)
        sealed = request.sealed(signer(machine.key, None))
        read = RootRequest.read(sealed, verify)
        assert isinstance(read, RootRequest) == is_good, number
        if not is_good:
            drawer = signer(make_key("drawer"), world._root)
            refusal = RootRequest.answered(sealed, drawer, verify)
            assert isinstance(refusal, Refusal) and refusal.slug == "root-file-invalid"
    assert set_by_paper(world, "", clear=True).changed
    assert shown(world, "d").number == 2


def set_by_paper(world: World, expression: str, **fields: Any) -> Any:
    """d asks the root in the drawer and publishes its answer."""
    command = SetPolicyCommand(expression=expression, by_root=True, **fields)
    request = world.ask("d", command).request
    done = world.ask("d", ApplyCommand(answer=signed(world, request)))
    world.run(2 * SECOND)
    return done


def test_the_newest_root_takes_the_policy_over() -> None:
    """The old key counts for it no more, on a node and on paper; the same text is said again."""
    world = with_leaf()
    set_to(world, RED)
    old, heir, node = world._root, make_key("heir-of-policies"), world.machines["a"].node
    assert node is not None
    stale = world.ask("c", SetPolicyCommand(expression="true", by_root=True)).request
    document = Succession(world.cluster_id, old, heir, 7)
    node._records.publish(SUCCESSION, heir, encode(issue_succession(document, signer(old, old))))
    world.run(3 * SECOND)
    world.kill("a")
    world.start("a")
    world.run(3 * SECOND)
    slug, reason = refused(world, "a", SetPolicyCommand(expression="true"))
    assert slug == "root-not-here" and "has a successor" in reason
    assert shown(world, "d").text == RED, "what the old root said still counts"
    reply = world.command("b", ApplyCommand(answer=signed(world, stale)))
    assert reply.slug == "root-file-stale" and "has a successor" in reply.reason
    request = world.ask("c", SetPolicyCommand(expression=RED, by_root=True)).request
    world.ask("c", ApplyCommand(answer=signed(world, request, heir)))
    world.run(2 * SECOND)
    for name in "abcd":
        view = shown(world, name)
        assert (view.text, view.number, view.root) == (RED, 1, heir.hex())


def test_who_may_publish_again_by_a_grant_has_its_names_back() -> None:
    """What a name means follows from the certificate that counts."""
    world = with_leaf()
    world.seed("c", "echo")
    set_to(world, RED)
    assert known(world, "a") == []
    world.ask("a", GrantCommand(target="c", properties='{"red":true}'))
    world.run(2 * SECOND)
    assert [known(world, name) for name in "abcd"] == [["echo"]] * 4


def test_setting_what_is_set_changes_nothing() -> None:
    world = with_leaf()
    assert set_to(world, "", clear=True).changed is False
    assert shown(world, "a").number == 0
    set_to(world, RED)
    assert set_to(world, RED).changed is False
    assert shown(world, "a").number == 1


@pytest.mark.parametrize(
    ("command", "slug", "words"),
    [
        (SetPolicyCommand(expression='caller.team == "x"'), "bad-policy", "at character 1"),
        (SetPolicyCommand(expression="(" * 17 + "true" + ")" * 17), "bad-policy", "16 deep"),
        (SetPolicyCommand(), "bad-request", "neither"),
        (
            SetPolicyCommand(expression="true", clear=True),
            "bad-request",
            "an expression and --clear",
        ),
        (SetPolicyCommand(about="host", expression="true"), "bad-request", "no policy 'host'"),
        (SetPolicyCommand(expression="true"), "root-not-here", "root key is not on this node"),
        (SetPolicyCommand(expression="true", dry_run=True), "root-not-here", "not on this node"),
    ],
)
def test_what_cannot_be_set_says_why_and_what_to_do(
    command: SetPolicyCommand, slug: str, words: str
) -> None:
    """b is an admin without the root key; a text is judged before that."""
    world = with_leaf()
    reply = world.command("b", command)
    assert reply.slug == slug
    assert words in reply.reason
    assert reply.remedy
    assert shown(world, "b").number == 0


def test_a_policy_is_asked_of_the_root_elsewhere_and_published_by_anybody() -> None:
    """Any member asks and any member publishes; a second time changes nothing."""
    world = without_root(with_leaf())
    said = world.ask("c", SetPolicyCommand(expression=RED, by_root=True))
    assert said.request and shown(world, "c").number == 0
    answer = signed(world, said.request)
    done = world.ask("d", ApplyCommand(answer=answer))
    assert done.changed
    assert done.done == [
        f"policy on publishers, number 1: a member publishes a name only if: {RED}"
    ]
    world.run(2 * SECOND)
    for name in "abcd":
        assert shown(world, name).text == RED
    assert world.ask("a", ApplyCommand(answer=answer)).changed is False
    acts = [
        (act.verb, act.by_name, act.subject_name) for act in world.ask("a", AuditCommand()).acts
    ]
    assert ("policy", "d", "the root") in acts


def test_an_answer_is_too_old_once_another_policy_counts() -> None:
    """The one that was set later stands, and the remedy asks for it again."""
    world = with_leaf()
    request = world.ask("c", SetPolicyCommand(expression=RED, by_root=True)).request
    set_to(world, "true")
    reply = world.command("b", ApplyCommand(answer=signed(world, request)))
    assert reply.slug == "root-file-stale"
    assert "number 1" in reply.reason and "set-policy" in reply.remedy
    assert shown(world, "b").text == "true"


def test_the_root_signs_no_policy_that_it_cannot_read() -> None:
    """A text with the tree of another one would look harmless, and let nobody publish."""
    world = without_root(with_leaf())
    node = world.machines["c"].node
    assert node is not None
    publishers = node._members.trust.publishers
    planned = publishers.plan(world._root, 7, "true")
    sealed = []
    for tree in ('"false"', planned.tree):  # type: ignore[union-attr]
        policy = type(planned)(
            cluster=world.cluster_id,
            root=world._root,
            about="publish",
            number=1,
            issued=7,
            text="true",
            tree=tree,
        )  # type: ignore[call-arg]
        papers = RootRequest.papers_of_policy(policy, None)  # type: ignore[arg-type]
        machine = world.machines["c"]
        request = RootRequest(world.cluster_id, world._root, machine.key, 7, papers)
        sealed.append(request.sealed(signer(machine.key, None)))
    bad, good = (RootRequest.read(raw, verify) for raw in sealed)
    assert isinstance(good, RootRequest)
    assert "cannot be read" in getattr(bad, "reason", "")


def test_a_policy_whose_record_goes_is_told_again_by_an_admin() -> None:
    """Its owner goes back to the older one; every admin publishes the one that counted."""
    world = with_leaf()
    world.machines["c"].root = world._root
    world.kill("c")
    world.start("c")
    world.run(2 * SECOND)
    set_to(world, "true", "c")
    old = next(r for r in records_of(world, "a") if r.body.kind == POLICY)
    set_to(world, RED, "c")
    node = world.machines["c"].node
    assert node is not None
    node._records.publish(POLICY, b"publish", old.body.payload)
    world.run(2 * SECOND)
    for name in "abd":
        assert shown(world, name).text == RED
        owners = {r.body.owner for r in records_of(world, name) if r.body.kind == POLICY}
        assert world.machines["b"].key in owners
    world.kill("d")
    world.start("d")
    world.run(2 * SECOND)
    assert shown(world, "d").text == RED


def records_of(world: World, name: str) -> list[Any]:
    node = world.machines[name].node
    assert node is not None
    return [*node._records.all_records()]


def test_a_policy_survives_whoever_had_it_signed_and_a_restart() -> None:
    """Like a deny: d carried it first, buries its record and is gone."""
    world = without_root(with_leaf())
    request = world.ask("d", SetPolicyCommand(expression=RED, by_root=True)).request
    world.ask("d", ApplyCommand(answer=signed(world, request)))
    world.run(2 * SECOND)
    node = world.machines["d"].node
    assert node is not None
    node._records.bury(POLICY, b"publish")
    world.run(2 * SECOND)
    world.kill("d")
    held = [r for r in records_of(world, "c") if r.body.kind == POLICY]
    assert {r.body.owner for r in held if r.is_live} == {world.machines[n].key for n in "ab"}
    for name in "bc":
        world.kill(name)
        world.start(name)
    world.run(3 * SECOND)
    assert [shown(world, name).text for name in "bc"] == [RED] * 2
    assert world.seed("c", "echo").slug == "denied"
    assert len(base64.b64decode(request)) < limits.JOIN_MAX_BYTES
