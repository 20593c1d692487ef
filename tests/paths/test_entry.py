"""The functions that decide about a run's path, and what becomes of one that fails, is late or never returns."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from dataclasses import dataclass

import pytest

from offramp import SLA, App, RouteRequest, testing, wiring
from offramp.errors import DeclarationError
from offramp.paths.submission import Submission
from offramp.telemetry import names
from tests.support import Signal, eventually

LONG_S = 10.0
"""A time limit that a loaded machine does not reach."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    monkeypatch.setattr(wiring, "RULE_TIMEOUT_S", LONG_S)


USER = contextvars.ContextVar("user", default="nobody")


@dataclass
class Order:
    items: list[str]
    note: str = ""


def an_app(*rules, classifier=None, timeout=LONG_S):
    classes = [SLA("interactive", budget=60.0), SLA("batch", budget=0)]
    app = App("entry", classes=classes, classifier=classifier, classifier_timeout=timeout)
    for rule in rules:
        app.rule(rule)

    @app.pipeline(sla="interactive")
    async def buy(order: Order, count: int = 1) -> int:
        return count

    return app


def asking(**given):
    return Submission(pipeline="buy", input=b'{"order": {"items": ["tea"]}}', **given)


async def route_of(runtime, **given):
    decision = await runtime.service.decide(asking(**given))
    return decision.path, decision.by, decision.reasons


def counted(runtime):
    """How often functions answered and were passed over, by outcome."""
    metrics = [each for each in runtime.service.collectors if each.describe()[0].name == names.CLASSIFIER]
    samples = [sample for each in metrics for found in each.collect() for sample in found.samples]
    return {each.labels["outcome"]: each.value for each in samples if each.name.endswith("_total")}


async def test_the_first_rule_that_answers_decides_unless_client_or_class_did():
    seen = []

    async def passes(request: RouteRequest):
        seen.append(request)

    def decides(request: RouteRequest):
        return "deep", f"{len(request.input['order'].items)} items"

    def never(request: RouteRequest):
        raise AssertionError("the rule before it has answered")

    app = an_app(passes, decides, never, classifier=never)
    async with testing.runtime(app) as runtime:
        assert await route_of(runtime, session_id="s", metadata={"k": "v"}, tenant="t") == (
            "deep",
            "rule",
            ["1 items"],
        )
        assert await route_of(runtime, respond_async=True) == (
            "deep",
            "preference",
            ["the client asked for respond-async"],
        )
        assert (await route_of(runtime, budget=5.0))[:2] == ("fast", "preference")
        assert (await route_of(runtime, budget=0.0))[:2] == ("deep", "preference")
        assert (await route_of(runtime, sla="batch"))[:2] == ("deep", "class")
        handle = await runtime.submit(asking())
        document = await handle.document()
        accepted = await anext(aiter(handle))
        assert document["route"] == accepted.data["route"]
        assert document["route"] == {
            "path": "deep",
            "by": "rule",
            "reasons": ["1 items"],
            "predicted_ms": None,
            "confidence": 0,
        }
        assert counted(runtime) == {"none": 2, "answered": 2}
    whole = {"order": Order(["tea"]), "count": 1}
    assert seen[0] == RouteRequest("buy", whole, "s", {"k": "v"}, "interactive", 60.0, "t")


@pytest.mark.parametrize(
    ("answer", "path"), [(0.5, "fast"), (61, "deep"), (("deep", "new"), "deep"), ("fast", "fast"), (None, "fast")]
)
async def test_a_classifier_decides_where_no_rule_does(answer, path):
    async def classify(_request):
        return answer

    async with testing.runtime(an_app(lambda _request: None, classifier=classify)) as runtime:
        route = (await (await runtime.submit(asking())).document())["route"]
    assert (route["path"], route["by"]) == (path, "default" if answer is None else "classifier")
    seconds = answer if isinstance(answer, (int, float)) else None
    assert route["predicted_ms"] == (None if seconds is None else {"p50": seconds * 1000, "p95": None})


async def test_a_rule_cannot_put_a_run_on_a_full_fast_path():
    app, begun = an_app(lambda _request: ("fast", "small")), Signal()

    @app.step
    async def endless() -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    @app.pipeline(sla="interactive")
    async def pipe() -> None:
        await endless()

    async with testing.runtime(app, fast_runs=1) as runtime:
        held = await runtime.start("pipe")
        await begun.wait()
        decision = await runtime.service.decide(Submission(pipeline="pipe"))
        assert (decision.path, decision.by, decision.reasons[0]) == ("deep", "load", "small")
        assert "OFFRAMP_FAST_RUNS" in decision.reasons[1]
        await held.cancel()


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_one_that_raises_or_answers_nonsense_is_passed_over_without_a_value_in_the_log(kind, caplog):
    secret = "sk-12345"

    def raises(_request):
        raise ValueError(secret)

    def nonsense(_request):
        return secret

    async def raises_async(_request):
        raise SystemExit(secret)

    async def nonsense_async(_request):
        return {secret: 1}

    pair = (raises, nonsense) if kind == "plain" else (raises_async, nonsense_async)
    async with testing.runtime(an_app(*pair)) as runtime:
        for _ in range(3):
            assert (await route_of(runtime))[:2] == ("fast", "default")
        assert counted(runtime) == {"failed": 3, "invalid": 3}
    lines = [each.getMessage() for each in caplog.records if "was passed over" in each.getMessage()]
    assert len(lines) == 2, "each function is named once in a while"
    assert "test_entry.py, line" in lines[0]
    assert secret not in caplog.text


