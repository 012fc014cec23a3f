"""Laws of liveness: one set of records, one verdict, whatever the order and the observer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollen.core.ids import PeerId
from pollen.core.kinds import ACCUSE
from pollen.core.peers import Facts, Phase, Verdict
from pollen.core.peers.liveness import Evidence, judge, quorum
from pollen.core.records import Record, Records
from pollen.core.records.owners import Merge
from tests import strategies as own
from tests.unit.world import make_key, signer

OBSERVER = make_key("observer")


def verdicts_of(batch: list[Record], phases: list[Phase]) -> dict[PeerId, Verdict]:
    """What an observer concludes who hears of everything in this order."""
    store = Records(own.CLUSTER, OBSERVER, signer(OBSERVER, None))
    evidence = Evidence()
    for peer, phase in zip(own.CROWD, phases, strict=True):
        evidence.note_member(peer, Facts(epoch=1, phase=phase))
    for record in batch:
        if store.merge(record, None) is not Merge.APPLIED:
            continue
        if record.body.kind == ACCUSE:
            evidence.note_accusation(record)
        else:
            evidence.note_refutation(record)
    return dict(sorted(judge(evidence).items()))


PHASES = st.lists(st.sampled_from(Phase), min_size=5, max_size=5)


@given(st.lists(own.evidence, max_size=14), PHASES, st.randoms(use_true_random=False))
def test_verdicts_do_not_depend_on_the_order(
    batch: list[Record], phases: list[Phase], chance: object
) -> None:
    """Every order of arrival, with repetition, ends in the same verdicts."""
    shuffled = [*batch, *batch[:3]]
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert verdicts_of(batch, phases) == verdicts_of(shuffled, phases)


@given(st.lists(own.evidence, max_size=14), PHASES)
def test_somebody_lives_unless_everybody_left(batch: list[Record], phases: list[Phase]) -> None:
    """No set of accusations kills all: the last accuser's word needs a living accuser."""
    verdicts = verdicts_of(batch, phases)
    dead = sum(verdict is Verdict.DEAD for verdict in verdicts.values())
    left = sum(phase is Phase.LEFT for phase in phases)
    assert dead == 0 or dead < 5 - left


@given(st.lists(own.evidence, max_size=14), PHASES)
def test_every_death_has_a_living_accuser(batch: list[Record], phases: list[Phase]) -> None:
    """What only the dead say counts for nothing."""
    verdicts = verdicts_of(batch, phases)
    accusers: dict[PeerId, set[PeerId]] = {}
    for record in batch:
        if record.body.kind == ACCUSE:
            accusers.setdefault(PeerId(record.body.key), set()).add(record.body.owner)
    for peer, verdict in verdicts.items():
        if verdict is Verdict.DEAD:
            living = {a for a in accusers[peer] if verdicts.get(a) in (None, Verdict.DRAINED)}
            assert len(living) > 0


@given(st.integers(-1, 1_000))
def test_a_quorum_is_one_to_three(others: int) -> None:
    """Never nobody, never more than there are."""
    assert max(1, min(3, others)) == quorum(others)
