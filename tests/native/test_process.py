"""The muscles and the process they live in: forks, traps, full queues, ends, a dead brain."""

from __future__ import annotations

import time

import pytest

from tests.native.conftest import Scenario

pytestmark = pytest.mark.timeout(60)


def test_a_forked_child_is_told_so(scenario: Scenario) -> None:
    scenario("forked")


def test_a_guests_trap_does_not_end_the_process(scenario: Scenario) -> None:
    scenario("trapped", "-X", "faulthandler")


def test_a_cancelled_call_leaves_its_spans(scenario: Scenario) -> None:
    scenario("cancelled_span")


def test_a_closed_replica_takes_no_call_but_the_brains(scenario: Scenario) -> None:
    scenario("closed_replica")


def test_who_waits_for_a_replica_that_is_given_up_is_refused(scenario: Scenario) -> None:
    scenario("given_up")


def test_a_call_of_the_brain_on_its_own_replica_is_in_no_demand(scenario: Scenario) -> None:
    scenario("own_call")


def test_the_muscles_judge_callers_as_the_brain_does(scenario: Scenario) -> None:
    scenario("judges_callers")


def test_a_cancelled_call_is_counted_once_where_it_began(scenario: Scenario) -> None:
    scenario("cancelled_counts")


def test_control_events_are_never_lost(scenario: Scenario) -> None:
    scenario("full_queue")


def test_log_lines_beyond_the_room_are_dropped_and_counted(scenario: Scenario) -> None:
    scenario("flooded")


def test_close_waits_for_calls_in_flight(scenario: Scenario) -> None:
    scenario("closed_busy")


def test_close_ends_what_does_not_end(scenario: Scenario) -> None:
    scenario("closed_over_endless")


def test_the_interpreter_may_go_while_guests_run(scenario: Scenario) -> None:
    assert scenario("exits_busy").stdout == "leaving\n"


def test_the_interpreter_may_go_while_a_command_blocks(scenario: Scenario) -> None:
    scenario("exits_by_sys_exit_in_a_call", expect=3)


def test_a_consumer_that_raises_is_woken_again(scenario: Scenario) -> None:
    scenario("consumer_raises")


def test_the_end_of_the_tables_lease_refuses_calls_from_afar(scenario: Scenario) -> None:
    scenario("lease_ends")


def test_a_seed_that_was_let_go_is_woken_where_it_was(scenario: Scenario) -> None:
    scenario("wakes_who_let_it_go")


def test_a_call_waits_for_a_link_and_asks_for_it(scenario: Scenario) -> None:
    scenario("waits_for_a_link")


def test_a_call_goes_to_the_nearest_replica(scenario: Scenario) -> None:
    scenario("goes_to_the_nearest")


def test_a_call_that_gets_no_link_fails_in_good_time(scenario: Scenario) -> None:
    scenario("gives_up_without_a_link")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_brain_that_stops_ends_the_process_with_70(scenario: Scenario) -> None:
    began = time.monotonic()
    done = scenario("brain_stops", timeout=100, expect=70)
    assert 60 <= time.monotonic() - began < 80
    assert "the brain was silent" in done.stderr and "generation" in done.stderr