async def test_a_plain_function_that_does_not_return_is_late_then_skipped_and_asked_again_when_it_has_returned():
    released, entered = threading.Event(), []

    def hangs(_request):
        entered.append(1)
        released.wait()
        return "deep"

    async with testing.runtime(an_app(classifier=hangs, timeout=0.05)) as runtime:
        for _ in range(6):
            assert (await route_of(runtime))[:2] == ("fast", "default")
        assert counted(runtime) == {"late": 4, "skipped": 2}
        assert len(entered) == 4
        released.set()

        async def answers():
            return (await route_of(runtime))[1] == "classifier"

        await eventually(answers)


async def test_an_async_function_that_swallows_its_cancellation_is_skipped_until_it_ends():
    released, began = threading.Event(), threading.Semaphore(0)

    async def clings(_request):
        began.release()
        while not released.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        return "deep"

    async with testing.runtime(an_app(classifier=clings, timeout=0.05)) as runtime:
        for _ in range(6):
            assert (await route_of(runtime))[:2] == ("fast", "default")
        assert counted(runtime) == {"late": 4, "skipped": 2}
        released.set()

        async def answers():
            return (await route_of(runtime))[1] == "classifier"

        await eventually(answers)


async def test_functions_run_off_this_loop_in_an_empty_context():
    here, seen = threading.get_ident(), []

    def plain(_request):
        seen.append((threading.get_ident() != here, USER.get()))

    async def awaited(_request):
        await asyncio.sleep(0)
        seen.append((threading.get_ident() != here, USER.get()))

    USER.set("ann")
    async with testing.runtime(an_app(plain, awaited)) as runtime:
        await route_of(runtime)
    assert seen == [(True, "nobody")] * 2


class Judge:
    async def __call__(self, request):
        return "deep"


async def test_an_object_with_an_async_call_is_a_classifier():
    async with testing.runtime(an_app(classifier=Judge())) as runtime:
        assert (await route_of(runtime))[:2] == ("deep", "classifier")


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda app: app.rule(lambda: "fast"), "called with one argument"),
        (lambda app: app.rule("deep"), "a function that takes a RouteRequest"),
        (lambda _app: App("x", classifier=lambda a, b: 1), "called with one argument"),
        (lambda _app: App("x", classifier_timeout=0), "above 0 and at most 10"),
        (lambda _app: App("x", classifier_timeout=True), "above 0 and at most 10"),
        (lambda _app: App("x", classifier_timeout=float("nan")), "above 0 and at most 10"),
        (lambda app: app.pipelines["buy"].features(lambda order: {}), r"by name \(order, count\)"),
        (lambda app: app.pipelines["buy"].features(3), "a function of the pipeline's arguments"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(declare, message):
    with pytest.raises(DeclarationError, match=message):
        declare(an_app())


@pytest.mark.parametrize("asked", [{"respond_async": True}, {"budget": 0.0}, {"budget": 5.0}, {"sla": "batch"}])
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_path_that_client_or_class_decides_waits_for_no_features(kind, asked):
    app, release, calls = App("entry", classes=[SLA("batch", budget=0.0, early_demotion=0.05)]), Signal(), []

    @app.pipeline
    async def pipe() -> None:
        pass

    def plain():
        calls.append(1)
        release.block()
        return {"size": 1}

    async def coroutine():
        calls.append(1)
        await release.wait()
        return {"size": 1}

    app.pipelines["pipe"].features(plain if kind == "plain" else coroutine)
    async with testing.runtime(app) as runtime:
        submission = Submission(pipeline="pipe", **asked)
        try:
            handles = [await asyncio.wait_for(runtime.submit(submission), LONG_S / 2) for _ in range(3)]
            assert [(await handle.document())["route"]["by"] for handle in handles] == [
                "class" if "sla" in asked else "preference"
            ] * 3
            assert len(calls) <= (0 if "sla" in asked else 1), "a late call does not bring more of them"
        finally:
            release.set()


async def test_a_pipeline_with_a_budget_in_a_class_without_one_is_compared_with_others():
    app = App("entry", classes=[SLA("batch", budget=0.0)])

    @app.pipeline(sla="batch", budget=5.0)
    async def pipe() -> None:
        pass

    @pipe.features
    def size():
        return {"size": 1}

    async with testing.runtime(app) as runtime:
        handle = await runtime.submit(Submission(pipeline="pipe"))
        assert (await runtime.service.get(handle.id)).seen.own == {"size": 1}
