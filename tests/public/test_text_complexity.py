"""`offramp.text_complexity`: what it says of a request, and that its weights are those of the labelled requests."""

from __future__ import annotations

import json

import pytest

import offramp
from offramp import SLA, App, RouteRequest, testing
from offramp.complexity import WEIGHTS
from offramp.errors import DeclarationError
from offramp.paths.submission import Submission
from tests.paths.taught import pasts, teach
from tools import train_text_complexity as trainer

WEIGHTS_BYTES_MAX = 50_000
SIMPLE = "Who wrote Hamlet?"
COMPLEX = (
    "Find the three cheapest flights from Oslo to Rome, compare them with the train, then book the best one and also "
    "send the translated booking to Ada."
)


def request(**given):
    return RouteRequest("ask", given, None, {}, "default", 6.0, "")


def test_a_simple_request_goes_fast_and_a_complex_one_deep_with_reasons_to_check():
    classify = offramp.text_complexity("question")
    path, reason = classify(request(question=SIMPLE))
    assert path == "fast"
    assert "'question' asks for one answer" in reason
    path, reason = classify(request(question=COMPLEX))
    assert path == "deep"
    assert "'question' asks for several steps: probability of several steps 0.9" in reason
    assert "joined actions" in reason
    assert "Oslo" not in reason


@pytest.mark.parametrize(
    "value", [None, 7, ["text"], "", " \n", "?!", "12 + 30", "请先查找航班,然后预订酒店", "найди рейсы и забронируй"]
)
def test_what_it_cannot_judge_it_passes_over(value):
    assert offramp.text_complexity("question")(request(question=value)) is None
    assert offramp.text_complexity("question")(request(other=SIMPLE)) is None


def test_the_threshold_says_from_where_on_a_request_goes_deep():
    assert offramp.text_complexity("q", threshold=0.001)(request(q=SIMPLE))[0] == "deep"
    assert offramp.text_complexity("q", threshold=0.9999)(request(q=COMPLEX))[0] == "fast"


@pytest.mark.parametrize("field", ["", "two words", 3, None])
def test_a_field_that_no_pipeline_can_have_is_refused(field):
    with pytest.raises(DeclarationError, match="name of an input field, such as 'question'"):
        offramp.text_complexity(field)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1, True, "0.5", float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(DeclarationError, match="above 0 and below 1"):
        offramp.text_complexity("q", threshold=threshold)


@pytest.mark.parametrize("until", [0, -1, True, 2.5, "200"])
def test_a_number_of_runs_out_of_range_is_refused(until):
    with pytest.raises(DeclarationError, match="a number of runs, 1 or more, or None"):
        offramp.text_complexity("q", until=until)


async def test_requests_are_left_to_the_learned_estimate_once_it_rests_on_enough_runs():
    app = App("desk", classes=[SLA("chat", budget=8.0)], classifier=offramp.text_complexity("question", until=40))

    @app.pipeline(sla="chat")
    async def answer(question: str) -> str:
        return question

    async with testing.runtime(app) as runtime:
        submission = Submission(pipeline="answer", input=json.dumps({"question": COMPLEX}).encode())
        assert (await runtime.service.decide(submission)).by == "classifier"
        await teach(runtime.service, "answer", "chat", pasts("", 1.0, 40))
        decision = await runtime.service.decide(submission)
        assert (decision.path, decision.by, decision.confidence) == ("fast", "default", 40)


def test_the_trainer_reproduces_the_weights_that_ship():
    shipped = trainer.WEIGHTS.read_text(encoding="utf-8")
    assert trainer.WEIGHTS.name == WEIGHTS
    assert shipped == trainer.document()
    assert len(shipped) < WEIGHTS_BYTES_MAX
    content = json.loads(shipped)
    assert all(source["licence"] for source in content["sources"].values())
    assert min(each["weight"] for each in content["features"].values()) > 0


@pytest.mark.parametrize(("family", "plain"), [("qa", 0.70), ("taskbench", 0.86), ("bfcl", 0.83)])
def test_on_a_family_that_it_never_saw_it_ranks_better_than_plain_counts(family, plain):
    _, requests = trainer.read()
    rows = [(trainer.values(request.text), request) for request in requests]
    seen = [(row, request.complex) for row, request in rows if request.family != family]
    fitted = trainer.fit(*zip(*seen, strict=True))
    unseen = [(fitted.odds(row), request.complex) for row, request in rows if request.family == family]
    assert trainer.auc(*zip(*unseen, strict=True)) > plain + 0.05
