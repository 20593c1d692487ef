from __future__ import annotations

import pytest

from offramp.core.departures import MEMORY_S, UNKNOWN_WAIT_S, Departures, room_in_s
from offramp.core.sla import SLA


def test_a_steady_rate_is_measured_from_the_first_seconds_on():
    departures = Departures(100.0)
    assert departures.rate(100.0) == 0
    for number in range(1, 401):
        departures.add(100.0 + number / 4)
        if number in {8, 40, 400}:
            assert departures.rate(100.0 + number / 4) == pytest.approx(4.0, rel=0.15)


def test_a_change_is_followed_and_a_standstill_ends_in_nothing():
    departures = Departures(0.0)
    for number in range(1, 601):
        departures.add(number / 10)
    for number in range(1, 91):
        departures.add(60.0 + number)
    assert departures.rate(150.0) == pytest.approx(1.0, rel=0.5)
    assert departures.rate(150.0 + 10 * MEMORY_S) == 0


def test_one_departure_at_the_very_beginning_is_no_flood():
    departures = Departures(0.0)
    departures.add(0.0001)
    assert departures.rate(0.0001) <= 1.0


BATCH = SLA("batch", budget=0, queue_limit=100)


@pytest.mark.parametrize(
    ("sla", "rates", "seconds"),
    [
        (None, {"batch": 2.0, "report": 3.0}, 40 / 5),
        (BATCH, {"batch": 2.0, "report": 3.0}, 40 / 2),
        (BATCH, {"report": 10.0}, 60 + 100 / (0.05 * 10)),
        (BATCH, {"report": 0.1}, 300.0),
        (SLA("batch"), {"report": 10.0}, UNKNOWN_WAIT_S),
        (BATCH, {}, UNKNOWN_WAIT_S),
        (None, {"batch": 0.0}, UNKNOWN_WAIT_S),
    ],
)
def test_a_full_queue_has_room_when_the_runs_that_wait_have_left_at_the_rate_that_is_measured(sla, rates, seconds):
    assert room_in_s(40, sla, rates) == pytest.approx(seconds)
