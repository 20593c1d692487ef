"""The decisions of routing and their outcomes, from counts that add up."""

from __future__ import annotations

import pytest

from offramp.core import figures
from offramp.core.blocks import BLOCKS_KEPT
from offramp.core.figures import BLOCK_MINUTES, Figures
from offramp.core.run import Demotion, Route
from tests.support import NOW, a_record

FAST, LEARNED = Route("fast", []), Route("deep", [], by="learned")


def demoted(reason, by="", elapsed_ms=1500.0):
    return {"route": FAST, "path": "deep", "demotion": Demotion(reason, NOW, elapsed_ms, 6000.0, by=by)}


@pytest.mark.parametrize(
    ("changes", "fate"),
    [
        ({"route": FAST, "path": "fast"}, "fast"),
        (demoted("budget"), "fast"),
        (demoted("budget", "control"), "fast"),
        (demoted("predicted", "belief"), "early"),
        ({"route": LEARNED, "path": "deep"}, "deep"),
        # Something else decided, or cut short what the router decided.
        (demoted("predicted", "wait"), None),
        (demoted("disconnect"), None),
        (demoted("drain", "control"), None),
        (demoted("overload"), None),
        ({"route": FAST, "path": "deep"}, None),  # its process died
        ({"route": Route("deep", [], by="preference"), "path": "deep"}, None),
        ({"route": Route("deep", [], by="rule"), "path": "deep"}, None),
    ],
)
def test_only_what_the_router_decided_counts(changes, fate):
    assert figures.fate_of(a_record(**changes)) == fate


def test_the_figures_of_what_was_decided():
    counts = Figures()
    for changes, made, chance, times in [
        ({"route": FAST, "path": "fast"}, True, 0.95, 6),
        (demoted("budget", elapsed_ms=6000.0), False, 0.95, 2),
        (demoted("predicted", "belief"), False, 0.25, 3),
        (demoted("predicted", "belief"), True, 0.28, 1),
        ({"route": LEARNED, "path": "deep"}, False, 0.0, 4),
        ({"route": LEARNED, "path": "deep"}, True, 0.0, 1),
    ]:
        for _ in range(times):
            record = a_record(**changes)
            counts.count(figures.counts_of(record, figures.fate_of(record), chance, made=made), NOW)
    sums = counts.sums()
    assert figures.decided(sums) == {
        "runs": 17,
        "right": 13,
        "share_right": round(13 / 17, 4),
        "fast": {"made": 6, "missed": 2},
        "early": {"made": 1, "missed": 3},
        "deep": {"made": 1, "missed": 4},
    }
    assert figures.short_deep(sums) == 2
    assert sums["waited_s"] == 2 * 6.0 + 4 * 1.5
    rows = figures.calibration(sums)
    assert [row["runs"] for row in rows] == [5, 0, 4, 0, 0, 0, 0, 0, 0, 8]
    assert rows[2] == {"from": 0.2, "to": 0.3, "runs": 4, "predicted": 0.2575, "made": 0.25}
    assert rows[1] == {"from": 0.1, "to": 0.2, "runs": 0, "predicted": None, "made": None}
    assert rows[9]["made"] == 0.75
    assert figures.decided({}) is None


def test_a_certain_chance_is_in_the_last_tenth():
    counts = figures.counts_of(a_record(route=FAST, path="fast"), "fast", 1.0, made=True)
    assert figures.calibration(counts)[-1]["runs"] == 1


def test_old_blocks_count_no_more():
    shared = Figures()
    minutes = [number * BLOCK_MINUTES for number in range(BLOCKS_KEPT + 2)]
    shared.replace({minute: {"figures": {"fast:made": 1.0}, "another": {"x": 1.0}} for minute in minutes})
    assert shared.sums() == {"fast:made": BLOCKS_KEPT}
    assert shared.expired() == minutes[:2]
