"""One watcher: when it accuses, doubts itself, answers, and believes."""

from __future__ import annotations

from pollen.core import limits
from pollen.core.codec import decode, encode
from pollen.core.events import PeerSample, Telemetry
from pollen.core.ids import MILLISECOND, SECOND, Nanos, PeerId
from pollen.core.peers import Facts, Membership, Phase, Verdict
from pollen.core.peers.liveness import Accusation, Charge, Refutation
from tests.strategies import make_record
from tests.unit.turns import Said, Sink, turn_at
from tests.unit.world import make_key

OWN, *OTHERS = sorted(make_key(f"member-{i}") for i in range(8))
TICK = 500 * MILLISECOND
T0 = 10 * SECOND


class Bench:
    """A machine, its own records fed back, and a clock that ticks like telemetry."""

    def __init__(self, others: int) -> None:
        self.machine = Membership(OWN)
        self.now = T0
        self.others = OTHERS[:others]
        self.silent_since: dict[PeerId, int] = {}
        self.brains: dict[PeerId, int] = {}
        self.rtts: dict[PeerId, int] = {}
        self.seq = 0
        for peer in (OWN, *self.others):
            self.machine.note_member(peer, Facts(epoch=1), Nanos(self.now))
        for peer in self.others:
            self.machine.on_link(peer, Nanos(self.now))
        self.settle()

    def settle(self) -> list[Said]:
        said: list[Said] = []
        while True:
            sink = Sink()
            self.machine.advance(turn_at(self.now, sink))
            if not sink.said:
                return said
            said += sink.said
            for statement in sink.said:
                self.write(OWN, *statement)

    def write(self, owner: PeerId, kind: str, key: bytes, payload: bytes | None) -> None:
        self.seq += 1
        record = make_record(owner, kind, key, 1, self.seq, payload is None, payload or b"")
        assert self.machine.note_record(record, Nanos(self.now)) is None

    def accuse(self, owner: PeerId, subject: PeerId, incarnation: int = 0) -> list[Said]:
        payload = encode(Accusation(1, incarnation, int(Charge.SILENT)))
        self.write(owner, "accuse", subject, payload)
        return self.settle()

    def run(self, nanos: int) -> list[Said]:
        said: list[Said] = []
        for _ in range(nanos // TICK):
            self.now += TICK
            samples = [self.sample(peer) for peer in self.others]
            event = Telemetry(
                peers=samples, seeds=[], memory_bytes=0, events_dropped=0, control_stalls=0
            )
            self.machine.on_telemetry(event, Nanos(self.now))
            said += self.settle()
        return said

    def sample(self, peer: PeerId) -> PeerSample:
        silent = (self.now - self.silent_since.get(peer, self.now)) // MILLISECOND
        return PeerSample(
            peer, self.rtts.get(peer, 1), 0, 0, True, silent, self.brains.get(peer, 0)
        )

    def hush(self, *peers: PeerId) -> None:
        self.silent_since.update(dict.fromkeys(peers, self.now))


def charges(said: list[Said]) -> list[tuple[bytes, int | None]]:
    found: list[tuple[bytes, int | None]] = []
    for _, key, payload in said:
        held = decode(Accusation, payload or b"", "accusation")
        charge = held.charge if isinstance(held, Accusation) else None
        found.append((key, charge))
    return found


def test_a_silent_peer_is_accused_after_the_suspicion_time() -> None:
    """And not before."""
    bench = Bench(4)
    bench.hush(bench.others[0])
    assert bench.run(limits.SUSPICION_NS) == []
    assert charges(bench.run(TICK)) == [(bench.others[0], Charge.SILENT)]


def test_what_the_muscles_have_not_told_yet_is_no_silence() -> None:
    """Whatever else happens between two telemetries: the last one knows what was heard."""
    bench = Bench(5)
    bench.run(2 * SECOND)
    bench.now += 4 * limits.SUSPICION_NS
    bench.machine.on_link(OTHERS[5], Nanos(bench.now))
    assert bench.settle() == []


def test_suspicion_grows_with_the_round_trip() -> None:
    """Three smoothed round trips on top."""
    bench = Bench(4)
    peer = bench.others[0]
    bench.rtts[peer] = 1_000_000
    bench.hush(peer)
    assert bench.run(limits.SUSPICION_NS + 3 * SECOND) == []
    assert charges(bench.run(TICK)) == [(peer, Charge.SILENT)]


def test_a_peer_that_is_heard_again_is_forgiven() -> None:
    """Own live link beats rumour: the accusation becomes a tombstone."""
    bench = Bench(4)
    bench.hush(bench.others[0])
    bench.run(2 * SECOND)
    bench.silent_since.clear()
    assert charges(bench.run(TICK)) == [(bench.others[0], None)]


def test_a_node_whose_links_fall_silent_together_suspects_itself() -> None:
    """Three times the patience: it is more likely cut off than the last one alive."""
    bench = Bench(4)
    bench.hush(*bench.others)
    assert bench.run(3 * limits.SUSPICION_NS) == []
    said = charges(bench.run(TICK))
    assert said == [(peer, Charge.SILENT) for peer in bench.others]


def test_a_node_that_did_not_run_accuses_nobody_for_a_while() -> None:
    """A woken laptop suspects itself, and its patience stays longer."""
    bench = Bench(4)
    bench.hush(bench.others[0])
    bench.run(SECOND)
    bench.now += 60 * SECOND
    bench.machine.on_jump(Nanos(bench.now))
    assert bench.run(SECOND) == []
    assert bench.machine.patience(Nanos(bench.now)) == 2 * limits.SUSPICION_NS
    assert charges(bench.run(2 * SECOND)) == [(bench.others[0], Charge.SILENT)]


def test_calm_takes_the_strain_away() -> None:
    """Lifeguard: the multiplier falls again."""
    bench = Bench(4)
    bench.machine.on_jump(Nanos(bench.now))
    bench.run(limits.STRAIN_EASE_NS + TICK)
    assert bench.machine.patience(Nanos(bench.now)) == limits.SUSPICION_NS


def test_whoever_is_accused_refutes_at_once() -> None:
    """The next incarnation, once for any number of accusers."""
    bench = Bench(4)
    assert bench.accuse(bench.others[0], OWN) == [("refute", b"", encode(Refutation(1)))]
    assert bench.accuse(bench.others[1], OWN) == []
    again = bench.accuse(bench.others[1], OWN, incarnation=1)
    assert again == [("refute", b"", encode(Refutation(2)))]


def test_nobody_is_dead_in_its_own_view() -> None:
    """Whatever the records say until the refutation is out."""
    bench = Bench(1)
    bench.accuse(bench.others[0], OWN)
    assert list(bench.machine.live) == sorted([OWN, *bench.others])


def test_a_death_is_believed_after_its_grace() -> None:
    """Time to refute; then it is gone from ``live`` and from ``able``."""
    bench = Bench(4)
    dead = bench.others[0]
    bench.hush(dead)
    bench.run(2 * SECOND)
    bench.accuse(bench.others[1], dead)
    bench.accuse(bench.others[2], dead)
    assert bench.machine.verdict_of(dead) is Verdict.DEAD
    assert dead in bench.machine.live
    bench.now += limits.GRACE_NS
    bench.settle()
    assert dead not in bench.machine.live


def test_a_peer_that_we_hear_has_longer_to_refute() -> None:
    """Its brain may only be busy; rumour wins when it stays silent."""
    bench = Bench(6)
    subject, *accusers = bench.others
    for accuser in accusers[:3]:
        bench.accuse(accuser, subject)
    bench.run(limits.GRACE_HEARD_NS - TICK)
    assert subject in bench.machine.live
    bench.run(TICK)
    assert subject not in bench.machine.live


def test_a_refutation_ends_the_doubt() -> None:
    """It was never believed dead by anybody who waited."""
    bench = Bench(6)
    subject, *accusers = bench.others
    for accuser in accusers[:3]:
        bench.accuse(accuser, subject)
    bench.write(subject, "refute", b"", encode(Refutation(1)))
    bench.settle()
    bench.run(5 * SECOND)
    assert subject in bench.machine.able


def test_who_refuted_is_accused_again_only_after_a_quiet_time() -> None:
    """It lives; the path to it does not: the wait doubles."""
    bench = Bench(4)
    peer = bench.others[0]
    bench.hush(peer)
    waits = []
    for incarnation in (1, 2, 3):
        began = bench.now
        while not charges(bench.run(TICK)):
            assert bench.now < T0 + 1_000 * SECOND
        waits.append(bench.now - began)
        bench.write(peer, "refute", b"", encode(Refutation(incarnation)))
        bench.hush(peer)
    assert waits[1] >= limits.QUIET_FIRST_NS
    assert waits[2] >= 2 * limits.QUIET_FIRST_NS


def test_an_accusation_that_stands_alone_is_confirmed() -> None:
    """So that a sole survivor goes on; a link that comes up takes it back first."""
    bench = Bench(4)
    bench.hush(bench.others[0])
    bench.run(2 * SECOND)
    said = charges(bench.run(limits.CONFIRM_NS + TICK))
    assert said == [(bench.others[0], Charge.CONFIRMED)]
    bench.machine.on_link(bench.others[1], Nanos(bench.now))
    assert charges(bench.settle()) == [(bench.others[0], Charge.SILENT)]


def test_a_peer_with_an_old_brain_drains() -> None:
    """Alive, but nothing new is placed there; it ends when the brain turns again."""
    bench = Bench(1)
    peer = bench.others[0]
    bench.brains[peer] = limits.BRAIN_DRAIN_MS
    assert charges(bench.run(TICK)) == [(peer, Charge.STALLED)]
    assert (peer in bench.machine.live, peer in bench.machine.able) == (True, False)
    bench.brains[peer] = 0
    bench.run(TICK)
    assert peer in bench.machine.able


def test_who_says_that_it_left_is_gone_without_suspicion() -> None:
    """A clean shutdown: nobody accuses, nobody waits."""
    bench = Bench(2)
    peer = bench.others[0]
    bench.machine.note_member(peer, Facts(epoch=1, phase=Phase.LEFT), Nanos(bench.now))
    bench.settle()
    assert peer not in bench.machine.live
    bench.hush(peer)
    assert bench.run(20 * SECOND) == []


def test_enough_accusers_are_enough() -> None:
    """A quorum and as many to spare; the rest of a large cluster keeps quiet."""
    bench = Bench(7)
    subject, *accusers = bench.others
    for accuser in accusers[: limits.ACCUSERS_WANTED]:
        bench.accuse(accuser, subject)
    bench.hush(subject)
    assert bench.run(10 * SECOND) == []


def test_a_peer_that_was_never_met_is_suffered_longer() -> None:
    """Two homes that cannot reach each other do not bury each other."""
    bench = Bench(2)
    stranger = OTHERS[5]
    bench.machine.note_member(stranger, Facts(epoch=1), Nanos(bench.now))
    bench.machine.watch([*bench.others, stranger], Nanos(bench.now))
    assert bench.run(limits.UNMET_NS) == []
    assert charges(bench.run(TICK)) == [(stranger, Charge.SILENT)]


def test_a_new_run_of_a_peer_starts_with_a_clean_sheet() -> None:
    """A higher epoch voids what was said of the dead run and gives it time to be heard."""
    bench = Bench(4)
    peer = bench.others[0]
    bench.hush(peer)
    bench.run(2 * SECOND)
    bench.machine.on_link_closed(peer)
    bench.machine.note_member(peer, Facts(epoch=2), Nanos(bench.now))
    bench.others = bench.others[1:]
    assert bench.run(limits.SUSPICION_NS) == []
    assert bench.machine.live[peer] == 2
