"""The shortest orders of events that once broke something."""

from __future__ import annotations

from tests.leaving.orders import Order, check


def test_a_run_that_ends_while_its_journal_is_made_durable_is_not_adopted_any_more():
    check(Order("waits"))


def test_a_process_that_has_left_takes_no_run_to_end_it():
    check(Order(durable=False, events=[("silence", 0), ("commit", 0, 1), ("cancel", 1), ("retire", 0), ("leave", 1)]))


def test_a_process_that_was_silent_stops_a_run_that_it_has_lost_before_it_begins_another_step():
    demoted = [("disconnect", 0), ("settle", 0), ("open", 0)]
    check(Order("careful", expires=True, events=[*demoted, ("eager", 0, 38), ("silence", 0)]))
