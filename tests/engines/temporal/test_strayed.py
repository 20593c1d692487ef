"""A worker is killed and its body goes on in a process that orders sets otherwise, or has other code (kill -9, seeds).

The body is never given the answer to another call: it goes on where its journal fits, and ends with `divergence` else.
"""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

import httpx
import pytest

from tests import temporal
from tests.engines.temporal.test_kills import Place, assert_whole, events, outcome, submit
from tests.support import GUARD_S

APP = Path(__file__).with_name("unstable.py")
ONE, OTHER = {"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"}


class Embedded(Place):
    """The same processes over one SQLite file: what a run sees is the same there."""

    def _options(self):
        return ["--data", str(self.home / "data")]


@pytest.fixture(params=["temporal", "embedded"])
def place(request, tmp_path):
    made = Place(tmp_path, temporal.server()) if request.param == "temporal" else Embedded(tmp_path, None)
    made.app = APP
    return made


def wait_for_steps(gateway, run, number):
    """Wait until so many steps began for all to see: what was journaled before them is safe from a kill."""
    headers = {"Accept": "text/event-stream"}
    with httpx.stream("GET", f"{gateway.url}/v1/runs/{run}/events", headers=headers, timeout=GUARD_S) as stream:
        for line in stream.iter_lines():
            number -= line.startswith("data:") and json.loads(line[5:])["type"] == "step.started"
            if number == 0:
                return
    raise AssertionError(f"{run} ended before {number} more steps began")


def gone_on(place, pipeline, begun, step, *, one=ONE, other=OTHER, strays=True, steps=0):
    """The document of a run whose worker was killed in this step, and that another process goes on with."""
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(place.worker(**one))
        gateway = stack.enter_context(place.gateway())
        run = submit(gateway, pipeline, "t")
        begun(step)
        if steps:
            wait_for_steps(gateway, run, steps)
        worker.send(signal.SIGKILL)
        (place.home / "go").touch()
        next_worker = stack.enter_context(place.worker(**other))
        strays = strays and not isinstance(place, Embedded)
        if strays:
            next_worker.wait_for("restarts from its journal")
        document = outcome(gateway, run)
        seen = events(gateway, run)
        if not strays:
            next_worker.send(signal.SIGTERM)
            assert "restarts from its journal" not in next_worker.end()[2]
        return document, seen


def test_a_loop_over_a_set_is_given_no_other_customers_balance(place):
    document, seen = gone_on(place, "loops", lambda _: place.count(3), None, steps=4)
    assert (document["status"], document["error"]["code"]) == ("failed", "divergence"), document
    assert "the pipeline calls step 'balance' (balance:" in document["error"]["message"]
    assert "where its journal has step 'balance' (balance:" in document["error"]["message"]
    assert "the arguments differ" in document["error"]["message"]
    assert_whole(seen, end="run.failed")


def test_short_steps_of_a_loop_over_a_set_neither(place):
    document, _ = gone_on(place, "loops_shortly", place.reached, "t", steps=5)
    assert (document["status"], document["error"]["code"]) == ("failed", "divergence"), document
    assert "step 'short_balance' (short_balance:" in document["error"]["message"]


def test_a_prompt_that_a_deploy_changed_is_not_answered_with_the_old_answer(place):
    changed = ONE | {"PROMPT": "Say it at length"}
    document, _ = gone_on(place, "prompts", place.reached, "t", other=changed, steps=2)
    assert (document["status"], document["error"]["code"]) == ("failed", "divergence"), document
    assert "calls step 'ask' (ask:" in document["error"]["message"]
    assert "the arguments differ" in document["error"]["message"]


def test_branches_in_the_order_of_a_set_go_on_each_with_its_own(place):
    document, seen = gone_on(place, "draws", lambda _: place.count(6), None)
    assert document["status"] == "completed", document
    assert [line.split()[0] for line in document["result"]] == ["ada", "bob", "cleo", "dora", "emil", "fred"]
    for line in document["result"]:
        name = line.split()[0]
        assert line.startswith(f"{name} balance of {name} {name.upper()} ")
    assert len({line.split()[-1] for line in document["result"]}) == 1, "the drawn value changed on the way"
    assert_whole(seen)


def test_sleeps_in_the_order_of_a_set_are_the_ones_that_were_slept(place):
    document, seen = gone_on(place, "sleeps", place.reached, "t")
    assert document["status"] == "completed", document
    assert_whole(seen)
    began = [event["key"] for event in seen if event["type"] == "wait.started"]
    assert len(began) == len(set(began)) == 6


@pytest.mark.parametrize("place", ["temporal"], indirect=True)
def test_a_body_that_goes_on_in_a_second_history_is_matched_by_its_keys_too(place):
    document, seen = gone_on(place, "loops", lambda _: place.count(3), None, one=ONE | {"EVENTS_MAX": "14"})
    assert (document["status"], document["error"]["code"]) == ("failed", "divergence"), document
    assert "calls step 'balance' (balance:" in document["error"]["message"]
    begun = [event["replayed_steps"] for event in seen if event["type"] == "run.resumed"]
    assert begun[0] > 0, "it was to go on in a second history before it was killed"


def test_branches_that_come_as_they_end_repeat(place):
    document, seen = gone_on(place, "as_they_come", lambda _: place.count(6), None, strays=False)
    assert document["status"] == "completed", document
    for line in document["result"]:
        _, _, name, loud, told, token = line.split()
        assert (loud, told) == (name.upper(), token.upper())
    assert_whole(seen)
