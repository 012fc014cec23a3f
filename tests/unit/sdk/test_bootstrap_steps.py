"""The next step of a machine, from what it said: no I/O, so each kind of machine is one line."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from pollen.errors import PollenError
from pollen.sdk.bootstrap import steps
from pollen.sdk.bootstrap.facts import BEGIN, END, Facts, answer_in, facts_of, failure_in
from pollen.sdk.bootstrap.run import _as_if
from pollen.sdk.bootstrap.steps import Step, Wanted

OURS, OTHER, NODE = "aa" * 32, "bb" * 32, "cc" * 32
DIGEST = "0123456789abcdef"
WANTED = Wanted("pi@there", OURS, digest=DIGEST, size=20 << 20)
PYTHON = f"/opt/pollen/{DIGEST}/venv/bin/python"
BARE = Facts(
    system="Linux",
    machine="x86_64",
    libc="glibc 2.36",
    python=(3, 11),
    python_path="/usr/bin/python3",
    has_venv=True,
    root="sudo",
    free_bytes=1 << 30,
    base="/opt/pollen",
    folder="/home/user/.pln",
    name="pi",
)
SYSTEMD = replace(BARE, has_systemd=True, folder="/var/lib/pln")
DONE = replace(BARE, software=DIGEST, node=NODE, home_member=OURS, running=PYTHON)
ALL = [Step.INSTALL, Step.KEY, Step.JOIN, Step.START, Step.WAIT]


def way(facts: Facts, wanted: Wanted = WANTED) -> list[Step]:
    """The steps until it is done, when each goes well."""
    found: list[Step] = []
    while (step := steps.next_step(facts, wanted, is_seen=Step.WAIT in found)) is not Step.DONE:
        assert step not in found
        found.append(step)
        facts = _as_if(facts, step, wanted)
    return found


def test_a_bare_machine_gets_every_step_once() -> None:
    assert way(BARE) == ALL
    assert way(SYSTEMD) == [Step.INSTALL, Step.SERVICE, *ALL[1:]]


def test_a_machine_that_is_done_gets_no_step() -> None:
    assert steps.next_step(DONE, WANTED, is_seen=True) is Step.DONE


def test_whatever_was_cut_off_the_rest_is_what_was_not_done() -> None:
    """Any part of what the steps leave may be there, in any combination a kill can leave."""
    for count in range(len(ALL)):
        facts = BARE
        for step in ALL[:count]:
            facts = _as_if(facts, step, WANTED)
        assert way(facts) == ALL[count:]
    held = {"software": DIGEST, "node": NODE, "home_member": OURS, "running": PYTHON}
    for size in range(len(held) + 1):
        for names in itertools.combinations(held, size):
            facts = replace(BARE, **{name: held[name] for name in names})  # type: ignore[arg-type]
            found = way(facts)
            assert (Step.INSTALL in found) == ("software" not in names)
            assert found == sorted(found, key=list(Step).index)


OLD = f"/opt/pollen/{'f' * 16}/venv/bin/python"
KEPT = replace(DONE, software="f" * 16, running=OLD)
OF_SYSTEM = {"has_systemd": True, "folder": "/var/lib/pln", "home_member": ""}


def test_software_that_a_node_runs_from_stays() -> None:
    """Another desk has another version, and neither knows which is newer: nothing is replaced, and
    no member is started again by a command that makes members."""
    assert steps.next_step(KEPT, WANTED, is_seen=True) is Step.DONE
    unit = replace(KEPT, **OF_SYSTEM, system_member=OURS, unit=OLD)  # type: ignore[arg-type]
    assert steps.next_step(unit, WANTED, is_seen=True) is Step.DONE
    stopped = replace(unit, running="", has_run=True)
    assert way(stopped) == [Step.START, Step.WAIT]
    # Another login's node of another cluster runs from it: this one uses it too.
    shared = replace(BARE, software="f" * 16, is_used=True)
    assert way(shared) == [Step.KEY, Step.JOIN, Step.START, Step.WAIT]


def test_software_that_never_came_up_is_replaced() -> None:
    """A wheel that does not start there is mended by another one; its unit is written again."""
    assert way(replace(BARE, software="f" * 16)) == ALL
    member = replace(KEPT, **OF_SYSTEM, system_member=OURS, unit=OLD)  # type: ignore[arg-type]
    never = replace(member, running="")
    assert way(never) == [Step.INSTALL, Step.SERVICE, Step.START, Step.WAIT]


def test_a_stopped_node_that_somebody_else_installed_is_left_alone_and_told() -> None:
    """Its unit is not written over, and it is not started by the way."""
    theirs = replace(SYSTEMD, unit="/srv/pln/bin/python", node=NODE, system_member=OURS)
    with pytest.raises(PollenError, match="starts another pollen, /srv/pln/bin/python") as caught:
        steps.next_step(theirs, WANTED, is_seen=False)
    assert caught.value.slug == "host-unfit" and "there: systemctl start" in caught.value.remedy
    # For a node in the login's folder that unit is no obstacle.
    assert way(replace(theirs, folder="/home/user/.pln", node="", system_member="")) == ALL


def test_a_foreign_node_that_does_not_say_its_key_is_told() -> None:
    theirs = replace(BARE, running="/srv/pln/bin/python")
    with pytest.raises(PollenError, match="does not say its key") as caught:
        steps.next_step(theirs, WANTED, is_seen=False)
    assert caught.value.slug == "host-unfit" and caught.value.remedy


def test_a_node_that_somebody_else_installed_is_left_alone() -> None:
    theirs = replace(DONE, software="", running="/srv/pln/bin/python", root="none", python_path="")
    assert steps.next_step(theirs, WANTED, is_seen=True) is Step.DONE
    assert way(theirs) == [Step.WAIT]


def test_a_venv_of_somebody_else_in_our_folder_is_theirs() -> None:
    theirs = replace(DONE, running="/opt/pollen/bin/python")
    assert steps.runs_another(theirs) and not steps.runs_another(DONE)


def test_a_node_of_this_cluster_in_the_logins_folder_goes_on_there() -> None:
    """A service would be a second node of the machine."""
    assert steps.uses_home(replace(SYSTEMD, home_member=OURS), WANTED)
    assert not steps.uses_home(replace(SYSTEMD, system_member=OURS, home_member=OURS), WANTED)
    assert not steps.uses_home(replace(SYSTEMD, home_member=OTHER), WANTED)


REFUSED = {
    "another system": ({"system": "Darwin"}, "host-unfit", "Darwin"),
    "nothing said": ({"system": ""}, "host-unfit", "not Linux"),
    "no Python": ({"python_path": ""}, "host-unfit", "no Python"),
    "an old one": ({"python_path": "", "other_python": "3.9"}, "host-unfit", "only Python 3.9"),
    "no venv": ({"has_venv": False}, "host-unfit", "python3-venv"),
    "no root": ({"root": "none"}, "denied", "--user"),
    "another cluster": ({"home_member": OTHER}, "already-in-cluster", OTHER[:8]),
    "of the system": ({"system_member": OTHER}, "already-in-cluster", OTHER[:8]),
    "a full disk": ({"free_bytes": 100 << 20}, "state-unusable", "164 MiB are needed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_machine_that_cannot_be_taken_gets_no_step(case: str) -> None:
    """Whatever else is there: nothing is changed on it."""
    changes, slug, words = REFUSED[case]
    facts = replace(BARE, **changes)  # type: ignore[arg-type]
    with pytest.raises(PollenError) as caught:
        steps.next_step(facts, WANTED, is_seen=False)
    assert caught.value.slug == slug
    assert words in f"{caught.value.reason} {caught.value.remedy}" and caught.value.remedy


def test_a_plain_user_needs_no_root() -> None:
    """Nor is it in the way what cluster the machine's own node is in."""
    own = replace(WANTED, is_own=True)
    facts = replace(BARE, root="none", system_member=OTHER, base="/home/user/.local/share/pollen")
    assert way(facts, own) == ALL


