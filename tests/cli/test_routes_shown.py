"""What `offramp routes` prints, from rows of every kind, and that a terminal of 80 columns has room for it."""

from __future__ import annotations

from offramp.cli.routes_shown import WIDTH, believed, replayed
from offramp.cli.runs import facts

ROW = {
    "pipeline": "research",
    "class": "interactive",
    "budget_s": 6.0,
    "early_demotion": 0.05,
    "believed": {"p50_ms": 7400.0, "p95_ms": 31_000.0, "chance": 0.31, "runs": 412},
    "decided": {
        "runs": 400,
        "right": 350,
        "share_right": 0.875,
        "fast": {"made": 120, "missed": 30},
        "early": {"made": 3, "missed": 117},
        "deep": {"made": 4, "missed": 126},
    },
    "waited_s": 183.2,
    "short_deep": 7,
    "wrong": {"share": 0.041, "good": 170, "demoted": 250, "wrong": 7.0, "controls": 13},
    "calibration": [
        {"from": 0.0, "to": 0.1, "runs": 212, "predicted": 0.04, "made": 0.05},
        {"from": 0.1, "to": 0.2, "runs": 0, "predicted": None, "made": None},
    ],
}
UNKNOWN = ROW | {
    "class": "batch",
    "believed": None,
    "decided": None,
    "waited_s": 0.0,
    "short_deep": 0,
    "wrong": {"share": None, "good": 0, "demoted": 0, "wrong": 0.0, "controls": 0},
    "calibration": [{"from": 0.0, "to": 0.1, "runs": 0, "predicted": None, "made": None}],
}
SHOWN = """\
research (interactive): budget 6 s, early demotion 5%
  believed     half take 7.4 s, 95% at most 31.0 s;
               31% make the budget, from 412 runs
  right        87.5% of 400 runs; by where they were and their budget:
                        runs    within it      past it
  stayed fast            150          120           30
  left early             120            3          117
  sent deep              130            4          126
  waited       3 min 03 s for nothing, all clients together
  short deep   7 that would have made the budget
  wrong        4.1% of 170 that make it;
               measured with 13 controls
  chance                runs    predicted      made it
  0 to 10%               212           4%           5%

research (batch): budget 6 s, early demotion 5%
  believed     nothing yet"""


def test_every_figure_has_its_line():
    assert "\n".join(believed([ROW, UNKNOWN])) == SHOWN


def test_a_class_without_a_budget_shows_no_share_of_it():
    shown = "\n".join(believed([ROW | {"budget_s": 0.0}]))
    assert "make the budget, " not in shown
    assert "that make it" not in shown
    assert "where they were and own budgets" in shown


def test_a_replay_compares_three_ways_of_routing():
    policy = {"right": 14, "share_right": 0.14, "waited_s": 7380.0, "short_deep": 0}
    row = {
        "pipeline": "ask",
        "class": "default",
        "runs": 1,
        "budget_s": 4.0,
        "early_demotion": 0.05,
        "always_fast": policy,
        "always_deep": {"right": 86, "share_right": 0.86, "waited_s": 0.0, "short_deep": 193},
        "learned": {"right": 90, "share_right": 0.9, "waited_s": 3600.0, "short_deep": 8, "wrong_share": 0.0415},
    }
    lines = list(replayed([row], skipped=1))
    assert lines[0] == "ask (default): budget 4 s, early demotion 5%, 1 run"
    assert [line.split()[0] for line in lines[2:5]] == ["always", "always", "learned"]
    assert lines[4].split()[1:] == ["90%", "60", "min", "00", "s", "8", "4.15%"]
    assert lines[-1] == "1 line skipped: not completed, or a retry"


def test_large_figures_and_long_names_fit_a_terminal():
    long = ROW | {"pipeline": "p" * 100, "class": "c" * 100, "waited_s": 1e9, "short_deep": 10**9}
    long["decided"] = ROW["decided"] | {"runs": 10**7, "deep": {"made": 999_999, "missed": 999_999}}
    long["believed"] = {"p50_ms": 5_999_999.0, "p95_ms": 5_999_999.0, "chance": 0.9999, "runs": 10**9}
    assert max(map(len, believed([long]))) <= WIDTH


def test_a_run_that_left_early_is_shown_with_the_reasons():
    reasons = ["9 of the last 9 runs like this took longer than 6 s", "its chance was 2%"]
    demotion = {"reason": "predicted", "elapsed_ms": 500.0, "budget_ms": 6000.0, "reasons": reasons}
    found = facts({"id": "run_1", "pipeline": "ask", "status": "queued", "path": "deep", "demotion": demotion})
    place = found.index(("demoted", "after 500 ms (predicted, budget 6.0 s)"))
    assert [text for _, text in found[place + 1 : place + 3]] == reasons
