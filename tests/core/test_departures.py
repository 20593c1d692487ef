from __future__ import annotations

import pytest

from offramp.core.departures import MEMORY_S, Departures


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
    assert departures.rate(150.0 + 10 * MEMORY_S) < 0.001


def test_one_departure_at_the_very_beginning_is_no_flood():
    departures = Departures(0.0)
    departures.add(0.0001)
    assert departures.rate(0.0001) <= 1.0