def said(**pairs: str) -> str:
    lines = "".join(f"{key}\t{value}\n" for key, value in pairs.items())
    return f"{BEGIN}\n{lines}{END}\n"


def test_what_a_login_shell_prints_is_no_answer() -> None:
    text = f"Welcome!\nsystem\tBeOS\n{said(system='Linux', python='3.12')}bye\n"
    answer = answer_in(text)
    assert answer is not None
    facts = facts_of(answer)
    assert (facts.system, facts.python) == ("Linux", (3, 12))


@pytest.mark.parametrize("cut", [0, 5, len(BEGIN) + 1, 30, len(said(system="Linux")) - 1])
def test_an_answer_that_did_not_come_whole_is_none(cut: int) -> None:
    assert answer_in(said(system="Linux")[:cut]) is None


def test_what_is_misshapen_reads_as_not_there() -> None:
    """The text is from elsewhere, and a key in it is shown to the user."""
    odd = {"node": "../../etc", "home_member": "x" * 64, "free_kib": "-1", "python": "3.eleven"}
    facts = facts_of(odd | {"name": "a\x1b[2J"})
    assert (facts.node, facts.home_member, facts.free_bytes, facts.python) == ("", "", 0, (0, 0))
    assert "\x1b" not in facts.name


def test_the_error_of_the_far_pln_keeps_its_slug_and_remedy() -> None:
    text = r"hint: x\nerror: port 60611 is in use\n  try: pln set listen 0.0.0.0:1\n  [port-in-use]"
    error = failure_in({"failed": text, "remedy": ""}, "pi@there")
    assert error is not None and error.slug == "port-in-use"
    assert error.reason == "pi@there: port 60611 is in use"
    assert error.remedy == "there: try: pln set listen 0.0.0.0:1"
    bare = failure_in({"failed": "No space left", "remedy": "again"}, "pi@there")
    assert bare is not None and (bare.slug, bare.remedy) == ("state-unusable", "again")
    assert failure_in({"system": "Linux"}, "pi@there") is None
