"""What a process counts of its calls, whatever gives the permits."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from offramp.limits.counted import CountedLimits
from offramp.ports.limits import Ask, BreakerLevel, Done, Granted, Level, Limits, Refused, WaitingClass, WindowLevel
from offramp.telemetry.metrics import Metrics


class Answers(Limits):
    """Gives the answers it is made with, and notes every other call."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.calls = []
        self.report = None

    def ask(self, ask, notify):
        notify(self._answers.pop(0))

    def withdraw(self, permit_id):
        self.calls.append(("withdraw", permit_id))

    def done(self, permit_id, done):
        self.calls.append(("done", permit_id, done.how))

    def watch(self, notify):
        self.report = notify


@pytest.fixture
def made():
    metrics, registry = Metrics(), CollectorRegistry()
    for each in metrics.collectors:
        registry.register(each)

    def value(name, **labels):
        return registry.get_sample_value(f"offramp_{name}", labels)

    return metrics, value


def test_a_call_is_counted_once_with_its_wait_and_tokens(made):
    metrics, value = made
    answers = Answers(Granted(waited_s=2.0))
    limits, got = CountedLimits(answers, metrics), []
    limits.ask(Ask(id="1", resource="openai", sla="batch"), got.append)
    limits.done("1", Done(how="ok", tokens=70))
    limits.done("1", Done(how="ok", tokens=70))
    assert got == [Granted(waited_s=2.0)]
    assert value("resource_wait_seconds_sum", resource="openai", **{"class": "batch"}) == 2.0
    assert value("resource_calls_total", resource="openai", outcome="ok") == 1
    assert value("resource_tokens_total", resource="openai") == 70
    assert answers.calls == [("done", "1", "ok")] * 2


@pytest.mark.parametrize(("how", "throttled"), [("throttled", 1), ("exhausted", 1), ("failed", None)])
def test_what_the_provider_refuses_is_throttled(made, how, throttled):
    metrics, value = made
    limits = CountedLimits(Answers(Granted()), metrics)
    limits.ask(Ask(id="1", resource="openai"), lambda _answer: None)
    limits.done("1", Done(how=how))
    assert value("resource_calls_total", resource="openai", outcome=how) == 1
    assert value("resource_throttled_total", resource="openai") == throttled


def test_a_call_that_was_not_made_does_not_count(made):
    metrics, value = made
    answers = Answers(Granted(), Granted(), Refused("busy", "openai: 3 calls wait"))
    limits = CountedLimits(answers, metrics)
    for name in "123":
        limits.ask(Ask(id=name, resource="openai"), lambda _answer: None)
    limits.withdraw("1")
    limits.done("1", Done())
    limits.done("2", Done(how="unused"))
    limits.done("3", Done())
    assert all(value("resource_calls_total", resource="openai", outcome=how) is None for how in ("ok", "unused"))
    assert answers.calls == [("withdraw", "1"), ("done", "1", "ok"), ("done", "2", "unused"), ("done", "3", "ok")]


def test_gauges_show_the_resources_of_all_processes(made):
    metrics, value = made
    answers = Answers()
    CountedLimits(answers, metrics)
    window = WindowLevel("500/min", "calls", 375.0, 12)
    level = Level(
        name="openai",
        in_use=3,
        concurrency=20,
        windows=(window,),
        waiting={"batch": WaitingClass(7, 3.5)},
        scale=0.75,
        breaker=BreakerLevel("open"),
    )
    answers.report([level])
    assert value("resource_in_use", resource="openai") == 3
    assert value("resource_limit", resource="openai", limit="concurrency") == 20
    assert value("resource_limit", resource="openai", limit="500/min calls") == 375
    assert value("resource_scale", resource="openai") == 0.75
    assert value("resource_waiting", resource="openai", **{"class": "batch"}) == 7
    assert value("breaker_state", resource="openai", state="open") == 1
    assert value("breaker_state", resource="openai", state="closed") == 0
    answers.report([Level(name="openai", in_use=0, concurrency=20)])
    assert value("resource_waiting", resource="openai", **{"class": "batch"}) == 0
