"""A full fast path is looked through from time to time, not for each request, and no run is named that leaves."""

from __future__ import annotations

from types import SimpleNamespace

from offramp.paths.stays import LOOK_S_PER_RUN, Stays
from offramp.testing import FakeClock


class Fast:
    """Executing runs, each expected to take `expected_s`; counts how often all are looked through."""

    def __init__(self, clock, expected_s=100.0):
        self.clock = clock
        self.runs = {}
        self.looks = 0
        self.learning = SimpleNamespace(expected_s=lambda *_: expected_s)

    def add(self, name, tenant="", priority=0):
        record = SimpleNamespace(
            id=name, path="fast", pipeline="p", sla="c", budget_s=60.0, tenant=tenant, priority=priority
        )
        self.runs[name] = SimpleNamespace(
            record=record, state="running", began_on="fast", began=self.clock.monotonic(), waited_s=0.0
        )

    def all(self):
        self.looks += 1
        return list(self.runs.values())

    def get(self, name):
        return self.runs.get(name)

    def count(self, path):
        return len(self.runs)


def test_many_requests_share_a_look_and_none_is_given_a_run_that_leaves():
    clock = FakeClock()
    fast = Fast(clock)
    for number in range(100):
        fast.add(f"r{number}", tenant=f"t{number % 2}", priority=number % 2)
        clock.advance(0.5)
    stays = Stays(SimpleNamespace(clock=clock), fast)
    assert stays.leaver().run_id == "r98", "the newest of the lowest class"
    with stays.gives_way("r98"):
        assert stays.leaver().run_id == "r96"
        assert stays.staying() == 99
    fast.runs["r96"].state = "leaving"
    del fast.runs["r94"]
    assert stays.leaver().run_id == "r92"
    assert stays.leaves_in_s("t0") == 10.0
    assert stays.leaves_in_s() == 10.0
    assert stays.leaves_in_s("other") is None
    assert fast.looks == 1
    clock.advance(100 * LOOK_S_PER_RUN)
    assert stays.staying() == 98
    assert stays.leaver().run_id == "r98"
    assert fast.looks == 2
